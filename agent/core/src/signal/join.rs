//! From what an MTA says of a delivery to the connection that carried it.
//!
//! Owns: connections that stood lately, which process turned to which of them, and which of them a delivery can have used. Must
//! not: guess. An MTA names the receiver's address and the time, its process perhaps, its own port, or when it began to
//! connect; the kernel knows which source each connection took, and which process used it. Where several connections fit and they
//! did not all leave alike, or where not every connection is known, the delivery is not joined, and that is counted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// A connection that is older is nobody's: Postfix uses one for 300 s at most, and waits 600 s for the last reply
/// (`smtp_connection_reuse_time_limit`, `smtp_data_done_timeout`).
const LONGEST: SignedDuration = SignedDuration::from_mins(15);
/// The MTA's clock and ours are the same; the kernel's records are of another one, and reading both takes a moment.
const SLACK: SignedDuration = SignedDuration::from_millis(1);
/// How long after it said so an MTA has called `connect()`: it does so at once, and may be kept waiting for a processor.
const AT_ONCE: SignedDuration = SignedDuration::from_millis(100);
/// Connections and turns that are remembered, whatever their receivers.
const REMEMBERED: usize = 100_000;

/// A connection that stood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stood {
    /// When `connect()` was called.
    pub at: Timestamp,
    /// Whose it was; none where the network forwarded it for a container.
    pub pid: Option<u32>,
    /// The kernel's name for its socket; none likewise.
    pub cookie: Option<u64>,
    /// Its port here, before translation.
    pub local_port: Option<u16>,
    /// The receiver.
    pub destination: IpAddr,
    /// Whose mail it carried.
    pub stream: String,
    /// The source: its address on this host.
    pub source: IpAddr,
    /// Who received.
    pub provider: String,
}

/// A process turned to a connection: it wrote to it, and the last one that it was at was another, or the last one that wrote to it
/// was another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// When.
    pub at: Timestamp,
    /// The process.
    pub pid: u32,
    /// Its socket.
    pub cookie: u64,
    /// The receiver.
    pub destination: IpAddr,
}

/// What is known of a delivery's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sought {
    /// When the reply was written down.
    pub at: Timestamp,
    /// How much later it may have been: a second less a bit where the log has whole seconds.
    pub within: SignedDuration,
    /// The process that wrote it.
    pub pid: Option<u32>,
    /// The connection may have been opened by another process.
    pub handed: bool,
    /// When its MTA wrote down that it would connect, and how much later that may have been.
    pub connecting: Option<(Timestamp, SignedDuration)>,
    /// The connection's port here.
    pub local_port: Option<u16>,
    /// The receiver.
    pub destination: IpAddr,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// One connection, or several that left alike.
    One(&'a Stood),
    /// Several that did not.
    Ambiguous,
    /// None: not steered, too long ago, or of a time of which not all is known.
    None,
}

#[derive(Clone, Debug, Default)]
struct AtReceiver {
    stood: VecDeque<Stood>,
    turns: VecDeque<Turn>,
}

/// What is remembered of a receiver, to forget the oldest.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Stood,
    Turn,
}

/// Connections of the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    by_receiver: HashMap<IpAddr, AtReceiver>,
    /// In the order in which they came.
    order: VecDeque<(IpAddr, Kept)>,
    /// Whether turns are told.
    turns_told: bool,
    /// Processes that have many connections at a time: which of them they are at is not told.
    many: HashSet<u32>,
    /// Of what was before, not all is known.
    since: Option<Timestamp>,
}

impl Connections {
    /// From now on all is told, and turns too or not. Connections of before that still stand are to be named now.
    pub fn begin(&mut self, at: Timestamp, turns_told: bool) {
        *self = Self { turns_told, since: Some(at), ..Self::default() };
    }

    /// Something was not told: until what stands now is over, only a port of its own names a connection.
    pub fn lost(&mut self, at: Timestamp) {
        self.since = Some(at.checked_add(LONGEST).unwrap_or(at));
    }

    /// One more stood.
    pub fn stood(&mut self, one: Stood) {
        self.forget(one.at);
        self.order.push_back((one.destination, Kept::Stood));
        self.by_receiver.entry(one.destination).or_default().stood.push_back(one);
    }

    /// A process turned to a connection.
    pub fn turned(&mut self, turn: Turn) {
        self.forget(turn.at);
        self.order.push_back((turn.destination, Kept::Turn));
        self.by_receiver.entry(turn.destination).or_default().turns.push_back(turn);
    }

    /// A process has many connections at a time.
    pub fn has_many(&mut self, pid: u32) {
        if self.many.len() >= REMEMBERED {
            self.many.clear();
            self.turns_told = false;
        }
        self.many.insert(pid);
    }

    /// Forgets what is too old by now, and the oldest where there is too much.
    fn forget(&mut self, now: Timestamp) {
        let long_ago = now.checked_sub(LONGEST).unwrap_or(now);
        while let Some((receiver, kept)) = self.order.front().copied() {
            let all = self.by_receiver.entry(receiver).or_default();
            let first = match kept {
                Kept::Stood => all.stood.front().map(|one| one.at),
                Kept::Turn => all.turns.front().map(|one| one.at),
            };
            let old = first.is_none_or(|first| first < long_ago);
            if !old {
                if self.order.len() < REMEMBERED {
                    break;
                }
                // It may still be in use.
                self.since = self.since.max(first);
            }
            self.order.pop_front();
            match kept {
                Kept::Stood => drop(all.stood.pop_front()),
                Kept::Turn => drop(all.turns.pop_front()),
            }
            if all.stood.is_empty() && all.turns.is_empty() {
                self.by_receiver.remove(&receiver);
            }
        }
    }

    /// The connection that a delivery used.
    #[must_use]
    pub fn find(&self, sought: &Sought) -> Found<'_> {
        let (from, to) = (sought.at.checked_sub(LONGEST), sought.at.checked_add(sought.within + SLACK));
        let (Ok(from), Ok(to)) = (from, to) else { return Found::None };
        let Some(there) = self.by_receiver.get(&sought.destination) else { return Found::None };
        let near: Vec<&Stood> = there.stood.iter().filter(|one| one.at >= from && one.at <= to).collect();
        if let Some(port) = sought.local_port {
            // Used again within minutes, it is the last one's.
            let last = near.iter().rev().find(|one| one.local_port == Some(port));
            return last.map_or(Found::None, |one| Found::One(one));
        }
        if self.since.is_some_and(|since| sought.at < since) {
            return Found::None;
        }
        if let Some((at, within)) = sought.connecting {
            return begun(&near, sought.pid, at, within);
        }
        let pid = sought.pid.filter(|pid| !self.many.contains(pid) && (self.turns_told || !sought.handed));
        let held = pid.map_or_else(Vec::new, |pid| there.held_by(pid, sought.at, from, to));
        // Handed on by another process, or whose process is not known: it may be any of them.
        if held.is_empty() {
            return alike(&near);
        }
        let known = |cookie: &u64| near.iter().copied().find(|one| one.cookie == Some(*cookie));
        let found: Vec<&Stood> = held.iter().filter_map(known).collect();
        match found.len() {
            0 => Found::None,
            // One of those it can have been stood before anybody looked.
            some if some < held.len() => Found::Ambiguous,
            _ => alike(&found),
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl AtReceiver {
    /// The connections that a process can have been at when it wrote something down at this time or, where the log leaves that
    /// open, up to `to`. One that has one connection at a time wrote it of the last one that it turned to.
    fn held_by(&self, pid: u32, at: Timestamp, from: Timestamp, to: Timestamp) -> Vec<u64> {
        let begun = self.stood.iter().filter_map(|one| Some((one.at, one.pid?, one.cookie?)));
        let turns = self.turns.iter().map(|turn| (turn.at, turn.pid, turn.cookie));
        let mut all: Vec<(Timestamp, u32, u64)> =
            begun.chain(turns).filter(|(when, ..)| *when >= from && *when <= to).collect();
        all.sort_by_key(|(when, ..)| *when);
        let mut held = vec![];
        if let Some(last) = all.iter().rposition(|(when, who, _)| *who == pid && *when <= at) {
            let cookie = all[last].2;
            let others =
                all[last..].iter().any(|(when, who, of)| *when <= at && *of == cookie && *who != pid);
            if !others {
                held.push(cookie);
            }
        }
        held.extend(
            all.iter().filter(|(when, who, _)| *who == pid && *when > at).map(|(.., cookie)| *cookie),
        );
        held
    }
}

/// The connection that was begun just after this time; others that began so close to it that the clocks leave open which.
fn begun<'c>(near: &[&'c Stood], pid: Option<u32>, at: Timestamp, within: SignedDuration) -> Found<'c> {
    let (from, sure, to) = (at - SLACK, at + within + SLACK, at + within + AT_ONCE);
    let own = |one: &&Stood| one.pid.is_none() || pid.is_none() || one.pid == pid;
    let mut fit: Vec<&Stood> =
        near.iter().copied().filter(own).filter(|one| one.at >= from && one.at <= to).collect();
    fit.sort_by_key(|one| one.at);
    if let Some(first) = fit.first().map(|one| one.at) {
        fit.retain(|one| one.at <= first.max(sure));
    }
    alike(&fit)
}

/// The one that all of them stand for.
fn alike<'c>(all: &[&'c Stood]) -> Found<'c> {
    let Some((first, others)) = all.split_first() else { return Found::None };
    let same = |one: &&Stood| one.source == first.source && one.stream == first.stream;
    if others.iter().all(same) { Found::One(first) } else { Found::Ambiguous }
}

#[cfg(test)]
mod tests;
