//! Says that something changed among links, addresses, routes, rules, and filters (before kernel 6.6 the guard is one).
//!
//! Owns: the multicast socket. Must not: interpret what it receives. A notification that is lost (the receive buffer
//! overran) is itself a notification, so nothing that is parsed here could be believed anyway: the caller looks again.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::MulticastGroup;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::{NetError, buffers};

/// Room for some ten thousand notifications: a full routing table that reloads must not overrun us for ever.
pub const RECEIVE_BUFFER: usize = 8 << 20;

/// Notifications that are taken before the caller gets its turn.
const AT_ONCE: usize = 65_536;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Tc,
];

/// What gathered since the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Notifications that were received.
    pub events: u64,
    /// Times the receive buffer overran: an unknown number was lost.
    pub overruns: u64,
}

/// A subscription to all changes of this network namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    total: Change,
}

impl Monitor {
    /// Subscribes, with a receive buffer of this many bytes ([`RECEIVE_BUFFER`] unless there is a reason).
    /// Subscribe first, then read a snapshot: so no change falls between.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(receive_buffer: usize) -> Result<Self, NetError> {
        let socket = subscribe(receive_buffer).map_err(|e| NetError::of("watching rtnetlink", e))?;
        // SAFETY: the socket owns its descriptor for as long as it lives, and returns the same one each time.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|e| NetError::of("watching rtnetlink", e.into()))?;
        Ok(Self { socket, total: Change::default() })
    }

    /// Waits until something changed and returns all that has gathered, at least one event or overrun. Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn changed(&mut self) -> Result<Change, NetError> {
        loop {
            let mut ready =
                self.socket.readable().await.map_err(|e| NetError::of("watching rtnetlink", e))?;
            let (gathered, empty) =
                drain(ready.get_inner()).map_err(|e| NetError::of("watching rtnetlink", e))?;
            if empty {
                ready.clear_ready();
            }
            if gathered != Change::default() {
                self.total.events += gathered.events;
                self.total.overruns += gathered.overruns;
                return Ok(gathered);
            }
        }
    }

    /// Everything since it was opened.
    #[must_use]
    pub const fn total(&self) -> Change {
        self.total
    }
}

fn subscribe(receive_buffer: usize) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    buffers::receive(&socket, receive_buffer);
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group as u32)?;
    }
    Ok(socket)
}

/// Takes what waits, and says whether that was all; the messages are cut to a byte, since only their number
/// matters. A flood that never ends must not keep the caller from looking.
fn drain(socket: &Socket) -> io::Result<(Change, bool)> {
    let mut gathered = Change::default();
    let mut byte = [0_u8; 1];
    for _ in 0..AT_ONCE {
        match socket.recv(&mut &mut byte[..], 0) {
            Ok(_) => gathered.events += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((gathered, true)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => gathered.overruns += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((gathered, false))
}
