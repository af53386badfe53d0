//! The conntrack netlink socket: dump what goes to a port, delete one entry.
//!
//! Owns: the wire. Must not: judge. The kernel filters by port (Linux 5.8), so that a huge table costs no copying;
//! an older one ignores the filter, so each entry is looked at here again.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mailsteer_core::model::Family;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as KernelAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{ConntrackError, Entry};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const NESTED: u16 = 0x8000;
/// Which parts of the original tuple the filter compares: the protocol's number and the destination port.
const FILTER_PROTO_NUM_AND_PORT: u32 = (1 << 3) | (1 << 5);
/// As large as a netlink datagram of a dump gets.
const BUFFER: usize = 64 << 10;
const ANSWER_SECONDS: i64 = 5;

pub(super) struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Connection {
    pub(super) fn open() -> Result<Self, ConntrackError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&KernelAddr::new(0, 0))?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| error("opening", source))?;
        Ok(Self { socket, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Every TCP entry whose original destination has this port.
    pub(super) fn going_to(&mut self, family: Family, port: u16) -> Result<Vec<Entry>, ConntrackError> {
        let request = to_port_request(port);
        let mut found = Vec::new();
        self.exchange("reading", family, request, NLM_F_DUMP, |attributes| {
            found.extend(entry(&attributes).filter(|entry| entry.destination.port() == port));
        })?;
        Ok(found)
    }

    /// Deletes one entry; says whether it was still there.
    pub(super) fn delete(&mut self, entry: &Entry) -> Result<bool, ConntrackError> {
        let ends = vec![
            IPTuple::SourceAddress(entry.source.ip()),
            IPTuple::DestinationAddress(entry.destination.ip()),
        ];
        let ports = vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(entry.source.port()),
            ProtoTuple::DestinationPort(entry.destination.port()),
        ];
        let mut attributes =
            vec![ConntrackAttribute::CtaTupleOrig(vec![Tuple::Ip(ends), Tuple::Proto(ports)])];
        let raw = |kind, bytes: &[u8]| ConntrackAttribute::Other(DefaultNla::new(kind, bytes.to_vec()));
        attributes.extend(entry.id.map(|id| raw(CTA_ID, &id)));
        attributes.extend(entry.zone.map(|zone| raw(CTA_ZONE, &zone)));
        let request = ConntrackMessage::Delete(attributes);
        match self.exchange("deleting", entry.family(), request, NLM_F_ACK, |_| {}) {
            Ok(()) => Ok(true),
            Err(ConntrackError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn exchange(
        &mut self,
        what: &'static str,
        family: Family,
        request: ConntrackMessage,
        flags: u16,
        mut each: impl FnMut(Vec<ConntrackAttribute>),
    ) -> Result<(), ConntrackError> {
        self.sequence += 1;
        self.send(family, request, flags).map_err(|source| error(what, source))?;
        loop {
            let size =
                self.socket.recv(&mut &mut self.buffer[..], 0).map_err(|source| error(what, source))?;
            let mut rest = &self.buffer[..size.min(BUFFER)];
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(ConntrackError::Answer)?;
                let length = (message.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(NetfilterMessage {
                        inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                        ..
                    }) => each(attributes),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(answer) => return Err(error(what, answer.to_io())),
                    _ => {}
                }
            }
        }
    }

    fn send(&self, family: Family, request: ConntrackMessage, flags: u16) -> io::Result<()> {
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }
}

/// Built of plain attributes: the kernel insists on the flag for nesting, which the crate leaves away from
/// attributes that it does not know.
fn to_port_request(port: u16) -> ConntrackMessage {
    let proto = Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Tcp), ProtoTuple::DestinationPort(port)]);
    let mut tuple = vec![0; proto.buffer_len()];
    proto.emit(&mut tuple);
    let mut filter = Vec::with_capacity(8);
    filter.extend(8_u16.to_ne_bytes());
    filter.extend(CTA_FILTER_ORIG_FLAGS.to_ne_bytes());
    filter.extend(FILTER_PROTO_NUM_AND_PORT.to_ne_bytes());
    ConntrackMessage::Other {
        message_type: ConntrackMessageType::Get.into(),
        attributes: vec![
            DefaultNla::new(CTA_TUPLE_ORIG | NESTED, tuple),
            DefaultNla::new(CTA_FILTER | NESTED, filter),
        ],
    }
}

fn error(what: &'static str, source: io::Error) -> ConntrackError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ConntrackError::NotPermitted(source),
        _ => ConntrackError::Kernel { what, source },
    }
}

/// `None` for what is not TCP.
fn entry(attributes: &[ConntrackAttribute]) -> Option<Entry> {
    let mut original = None;
    let mut leaves_from = None;
    let (mut mark, mut id, mut zone) = (0, None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => leaves_from = ends(tuple).map(|(_, to)| to.ip()),
            ConntrackAttribute::CtaMark(value) => mark = *value,
            ConntrackAttribute::Other(other) => {
                let mut value = vec![0; other.value_len()];
                other.emit_value(&mut value);
                match other.kind() {
                    CTA_ID => id = value.try_into().ok(),
                    CTA_ZONE => zone = value.try_into().ok(),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let (source, destination) = original?;
    Some(Entry { source, destination, leaves_from: leaves_from?, mark, id, zone })
}

fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut from, mut to): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut tcp, mut from_port, mut to_port) = (false, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => from = Some(*address),
                        IPTuple::DestinationAddress(address) => to = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(protocol) => tcp = *protocol == Protocol::Tcp,
                        ProtoTuple::SourcePort(port) => from_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => to_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    tcp.then_some(())?;
    Some(((from?, from_port?).into(), (to?, to_port?).into()))
}
