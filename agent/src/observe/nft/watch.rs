//! Hears of every change to our table that is not our own.
//!
//! Owns: the notification socket, and folding each transaction's messages into one [`TableChange`]. Must not:
//! repair. An overrun is a change of which nothing is known, never silence.

use std::collections::{BTreeSet, VecDeque};

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};

use crate::netlink::buffers;
use crate::nftnl::{NetlinkError, Ours, Reply, TABLE, attributes, frames, string, u32_be};

const GROUP: u32 = 7;
const FAMILY_INET: u8 = 1;
const NEWGEN: u8 = 15;
const GEN_PID: u16 = 2;
const GEN_NAME: u16 = 3;
const RECEIVE_BUFFER: usize = 8 << 20;
/// So many words are told of one change.
const WORDS: usize = 8;
const TABLE_DELETED: &str = "table deleted";

/// A change to our table by someone else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableChange {
    /// Process that did it, as the first namespace numbers it; `None`: unknown.
    pub pid: Option<u32>,
    /// Its program's name.
    pub program: Option<String>,
    /// What was done, such as `rule added to chain output`.
    pub what: String,
}

/// The stream of changes.
pub struct Watch {
    socket: TokioSocket,
    heard: Heard,
}

/// What the notifications so far said.
pub(crate) struct Heard {
    ours: Ours,
    pending: BTreeSet<String>,
    ready: VecDeque<TableChange>,
}

impl Watch {
    /// Listens in the calling thread's network namespace. Open it before the table is first read, so that no
    /// change falls between.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(ours: Ours) -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        // Where it stays small, an overrun is told all the same.
        buffers::receive(socket.socket_ref(), RECEIVE_BUFFER);
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self { socket, heard: Heard::new(ours) })
    }

    /// The next change by someone else. Safe to cancel.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&mut self) -> Result<TableChange, NetlinkError> {
        loop {
            if let Some(change) = self.heard.next() {
                return Ok(change);
            }
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) => self.heard.digest(&datagram),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.heard.pending.clear();
                    return Ok(TableChange {
                        pid: None,
                        program: None,
                        what: "unknown change: notifications were lost".into(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Heard {
    pub(crate) const fn new(ours: Ours) -> Self {
        Self { ours, pending: BTreeSet::new(), ready: VecDeque::new() }
    }

    pub(crate) fn next(&mut self) -> Option<TableChange> {
        self.ready.pop_front()
    }

    pub(crate) fn digest(&mut self, datagram: &[u8]) {
        for frame in frames(datagram) {
            match frame.map(|frame| frame.reply()) {
                Ok(Some(reply)) if reply.kind == NEWGEN => self.generation(&reply),
                Ok(Some(reply)) => {
                    self.pending.extend(describe(&reply));
                }
                Ok(None) => {}
                Err(_) => {
                    self.pending.insert("unreadable notification".into());
                }
            }
        }
    }

    /// Ends a transaction: the kernel says who it was.
    fn generation(&mut self, reply: &Reply) {
        let words = std::mem::take(&mut self.pending);
        let who = attributes(&reply.attributes);
        let pid = who.get(&GEN_PID).and_then(|pid| u32_be(pid));
        if words.is_empty() || self.ours.made(reply.port, pid) {
            return;
        }
        // A deleted table takes everything along, in a message each.
        let what = match words.get(TABLE_DELETED) {
            Some(deleted) => deleted.clone(),
            None => words.into_iter().take(WORDS).collect::<Vec<_>>().join(", "),
        };
        self.ready.push_back(TableChange { pid, program: who.get(&GEN_NAME).map(|name| string(name)), what });
    }
}

/// What a message says was done, if it concerns our table. In all but rule and chain messages names stand in the
/// same places.
fn describe(reply: &Reply) -> Option<String> {
    const NAME: u16 = 2;
    const CHAIN_NAME: u16 = 3;
    let found = attributes(&reply.attributes);
    if reply.family != FAMILY_INET || found.get(&1).map(|name| string(name)).as_deref() != Some(TABLE) {
        return None;
    }
    let name = |kind| found.get(&kind).map(|name| string(name)).unwrap_or_default();
    Some(match reply.kind {
        0 => "table added or changed".into(),
        2 => TABLE_DELETED.into(),
        3 => format!("chain {} added or changed", name(CHAIN_NAME)),
        5 => format!("chain {} deleted", name(CHAIN_NAME)),
        6 => format!("rule added to chain {}", name(NAME)),
        8 => format!("rule deleted from chain {}", name(NAME)),
        9 => format!("map {} added", name(NAME)),
        11 => format!("map {} deleted", name(NAME)),
        12 => format!("element added to map {}", name(NAME)),
        14 => format!("element deleted from map {}", name(NAME)),
        18 => format!("object {} added", name(NAME)),
        20 => format!("object {} deleted", name(NAME)),
        kind => format!("message {kind}"),
    })
}
