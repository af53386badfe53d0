//! Filters of the clsact qdisc, by rtnetlink: how a program stands at an interface before kernel 6.6 (tcx).
//!
//! Owns: the words of that dialogue, and by which priority and handles our filters are known. Must not: know which
//! program goes where, or note anything: a filter belongs to the kernel, lives without us, and is found again by its
//! handle. Written on the socket itself: the library's own filters leave with the process that dropped them. Blocking,
//! as bpf(2) is: the kernel answers while it is asked.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// All our filters have the first priority; within it the kernel asks the latest first.
const PRIORITY: u32 = 1;
const QDISC: &str = "clsact";
const DONE: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// `struct tcmsg`, which comes before the attributes.
const HEADER: usize = 20;
/// How often a disturbed dump is repeated.
const ATTEMPTS: usize = 8;

/// Which way packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Ingress,
    Egress,
}

impl Side {
    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { minor, ..TcHandle::CLSACT }
    }
}

/// Where a filter of ours is, or is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub(super) ifindex: u32,
    pub(super) side: Side,
    /// Its handle: ours are told from others' by it.
    pub(super) handle: u32,
}

/// Adds the qdisc to an interface; whether it was not there before.
pub(super) fn add_qdisc(ifindex: u32) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex)?);
    match ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the qdisc off, unless a filter is left.
pub(super) fn remove_empty_qdisc(ifindex: u32) -> io::Result<()> {
    for side in [Side::Ingress, Side::Egress] {
        if !filters(ifindex, side)?.is_empty() {
            return Ok(());
        }
    }
    absent_is_fine(ask(RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex)?), NLM_F_ACK))
}

/// Puts a program before all others of our priority.
pub(super) fn create(spot: Spot, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let message = with_program(spot, program, name)?;
    ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Puts another program in the place of one that stands, without a gap.
pub(super) fn replace(spot: Spot, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    ask(with_program(spot, program, name)?, NLM_F_ACK).map(drop)
}

/// Takes a filter away; nothing where there is none.
pub(super) fn remove(spot: Spot) -> io::Result<()> {
    if !filters(spot.ifindex, spot.side)?.contains(&spot.handle) {
        return Ok(());
    }
    absent_is_fine(ask(RouteNetlinkMessage::DelTrafficFilter(filter(spot)?), NLM_F_ACK))
}

/// The handles of all filters that packets meet on their way, in the order in which they are asked. None where there
/// is no such interface or no clsact. Strangers' handles mean nothing: they are there for their place.
pub(super) fn filters(ifindex: u32, side: Side) -> io::Result<Vec<u32>> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.parent = side.parent();
    for _ in 0..ATTEMPTS {
        let dump = ask(RouteNetlinkMessage::GetTrafficFilter(message.clone()), NLM_F_DUMP)?;
        if let Some(filters) = dump {
            return Ok(filters);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINTR))
}

fn index(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(io::Error::other)
}

fn qdisc(ifindex: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.handle = TcHandle { minor: 0, ..TcHandle::CLSACT };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind(QDISC.to_owned()));
    Ok(message)
}

fn filter(spot: Spot) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(spot.ifindex)?);
    message.header.parent = spot.side.parent();
    message.header.handle = spot.handle.into();
    message.header.info = PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    Ok(message)
}

fn with_program(spot: Spot, program: BorrowedFd<'_>, name: &str) -> io::Result<RouteNetlinkMessage> {
    let mut message = filter(spot)?;
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(format!("mailsteer_{name}")),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()));
    Ok(RouteNetlinkMessage::NewTrafficFilter(message))
}

/// The qdisc, its filters or the whole interface went meanwhile: what was wanted is so.
fn absent_is_fine<T>(answer: io::Result<T>) -> io::Result<()> {
    match answer {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}

/// One request and its answer: the filters of a dump, `None` where somebody changed them meanwhile.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<Vec<u32>>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    let mut steady = true;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            steady &= message.flags() & NLM_F_DUMP_INTR == 0;
            match message.message_type() {
                DONE => return Ok(steady.then_some(found)),
                ERROR => return status(message.payload()).map(|()| Some(found)),
                _ => found.extend(handle_of(message.payload())),
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn status(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// The handle in a message of a dump; `None` for what describes a whole priority, or a chain that packets come to
/// only when a filter sends them there. Attributes of strangers' filters are not interpreted.
fn handle_of(payload: &[u8]) -> Option<u32> {
    const HANDLE: std::ops::Range<usize> = 8..12;
    const TCA_CHAIN: u16 = 11;
    let handle = u32::from_ne_bytes(payload.get(HANDLE)?.try_into().ok()?);
    let elsewhere = NlasIterator::new(payload.get(HEADER..)?)
        .filter_map(Result::ok)
        .any(|attribute| attribute.kind() == TCA_CHAIN && attribute.value() != [0; 4]);
    (handle != 0 && !elsewhere).then_some(handle)
}
