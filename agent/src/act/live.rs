//! Ending live connections of a source that holds no slot of their lane any more.
//!
//! Owns: which of them, and how. Must not: decide whose (`on_flip` and the slots say that), or touch a connection whose
//! source holds a slot.
//!
//! conntrack tells of each connection which lane and source it has, and its ends as its own socket knows them; by these
//! its socket is found. A local one is closed by cookie (`SOCK_DESTROY`): its MTA gets an error at once, the receiver a
//! reset from the right address, for the entry still stands. A forwarded one has no socket here: its entry is deleted,
//! and its next packet, which belongs to nothing, is answered by a reset (the lane's rule for what is in mid-stream).
//! The same is done where the kernel closes no sockets.
//!
//! **Idle** is what an MTA keeps for its next message: it is the MTA's turn to speak, and it does not. SMTP is spoken
//! in turns (RFC 5321, section 3), so who spoke last tells, below TLS too. Never is a connection closed in which the
//! receiver owes an answer: between the final dot and its answer that would deliver a message twice, and some receivers
//! take a minute there. [`IDLE`] is half the time that Postfix keeps a connection (`smtp_connection_cache_time_limit`,
//! 2 s): found before it is used again, and a hundred times as long as an MTA thinks between two commands. Exim keeps
//! none idle: it has the next message before it ends one. Of a forwarded connection only the last packet's time is
//! known, not whose it was, and of a receiver that answers within one tick of the kernel's clock (4 ms, mostly) not whether
//! it spoke last: [`UNSURE_IDLE`] is longer than nearly every receiver takes for an answer. Without eBPF, which knows that
//! time, forwarded connections finish.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{HashMap as BpfMap, Map, MapData};
use mailsteer_core::config::OnFlip;
use mailsteer_core::model::{Family, LaneId, Slots};
use mailsteer_ebpf::{Conn, FlowKey};

use crate::bpf_maps;
use crate::conntrack::{self, ConntrackError, Entry, Holders, Standing};
use crate::sockdiag::{self, Closed, SockDiagError, TcpSocket, Turn};

/// For how long it has to be the MTA's turn.
pub const IDLE: Duration = Duration::from_secs(1);
/// For how long nobody may have spoken where it is not known whose turn it is.
pub const UNSURE_IDLE: Duration = Duration::from_secs(30);

/// Why live connections could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The connections could not be read or deleted.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The sockets could not be read or closed.
    #[error(transparent)]
    Sockets(#[from] SockDiagError),
    /// The work was cut off.
    #[error("ending live connections: cut off")]
    Cut(#[source] tokio::task::JoinError),
}

/// What became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ended {
    /// Sockets closed, and entries deleted.
    pub ended: u64,
    /// Left, because they are busy: when to look again, at the earliest.
    pub again: Option<Duration>,
    /// Some had a socket here, and this kernel closes none: it ends at its next packet.
    pub by_entry: bool,
}

/// Live connections of sources that lost their slots: when to look at them, and since when they are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    since: Instant,
    /// `None`: none is left.
    next: Option<Instant>,
}

impl Default for Ending {
    fn default() -> Self {
        let now = Instant::now();
        Self { since: now, next: Some(now) }
    }
}

impl Ending {
    pub(super) fn is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }

    pub(super) fn wait(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Those that were busy are looked at again when the first may have become idle, and less and less often the longer
    /// it lasts.
    pub(super) fn looked(&mut self, done: Ended) {
        if done.by_entry {
            tracing::warn!(
                "this kernel closes no sockets for others (CONFIG_INET_DIAG_DESTROY): what a flip was to cut ends at                  its next packet"
            );
        }
        let now = Instant::now();
        self.next = done.again.map(|wait| now + wait.max((now - self.since) / 16));
    }
}

/// `Action::EndLive`: ends connections to these ports whose source holds no slot, as their lane has it. `pins`: where the
/// maps of the eBPF programs are, if there are any.
///
/// # Errors
/// When the kernel refuses; what was ended before stays ended.
pub async fn end_live(
    ports: &[u16],
    lanes: &BTreeMap<LaneId, OnFlip>,
    slots: &BTreeMap<(LaneId, Family), Slots>,
    pins: Option<&Path>,
) -> Result<Ended, LiveError> {
    let (ports, lanes, slots) = (ports.to_vec(), lanes.clone(), slots.clone());
    let pins = pins.map(Path::to_path_buf);
    let work = move || {
        let mut holders = Holders::of(&slots);
        let entries = conntrack::all(&ports)?;
        let left =
            entries.into_iter().filter_map(|entry| Some((which(&mut holders, &lanes, &entry)?, entry)));
        let left: Vec<(OnFlip, Entry)> = left.collect();
        if left.is_empty() { Ok(Ended::default()) } else { end(&ports, &left, pins.as_deref()) }
    };
    tokio::task::spawn_blocking(work).await.map_err(LiveError::Cut)?
}

/// What is to be done about a connection; `None`: it goes on.
fn which(holders: &mut Holders<'_>, lanes: &BTreeMap<LaneId, OnFlip>, entry: &Entry) -> Option<OnFlip> {
    let (lane, standing) = holders.standing(entry);
    // A lane that waits is in a gap: its source may be back in a moment.
    (entry.is_live() && standing == Standing::Lost).then(|| lanes.get(&lane).copied())?
}

fn end(ports: &[u16], left: &[(OnFlip, Entry)], pins: Option<&Path>) -> Result<Ended, LiveError> {
    let mut kernel = sockdiag::Connection::open()?;
    let sockets = sockets(&mut kernel, ports)?;
    let conns = pins.and_then(Conns::open);
    let mut done = Ended::default();
    let mut forwarded = Vec::new();
    for (which, entry) in left {
        let socket = sockets.as_ref().and_then(|sockets| sockets.get(&(entry.source, entry.destination)));
        let waits = match (which, socket) {
            (OnFlip::Finish, _) => continue,
            (OnFlip::Cut, _) => Some(Duration::ZERO),
            (OnFlip::CloseIdle, Some(socket)) => local_wait(socket),
            // Whether it has a socket cannot be told, and so not whose turn it is.
            (OnFlip::CloseIdle, None) if sockets.is_none() => None,
            (OnFlip::CloseIdle, None) => conns
                .as_ref()
                .and_then(|conns| conns.silence(entry))
                .map(|silent| UNSURE_IDLE.saturating_sub(silent)),
        };
        match (waits, socket) {
            (None, _) => {}
            (Some(Duration::ZERO), Some(socket)) => match kernel.close(socket)? {
                Closed::Yes => done.ended += 1,
                Closed::Gone => {}
                Closed::NotHere => {
                    done.by_entry = true;
                    forwarded.push(entry);
                }
            },
            (Some(Duration::ZERO), None) => forwarded.push(entry),
            (Some(wait), _) => done.again = Some(done.again.map_or(wait, |other| other.min(wait))),
        }
    }
    done.ended += conntrack::delete(forwarded)?;
    Ok(done)
}

type Sockets = HashMap<(SocketAddr, SocketAddr), TcpSocket>;

/// Sockets by their ends; `None` where this kernel tells nothing of sockets.
fn sockets(kernel: &mut sockdiag::Connection, ports: &[u16]) -> Result<Option<Sockets>, SockDiagError> {
    let mut sockets = Sockets::new();
    for &port in ports {
        match kernel.talking_to(port) {
            Ok(found) => sockets.extend(found.into_iter().map(|one| ((one.local, one.peer), one))),
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(sockets))
}

/// How long until a local connection may be idle, at the earliest; `None`: it is ending by itself, or the kernel does not
/// tell.
fn local_wait(socket: &TcpSocket) -> Option<Duration> {
    match socket.spoke?.turn() {
        _ if !socket.stands => None,
        Turn::Ours(silent) => Some(IDLE.saturating_sub(silent)),
        Turn::Theirs => Some(IDLE),
        // It may be known sooner: when either side speaks again.
        Turn::Unknown(silent) => Some(IDLE.min(UNSURE_IDLE.saturating_sub(silent))),
    }
}

/// The connections that the eBPF programs follow.
struct Conns {
    map: BpfMap<MapData, FlowKey, Conn>,
    now: Duration,
}

impl Conns {
    fn open(pins: &Path) -> Option<Self> {
        let map = bpf_maps::open(pins, "CONNS").ok().and_then(|data| Map::from_map_data(data).ok())?;
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
        Some(Self { map: BpfMap::try_from(map).ok()?, now: Duration::from(now) })
    }

    /// For how long no packet has gone either way; `None` where nobody followed it.
    fn silence(&self, entry: &Entry) -> Option<Duration> {
        let key = FlowKey {
            saddr: words(entry.leaves_from),
            daddr: words(entry.destination.ip()),
            sport: entry.leaves_by,
            dport: entry.destination.port(),
        };
        let last = self.map.get(&key, 0).ok()?.last;
        Some(self.now.saturating_sub(Duration::from_nanos(last)))
    }
}

/// An address as the programs have it: IPv4 mapped, in network byte order.
fn words(address: IpAddr) -> [u32; 4] {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_the_wire_has_them() {
        assert_eq!(
            words("192.0.2.1".parse().unwrap()),
            [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes([192, 0, 2, 1])]
        );
        let v6 = words("2001:db8::1".parse().unwrap());
        assert_eq!(
            (v6[0], v6[3]),
            (u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), u32::from_ne_bytes([0, 0, 0, 1]))
        );
    }
}
