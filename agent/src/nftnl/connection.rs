//! One netlink socket to nf_tables: transactions and dumps.
//!
//! Owns: framing, sequence numbers and the kernel's answers. Must not: know what the messages say. Blocking: an
//! answer takes microseconds (a large dump, milliseconds), and a receive timeout bounds a kernel that is silent.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NlasIterator,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, nftables::NfTablesMessage, none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::netlink::buffers;

const SUBSYSTEM: u16 = 10;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;
/// nfgenmsg: family, version, resource id.
pub(crate) const NFGEN: usize = 4;
const BUFFER: usize = 1 << 17;
/// A transaction is one datagram; half a million element changes fit.
const SEND_BUFFER: usize = 64 << 20;
const ANSWER_SECONDS: i64 = 10;
const DUMP_TRIES: u32 = 20;

/// What can go wrong between us and nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("the netlink socket to nf_tables failed (it takes CAP_NET_ADMIN)")]
    Socket(#[from] io::Error),
    /// The kernel said no.
    #[error("nf_tables refused the request: {0}")]
    Kernel(#[source] io::Error),
    /// The table changed during every attempt to read it.
    #[error("the ruleset changed {DUMP_TRIES} times while it was read")]
    Restless,
    /// The kernel's answer could not be read.
    #[error("nf_tables sent a message that cannot be read: {0}")]
    Unreadable(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

/// A message of the kernel.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `NFT_MSG_*`.
    pub kind: u8,
    /// Port of the socket that caused it; 0: the kernel.
    pub port: u32,
    /// Family of the table it is about.
    pub family: u8,
    /// Attributes.
    pub attributes: Vec<u8>,
}

/// A socket to nf_tables, bound to the network namespace in which it was opened.
pub struct Connection {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))
            .map_err(io::Error::from)?;
        buffers::send(&socket, SEND_BUFFER);
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// The socket's port, by which notifications name its changes.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Carries out all messages or none.
    ///
    /// # Errors
    /// The kernel's first error; then nothing was changed.
    pub fn transaction(&mut self, messages: Vec<(NfTablesMessage, u16)>) -> Result<(), NetlinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let begin = self.next();
        let mut datagram = Vec::new();
        append(&mut datagram, control(ControlMessage::BatchBegin), NLM_F_REQUEST, begin);
        let last = messages.len() - 1;
        let mut final_sequence = begin;
        for (index, (message, flags)) in messages.into_iter().enumerate() {
            final_sequence = self.next();
            let ack = if index == last { NLM_F_ACK } else { 0 };
            append(&mut datagram, table_message(message), NLM_F_REQUEST | flags | ack, final_sequence);
        }
        let end = self.next();
        append(&mut datagram, control(ControlMessage::BatchEnd), NLM_F_REQUEST, end);
        self.socket.send(&datagram, 0)?;
        self.verdict(begin, final_sequence)
    }

    /// Asks for every object a message names.
    ///
    /// # Errors
    /// The kernel's error, or that the ruleset would not stand still.
    pub fn dump(&mut self, message: &NfTablesMessage) -> Result<Vec<Reply>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let sequence = self.next();
            let mut datagram = Vec::new();
            append(&mut datagram, table_message(message.clone()), NLM_F_REQUEST | NLM_F_DUMP, sequence);
            self.socket.send(&datagram, 0)?;
            if let Some(replies) = self.collect(sequence)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Asks for the objects a message names one by one.
    ///
    /// # Errors
    /// The kernel's error: one of them is missing.
    pub fn get(&mut self, message: NfTablesMessage) -> Result<Vec<Reply>, NetlinkError> {
        let sequence = self.next();
        let mut datagram = Vec::new();
        append(&mut datagram, table_message(message), NLM_F_REQUEST | NLM_F_ACK, sequence);
        self.socket.send(&datagram, 0)?;
        self.collect(sequence)?.ok_or(NetlinkError::Restless)
    }

    /// Sequence numbers of one socket never repeat within what may still be under way.
    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&mut self) -> Result<Vec<u8>, NetlinkError> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(self.buffer.clone()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn verdict(&mut self, begin: u32, last: u32) -> Result<(), NetlinkError> {
        let mut first_error = None;
        loop {
            let datagram = self.receive()?;
            for frame in frames(&datagram) {
                let frame = frame?;
                if frame.kind != NLMSG_ERROR || frame.sequence < begin {
                    continue;
                }
                let code = frame.error()?;
                if code != 0 && first_error.is_none() {
                    first_error = Some(code);
                }
                if frame.sequence == begin || frame.sequence == last {
                    return match first_error {
                        Some(code) => Err(kernel(code)),
                        None => Ok(()),
                    };
                }
            }
        }
    }

    /// `None`: the ruleset changed meanwhile.
    fn collect(&mut self, sequence: u32) -> Result<Option<Vec<Reply>>, NetlinkError> {
        let mut replies = Vec::new();
        let mut torn = false;
        loop {
            let datagram = self.receive()?;
            for frame in frames(&datagram) {
                let frame = frame?;
                if frame.sequence != sequence {
                    continue;
                }
                torn |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_DONE => return Ok((!torn).then_some(replies)),
                    NLMSG_ERROR => {
                        return match frame.error()? {
                            0 => Ok((!torn).then_some(replies)),
                            code if code == -libc::EINTR || code == -libc::EAGAIN => Ok(None),
                            code => Err(kernel(code)),
                        };
                    }
                    _ => replies.extend(frame.reply()),
                }
            }
        }
    }
}

fn kernel(code: i32) -> NetlinkError {
    NetlinkError::Kernel(io::Error::from_raw_os_error(code.wrapping_neg()))
}

fn control(message: ControlMessage) -> NetfilterMessage {
    // A batch's begin and end name the subsystem in the resource id.
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM), message)
}

fn table_message(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn append(datagram: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

/// One message within a datagram.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u16,
    flags: u16,
    pub(crate) sequence: u32,
    port: u32,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// What an answer says: 0, or an error number below 0.
    pub(crate) fn error(&self) -> Result<i32, NetlinkError> {
        self.payload
            .first_chunk::<4>()
            .map(|code| i32::from_ne_bytes(*code))
            .ok_or(NetlinkError::Unreadable("an answer without a code"))
    }

    /// `None`: no message of nf_tables.
    pub(crate) fn reply(&self) -> Option<Reply> {
        if self.kind >> 8 != SUBSYSTEM || self.payload.len() < NFGEN {
            return None;
        }
        Some(Reply {
            kind: (self.kind & 0xff) as u8,
            port: self.port,
            family: self.payload[0],
            attributes: self.payload[NFGEN..].to_vec(),
        })
    }
}

/// The messages of a datagram.
pub(crate) fn frames(datagram: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, NetlinkError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(frame) = frame(rest) else {
            rest = &[];
            return Some(Err(NetlinkError::Unreadable("a torn message")));
        };
        let length = (HEADER + frame.payload.len()).next_multiple_of(4).min(rest.len());
        rest = &rest[length..];
        Some(Ok(frame))
    })
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let half = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    let length = usize::try_from(word(0)?).ok()?;
    Some(Frame {
        kind: half(4)?,
        flags: half(6)?,
        sequence: word(8)?,
        port: word(12)?,
        payload: bytes.get(HEADER..length)?,
    })
}

/// Attributes by kind; of a kind that occurs twice the last.
pub(crate) fn attributes(bytes: &[u8]) -> std::collections::BTreeMap<u16, &[u8]> {
    let mut found = std::collections::BTreeMap::new();
    let mut at = 0;
    for nla in NlasIterator::new(bytes).flatten() {
        let length = nla.value().len();
        found.insert(nla.kind(), &bytes[at + 4..at + 4 + length]);
        at += (4 + length).next_multiple_of(4);
    }
    found
}

/// A string attribute, without the NUL at its end.
pub(crate) fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// A number in network byte order.
pub(crate) fn u32_be(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}
