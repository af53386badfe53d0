//! TCP sockets of this host: which stand, whose turn it is in them, and closing one.
//!
//! Owns: the kernel's `NETLINK_SOCK_DIAG`. Must not: judge which are to be closed. It needs CAP_NET_ADMIN to close one,
//! and nothing to read. Everything here blocks and runs off the async threads.

mod wire;

use std::cmp::Ordering;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use wire::Connection;

/// A TCP socket that has a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpSocket {
    /// Its own end, as the socket has it: before any translation.
    pub local: SocketAddr,
    /// Its peer.
    pub peer: SocketAddr,
    /// Whether neither side has begun to end it.
    pub stands: bool,
    /// How long ago each side spoke; `None` where the kernel does not say.
    pub spoke: Option<Spoke>,
    /// What the kernel finds it by: its family and its `inet_diag_sockid`, cookie included.
    handle: Handle,
}

type Handle = (u8, [u8; wire::ID]);

/// How long ago each side of a connection last sent data; acknowledgements are none. The kernel counts in ticks of 1 to
/// 10 ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spoke {
    /// This side.
    pub here: Duration,
    /// The other side.
    pub there: Duration,
}

/// Whose turn it is to speak, and how long nobody has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// This side's: the other side spoke last.
    Ours(Duration),
    /// The other side's.
    Theirs,
    /// Both spoke within one tick of the kernel's clock, and it does not say who was first.
    Unknown(Duration),
}

impl Spoke {
    /// Whose turn it is.
    #[must_use]
    pub fn turn(&self) -> Turn {
        match self.there.cmp(&self.here) {
            Ordering::Less => Turn::Ours(self.there),
            Ordering::Equal => Turn::Unknown(self.there),
            Ordering::Greater => Turn::Theirs,
        }
    }
}

/// What became of a socket that was to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// It is closed: its owner gets `ECONNABORTED`, the peer a reset.
    Yes,
    /// It had closed before.
    Gone,
    /// This kernel closes no sockets for others (`CONFIG_INET_DIAG_DESTROY`).
    NotHere,
}

/// Why sockets could not be read or closed.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The privilege is missing.
    #[error("sock_diag: not permitted; the agent needs CAP_NET_ADMIN")]
    NotPermitted(#[source] io::Error),
    /// The kernel refused.
    #[error("sock_diag: {what}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("sock_diag: the kernel's answer is not understood")]
    Answer(#[source] crate::nftnl::NetlinkError),
}

impl SockDiagError {
    /// Whether this kernel has nobody who would answer (`CONFIG_INET_TCP_DIAG`, module tcp_diag).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let Self::Kernel { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_turn_of_who_did_not_speak_last() {
        let ms = Duration::from_millis;
        let turn = |here, there| Spoke { here: ms(here), there: ms(there) }.turn();
        assert_eq!(turn(5000, 1200), Turn::Ours(ms(1200)));
        assert_eq!(turn(1200, 5000), Turn::Theirs, "the receiver is working on our last word");
        assert_eq!(turn(1200, 1200), Turn::Unknown(ms(1200)));
    }
}
