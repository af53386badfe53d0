//! The conntrack netlink socket: dump what goes to a port, delete one entry.
//!
//! Owns: the wire. Must not: judge. The kernel filters by port (Linux 5.8), so that a huge table costs no copying;
//! an older one ignores the filter, so each entry is looked at here again.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mailsteer_core::model::Family;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as KernelAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{ConntrackError, Entry};
use crate::nftnl::{NFGEN, NLMSG_DONE, NLMSG_ERROR, attributes, frames, u32_be};

/// What an entry comes in: subsystem conntrack, `IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 1 << 8;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_MARK: u16 = 8;
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
        self.exchange("reading", family, request, NLM_F_DUMP, |message| {
            found.extend(entry(message).filter(|entry| entry.destination.port() == port));
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
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ConntrackError> {
        self.sequence += 1;
        self.send(family, request, flags).map_err(|source| error(what, source))?;
        loop {
            let size =
                self.socket.recv(&mut &mut self.buffer[..], 0).map_err(|source| error(what, source))?;
            if let Some(answer) = take(&self.buffer[..size.min(BUFFER)], self.sequence, &mut each)? {
                return answer.map_err(|source| error(what, source));
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

/// Hands on the messages of a datagram that answer a request, and says how it ended; `None`: more is to come.
pub(crate) fn take(
    datagram: &[u8],
    sequence: u32,
    each: &mut impl FnMut(&[u8]),
) -> Result<Option<io::Result<()>>, ConntrackError> {
    for frame in frames(datagram) {
        let frame = frame.map_err(ConntrackError::Answer)?;
        if frame.sequence != sequence {
            continue;
        }
        match frame.kind {
            NLMSG_DONE => return Ok(Some(Ok(()))),
            NLMSG_ERROR => {
                let code = frame.error().map_err(ConntrackError::Answer)?;
                let refused = || io::Error::from_raw_os_error(code.wrapping_neg());
                return Ok(Some(if code == 0 { Ok(()) } else { Err(refused()) }));
            }
            NEW => frame.payload.get(NFGEN..).into_iter().for_each(&mut *each),
            _ => {}
        }
    }
    Ok(None)
}

/// What a message says of an entry; `None` for what is not TCP. Read by hand, for the library's reader panics at
/// attributes that are shorter than they say.
pub(crate) fn entry(message: &[u8]) -> Option<Entry> {
    let found = attributes(message);
    let (source, destination) = ends(found.get(&CTA_TUPLE_ORIG)?)?;
    let (_, answers_to) = ends(found.get(&CTA_TUPLE_REPLY)?)?;
    let entry = Entry {
        source,
        destination,
        leaves_from: answers_to.ip(),
        leaves_by: answers_to.port(),
        mark: found.get(&CTA_MARK).and_then(|mark| u32_be(mark)).unwrap_or(0),
        state: found.get(&CTA_PROTOINFO).and_then(|info| tcp_state(info)),
        id: found.get(&CTA_ID).and_then(|id| (*id).try_into().ok()),
        zone: found.get(&CTA_ZONE).and_then(|zone| (*zone).try_into().ok()),
    };
    (Family::of(entry.leaves_from) == entry.family()).then_some(entry)
}

fn tcp_state(info: &[u8]) -> Option<u8> {
    let info = attributes(info);
    let tcp = attributes(info.get(&CTA_PROTOINFO_TCP)?);
    tcp.get(&CTA_PROTOINFO_TCP_STATE)?.first().copied()
}

/// Source and destination of a tuple.
fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let tuple = attributes(tuple);
    let (addresses, proto) =
        (attributes(tuple.get(&CTA_TUPLE_IP)?), attributes(tuple.get(&CTA_TUPLE_PROTO)?));
    if *proto.get(&CTA_PROTO_NUM)? != [libc::IPPROTO_TCP as u8] {
        return None;
    }
    let port = |kind| proto.get(&kind)?.first_chunk::<2>().map(|port| u16::from_be_bytes(*port));
    let v4 = |kind| addresses.get(&kind)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
    let v6 = |kind| addresses.get(&kind)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    let (from, to) = match (v4(CTA_IP_V4_SRC), v4(CTA_IP_V4_DST)) {
        (Some(from), Some(to)) => (from, to),
        _ => (v6(CTA_IP_V6_SRC)?, v6(CTA_IP_V6_DST)?),
    };
    Some(((from, port(CTA_PROTO_SRC_PORT)?).into(), (to, port(CTA_PROTO_DST_PORT)?).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &sequence.to_ne_bytes(), &[0; 4], payload]
            .concat()
    }

    #[test]
    fn no_error_number_is_too_low() {
        let refused = message(NLMSG_ERROR, 7, &i32::MIN.to_ne_bytes());
        assert!(matches!(take(&refused, 7, &mut |_| {}), Ok(Some(Err(_)))));
        let done = message(NLMSG_ERROR, 7, &[0; 4]);
        assert!(matches!(take(&done, 7, &mut |_| {}), Ok(Some(Ok(())))));
    }

    #[test]
    fn what_is_cut_off_is_no_entry() {
        // An attribute that is longer than what is left, and a tuple of one address.
        for torn in [&[76, 0, 1, 0x80, 1, 0][..], &[8, 0, 1, 0x80, 4, 0, 1, 0x80], &[3, 0], &[]] {
            assert_eq!(entry(torn), None);
        }
        let mut seen = 0;
        let all = [message(NEW, 7, &[0; 4]), message(NEW, 8, &[0; 4]), message(NEW, 7, &[0; 2])].concat();
        assert!(matches!(take(&all, 7, &mut |_| seen += 1), Ok(None)));
        assert_eq!(seen, 1);
    }
}
