//! Who is at the other end of the control socket, and what they may do.
//!
//! Owns: the peer's identity as the kernel noted it when the socket was connected, supplementary groups included, and
//! the rule from identity to role. Must not: trust a process id (it may be another's by now), or anything that the
//! peer says of itself.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use mailsteer_core::config::ControlAccess;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::server::Connected;

use super::server::ControlError;

/// A peer as the kernel knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    uid: u32,
    /// Its group and its supplementary groups.
    groups: BTreeSet<u32>,
}

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Role {
    Nobody,
    Reader,
    Operator,
}

/// Who may do what: shared, so that a reload changes it while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<RwLock<ControlAccess>>);

impl Access {
    /// By what the config says.
    #[must_use]
    pub fn new(rules: ControlAccess) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    /// Other rules from now on.
    pub fn set(&self, rules: ControlAccess) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Whether clients may ask which calls there are.
    pub(super) fn reflection(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).reflection
    }

    /// Lets whoever may look.
    pub(super) fn may_read<T>(&self, request: &Request<T>) -> Result<(), ControlError> {
        let (uid, role) = self.role(request)?;
        if role >= Role::Reader {
            return Ok(());
        }
        Err(ControlError::Denied(format!(
            "uid {uid} may not look: it takes root, or a group of `[control] readers` or `operators`"
        )))
    }

    /// Lets whoever may change something.
    pub(super) fn may_operate<T>(&self, request: &Request<T>) -> Result<(), ControlError> {
        let (uid, role) = self.role(request)?;
        if role == Role::Operator {
            return Ok(());
        }
        Err(ControlError::Denied(format!(
            "uid {uid} may look and not operate: run the command as root, or as a member of a group of \
             `[control] operators`"
        )))
    }

    fn role<T>(&self, request: &Request<T>) -> Result<(u32, Role), ControlError> {
        let peer = request.extensions().get::<Option<Peer>>().and_then(Option::as_ref);
        let peer = peer.ok_or_else(|| ControlError::Denied("the socket does not say who asks".to_owned()))?;
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok((peer.uid, role_of(peer, nix::unistd::geteuid().as_raw(), &rules)))
    }
}

/// Root and the agent's own user may do everything; others what their groups may.
fn role_of(peer: &Peer, own: u32, rules: &ControlAccess) -> Role {
    let in_any = |groups: &BTreeSet<u32>| !groups.is_disjoint(&peer.groups);
    if peer.uid == 0 || peer.uid == own || in_any(&rules.operators) {
        Role::Operator
    } else if rules.readers.as_ref().is_none_or(in_any) {
        Role::Reader
    } else {
        Role::Nobody
    }
}

/// A connection that knows its peer.
pub(super) struct PeerStream {
    stream: UnixStream,
    peer: Option<Peer>,
}

impl PeerStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        let peer = identity(&stream);
        if let Err(error) = &peer {
            tracing::warn!(%error, "the control socket does not say who asks");
        }
        Self { peer: peer.ok(), stream }
    }
}

fn identity(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    // SAFETY: the stream outlives the borrow.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let mut groups = supplementary_groups(socket)?;
    groups.insert(credentials.gid());
    Ok(Peer { uid: credentials.uid(), groups })
}

/// `SO_PEERGROUPS` (Linux 4.13): tells how much room it needs where there is too little.
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<BTreeSet<u32>> {
    let mut groups = vec![0 as libc::gid_t; 64];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that many.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if answer == 0 {
            groups.truncate(needed);
            return Ok(groups.into_iter().collect());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Option<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(uid: u32, groups: &[u32], readers: Option<&[u32]>) -> Role {
        let rules = ControlAccess {
            operators: BTreeSet::from([50]),
            readers: readers.map(|groups| groups.iter().copied().collect()),
            reflection: true,
        };
        role_of(&Peer { uid, groups: groups.iter().copied().collect() }, 200, &rules)
    }

    #[test]
    fn groups_make_the_role() {
        assert_eq!(role(0, &[0], Some(&[])), Role::Operator, "root");
        assert_eq!(role(200, &[200], Some(&[])), Role::Operator, "the agent's own user");
        assert_eq!(role(1000, &[1000, 50], None), Role::Operator, "by a supplementary group");
        assert_eq!(role(1000, &[1000], None), Role::Reader, "the socket lets in who may look");
        assert_eq!(role(1000, &[1000], Some(&[60])), Role::Nobody);
        assert_eq!(role(1000, &[1000, 60], Some(&[60])), Role::Reader);
        assert_eq!(role(1000, &[1000, 50], Some(&[60])), Role::Operator, "operators may look");
    }

    #[tokio::test]
    async fn the_kernel_tells_supplementary_groups() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = identity(&here).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        let own = nix::unistd::getgroups().unwrap();
        assert!(own.iter().all(|group| peer.groups.contains(&group.as_raw())), "{own:?} {peer:?}");
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
    }
}
