//! The netlink socket: dump the sockets that talk to a port, close one.
//!
//! Owns: the wire (include/uapi/linux/inet_diag.h). Must not: judge.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as KernelAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Closed, SockDiagError, Spoke, TcpSocket};
use crate::nftnl::{NLMSG_DONE, NLMSG_ERROR, attributes, frames};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `inet_diag_sockid`: ports, addresses, interface, cookie.
pub(super) const ID: usize = 48;
/// `inet_diag_msg` before its attributes.
const MESSAGE: usize = 72;
const INFO: u16 = 2;
/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
/// Every state but `TCP_LISTEN` (10) and `TCP_CLOSE` (7): one that is ending is still this host's.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 7);
/// Where `tcp_info` has `tcpi_last_data_sent` and `tcpi_last_data_recv`, in milliseconds.
const LAST_SENT: usize = 44;
const LAST_RECEIVED: usize = 52;
const BUFFER: usize = 64 << 10;
const ANSWER_SECONDS: i64 = 5;

/// The socket to the kernel.
pub struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Connection {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self, SockDiagError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.connect(&KernelAddr::new(0, 0))?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| error("opening", source))?;
        Ok(Self { socket, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Every TCP socket whose peer has this port. An IPv6 socket that speaks IPv4 is among them, by its IPv4 addresses.
    ///
    /// # Errors
    /// When the kernel refuses, or has no such thing ([`SockDiagError::is_missing`]).
    pub fn talking_to(&mut self, port: u16) -> Result<Vec<TcpSocket>, SockDiagError> {
        let mut id = [0; ID];
        id[2..4].copy_from_slice(&port.to_be_bytes());
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let wanted = request(family as u8, STATES, &id);
            self.exchange("reading", BY_FAMILY, DUMP, &wanted, |message| {
                found.extend(socket(message).filter(|socket| socket.peer.port() == port));
            })?;
        }
        Ok(found)
    }

    /// Closes a socket, found by its cookie: one that has taken its place is left alone.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that it cannot.
    pub fn close(&mut self, socket: &TcpSocket) -> Result<Closed, SockDiagError> {
        let (family, id) = &socket.handle;
        let wanted = request(*family, STATES, id);
        match self.exchange("closing a socket", DESTROY, ACK, &wanted, |_| {}) {
            Ok(()) => Ok(Closed::Yes),
            Err(SockDiagError::Kernel { source, .. }) => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(Closed::Gone),
                // Without the option the kernel knows the message and not what to do; one without sock_diag neither.
                Some(libc::EOPNOTSUPP | libc::EINVAL) => Ok(Closed::NotHere),
                _ => Err(error("closing a socket", source)),
            },
            Err(error) => Err(error),
        }
    }

    fn exchange(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        request: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), SockDiagError> {
        self.sequence += 1;
        let message = message(kind, REQUEST | flags, self.sequence, request);
        self.socket.send(&message, 0).map_err(|source| error(what, source))?;
        loop {
            let size =
                self.socket.recv(&mut &mut self.buffer[..], 0).map_err(|source| error(what, source))?;
            if let Some(answer) = take(&self.buffer[..size.min(BUFFER)], self.sequence, &mut each)? {
                return answer.map_err(|source| error(what, source));
            }
        }
    }
}

/// `inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let extensions = 1 << (INFO - 1);
    let head = [family, libc::IPPROTO_TCP as u8, extensions, 0];
    [&head[..], &states.to_ne_bytes(), id].concat()
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = (16 + payload.len()) as u32;
    let head = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &[0; 4],
    ];
    [&head.concat()[..], payload].concat()
}

fn error(what: &'static str, source: io::Error) -> SockDiagError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => SockDiagError::NotPermitted(source),
        _ => SockDiagError::Kernel { what, source },
    }
}

/// Hands on the sockets of a datagram that answer a request, and says how it ended; `None`: more is to come.
fn take(
    datagram: &[u8],
    sequence: u32,
    each: &mut impl FnMut(&[u8]),
) -> Result<Option<io::Result<()>>, SockDiagError> {
    for frame in frames(datagram) {
        let frame = frame.map_err(SockDiagError::Answer)?;
        if frame.sequence != sequence {
            continue;
        }
        match frame.kind {
            // The end of a dump says whether it failed on the way.
            NLMSG_DONE | NLMSG_ERROR => {
                let code = frame.error().map_err(SockDiagError::Answer)?;
                let refused = || io::Error::from_raw_os_error(code.wrapping_neg());
                return Ok(Some(if code == 0 { Ok(()) } else { Err(refused()) }));
            }
            BY_FAMILY => each(frame.payload),
            _ => {}
        }
    }
    Ok(None)
}

/// `inet_diag_msg`, and its attributes.
fn socket(message: &[u8]) -> Option<TcpSocket> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let id: [u8; ID] = message.get(4..4 + ID)?.try_into().ok()?;
    let found = attributes(message.get(MESSAGE..)?);
    let end = |port: usize, address: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes([*id.get(port)?, *id.get(port + 1)?]);
        let bytes = id.get(address..address + 16)?;
        let address = match i32::from(family) {
            libc::AF_INET => IpAddr::from(*bytes.first_chunk::<4>()?),
            _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical(),
        };
        Some((address, port).into())
    };
    Some(TcpSocket {
        local: end(0, 4)?,
        peer: end(2, 20)?,
        stands: state == ESTABLISHED,
        spoke: found.get(&INFO).and_then(|info| spoke(info)),
        handle: (family, id),
    })
}

fn spoke(info: &[u8]) -> Option<Spoke> {
    let ms = |at: usize| {
        let word = info.get(at..at + 4)?.first_chunk::<4>()?;
        Some(Duration::from_millis(u32::from_ne_bytes(*word).into()))
    };
    Some(Spoke { here: ms(LAST_SENT)?, there: ms(LAST_RECEIVED)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it, without attributes.
    fn told(family: u8, state: u8, id: &[u8; ID]) -> Vec<u8> {
        [&[family, state, 0, 0][..], id, &[0; MESSAGE - 4 - ID]].concat()
    }

    fn id(sport: u16, from: &[u8], dport: u16, to: &[u8]) -> [u8; ID] {
        let mut id = [0; ID];
        id[..2].copy_from_slice(&sport.to_be_bytes());
        id[2..4].copy_from_slice(&dport.to_be_bytes());
        id[4..4 + from.len()].copy_from_slice(from);
        id[20..20 + to.len()].copy_from_slice(to);
        id
    }

    #[test]
    fn a_socket_is_known_by_its_ends_and_its_cookie() {
        let mut id = id(40_000, &[192, 0, 2, 10], 25, &[198, 51, 100, 1]);
        id[40..].copy_from_slice(&[7; 8]);
        let found = socket(&told(libc::AF_INET as u8, ESTABLISHED, &id)).unwrap();
        assert_eq!(found.local, "192.0.2.10:40000".parse().unwrap());
        assert_eq!(found.peer, "198.51.100.1:25".parse().unwrap());
        assert!(found.stands && found.spoke.is_none());
        assert_eq!(found.handle.1, id);
    }

    #[test]
    fn ipv4_on_an_ipv6_socket_is_ipv4() {
        let mapped = |last: u8| Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0200 | u16::from(last)]);
        let id = id(40_000, &mapped(10).octets(), 25, &mapped(1).octets());
        let found = socket(&told(libc::AF_INET6 as u8, 8, &id)).unwrap();
        assert_eq!(found.local, "192.0.2.10:40000".parse().unwrap());
        assert_eq!(found.handle.0, libc::AF_INET6 as u8);
        assert!(!found.stands);
    }

    #[test]
    fn what_is_cut_off_is_no_socket() {
        let whole = told(libc::AF_INET as u8, 1, &id(1, &[1; 4], 25, &[2; 4]));
        for length in 0..whole.len() {
            assert_eq!(socket(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(spoke(&[0; 55]), None);
    }

    #[test]
    fn the_end_of_a_dump_and_a_refusal_are_told_apart() {
        let answer = |kind, code: i32| message(kind, 0, 7, &code.to_ne_bytes());
        assert!(matches!(take(&answer(NLMSG_DONE, 0), 7, &mut |_| {}), Ok(Some(Ok(())))));
        let refused = take(&answer(NLMSG_ERROR, -libc::EOPNOTSUPP), 7, &mut |_| {}).unwrap().unwrap();
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(matches!(take(&answer(NLMSG_DONE, 0), 8, &mut |_| {}), Ok(None)), "another's answer");
    }
}
