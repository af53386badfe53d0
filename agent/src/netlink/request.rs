//! One request, one answer: dumps that notice when they were disturbed, and changes that are acknowledged.
//!
//! Owns: the connection and its task. Must not: interpret attributes. Written on the connection itself rather than
//! on the crate's request types, which drop the header and with it the flag that says a dump is inconsistent.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use mailsteer_core::model::Family;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::{NetError, PROTOCOL};

/// How long the kernel may take: it answers in microseconds, unless the namespace is being torn down.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a disturbed dump is repeated.
const ATTEMPTS: usize = 8;

/// An rtnetlink connection of this network namespace; its task ends with it.
#[derive(Debug)]
pub struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Connection {
    /// Opens it, with strict checks, so that the kernel refuses filters that it does not understand instead of
    /// ignoring them.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|source| NetError::of("opening rtnetlink", source))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// What requests are sent through.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every interface.
///
/// # Errors
/// When the kernel refuses or keeps changing.
pub async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, NetError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let pick = |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    };
    dump(handle, "reading interfaces", request, pick).await
}

/// Every address, of one interface where a number is given.
///
/// # Errors
/// When the kernel refuses or keeps changing.
pub async fn addresses(handle: &Handle, ifindex: Option<u32>) -> Result<Vec<AddressMessage>, NetError> {
    let mut request = AddressMessage::default();
    request.header.index = ifindex.unwrap_or(0);
    let pick = |message| match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    };
    dump(handle, "reading addresses", RouteNetlinkMessage::GetAddress(request), pick).await
}

/// Whether an address is one of this host's, in one small question: a list of a thousand addresses takes the kernel
/// and us milliseconds.
///
/// # Errors
/// When the kernel refuses for another reason than that it knows no way there.
pub async fn is_local(handle: &Handle, address: IpAddr) -> Result<bool, NetError> {
    let mut request = RouteMessage::default();
    let (family, length) = match address {
        IpAddr::V4(_) => (Family::V4, 32),
        IpAddr::V6(_) => (Family::V6, 128),
    };
    request.header.address_family = address_family(family);
    request.header.destination_prefix_length = length;
    request.attributes.push(RouteAttribute::Destination(address.into()));
    let what = format!("looking for {address}");
    match exchange(handle, &what, RouteNetlinkMessage::GetRoute(request), 0).await {
        Ok(answer) => Ok(answer.messages.iter().any(
            |message| matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local),
        )),
        // A host without a way there has no such address.
        Err(error) if error.errno().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every route of a family; only ours, on request.
///
/// # Errors
/// When the kernel refuses or keeps changing.
pub async fn routes(handle: &Handle, family: Family, ours: bool) -> Result<Vec<RouteMessage>, NetError> {
    let mut request = RouteMessage::default();
    request.header.address_family = address_family(family);
    if ours {
        request.header.protocol = RouteProtocol::from(PROTOCOL);
    }
    let pick = |message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    };
    dump(handle, "reading routes", RouteNetlinkMessage::GetRoute(request), pick).await
}

/// Every policy routing rule of a family.
///
/// # Errors
/// When the kernel refuses or keeps changing.
pub async fn rules(handle: &Handle, family: Family) -> Result<Vec<RuleMessage>, NetError> {
    let mut request = RuleMessage::default();
    request.header.family = address_family(family);
    let pick = |message| match message {
        RouteNetlinkMessage::NewRule(rule) => Some(rule),
        _ => None,
    };
    dump(handle, "reading rules", RouteNetlinkMessage::GetRule(request), pick).await
}

/// Asks for a change and waits for the kernel's word; `flags` beyond request and acknowledgement.
///
/// # Errors
/// When the kernel refuses.
pub async fn change(
    handle: &Handle,
    what: &str,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<(), NetError> {
    exchange(handle, what, message, NLM_F_ACK | flags).await.map(|_| ())
}

pub(super) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

async fn dump<T>(
    handle: &Handle,
    what: &str,
    request: RouteNetlinkMessage,
    pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>, NetError> {
    for _ in 0..ATTEMPTS {
        let answer = exchange(handle, what, request.clone(), NLM_F_DUMP).await?;
        if answer.steady {
            return Ok(answer.messages.into_iter().filter_map(&pick).collect());
        }
    }
    Err(NetError::Unsteady { what: what.to_owned() })
}

struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// Nothing changed while the kernel wrote it.
    steady: bool,
}

async fn exchange(
    handle: &Handle,
    what: &str,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Answer, NetError> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    let stream = handle.clone().request(request).map_err(|_| NetError::Closed { what: what.to_owned() })?;
    tokio::time::timeout(ANSWER, collect(what, stream))
        .await
        .map_err(|_| NetError::Timeout { what: what.to_owned() })?
}

async fn collect(
    what: &str,
    stream: impl futures_util::Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
) -> Result<Answer, NetError> {
    let mut stream = std::pin::pin!(stream);
    let mut answer = Answer { messages: Vec::new(), steady: true };
    while let Some(message) = stream.next().await {
        answer.steady &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answer.messages.push(inner),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(NetError::of(what, error.to_io()));
            }
            NetlinkPayload::Overrun(_) => {
                return Err(NetError::of(what, io::Error::from_raw_os_error(libc::ENOBUFS)));
            }
            _ => {}
        }
    }
    Ok(answer)
}
