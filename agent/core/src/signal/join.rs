//! From what an MTA says of a delivery to the connection that carried it.
//!
//! Owns: connections that stood lately, and which of them a delivery can have used. Must not: guess. An MTA names its process,
//! the receiver's address and the time, and sometimes its own port; the kernel knows which source that connection took. Where
//! several connections fit and they did not all leave alike, the delivery is not joined, and that is counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// A connection that is older is nobody's: Postfix uses one for 300 s at most, and waits 600 s for the last reply
/// (`smtp_connection_reuse_time_limit`, `smtp_data_done_timeout`).
const LONGEST: SignedDuration = SignedDuration::from_mins(15);
/// The MTA's clock and ours are the same; reading both takes a moment.
const SLACK: SignedDuration = SignedDuration::from_millis(50);
/// Connections that are remembered, whatever their receivers.
const REMEMBERED: usize = 100_000;

/// A connection that stood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stood {
    /// When it began.
    pub at: Timestamp,
    /// Whose it was; none where the network forwarded it for a container.
    pub pid: Option<u32>,
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

/// What is known of a delivery's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sought {
    /// When the reply was written down.
    pub at: Timestamp,
    /// How much later it may have been: a second less a bit where the log has whole seconds.
    pub within: SignedDuration,
    /// The process that wrote it.
    pub pid: Option<u32>,
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
    /// None: not steered, or too long ago.
    None,
}

/// Connections of the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    by_receiver: HashMap<IpAddr, VecDeque<Stood>>,
    /// In the order in which they came, to forget the oldest.
    order: VecDeque<IpAddr>,
}

impl Connections {
    /// One more stood.
    pub fn stood(&mut self, one: Stood) {
        let long_ago = one.at.checked_sub(LONGEST).unwrap_or(one.at);
        while let Some(oldest) = self.order.front().copied() {
            let first = self.by_receiver.get(&oldest).and_then(|all| all.front());
            if self.order.len() < REMEMBERED && first.is_some_and(|first| first.at >= long_ago) {
                break;
            }
            self.order.pop_front();
            if let Some(all) = self.by_receiver.get_mut(&oldest) {
                all.pop_front();
                if all.is_empty() {
                    self.by_receiver.remove(&oldest);
                }
            }
        }
        self.order.push_back(one.destination);
        self.by_receiver.entry(one.destination).or_default().push_back(one);
    }

    /// The connection that a delivery used.
    #[must_use]
    pub fn find(&self, sought: &Sought) -> Found<'_> {
        let (from, to) = (sought.at.checked_sub(LONGEST), sought.at.checked_add(sought.within + SLACK));
        let (Ok(from), Ok(to)) = (from, to) else { return Found::None };
        let there = self.by_receiver.get(&sought.destination).into_iter().flatten();
        let near: Vec<&Stood> = there.filter(|one| one.at >= from && one.at <= to).collect();
        if let Some(port) = sought.local_port {
            // Used again within minutes, it is the last one's.
            let last = near.iter().rev().find(|one| one.local_port == Some(port));
            return last.map_or(Found::None, |one| Found::One(one));
        }
        let own: Vec<&Stood> =
            near.iter().copied().filter(|one| sought.pid.is_some() && one.pid == sought.pid).collect();
        // Handed on by another process, or whose process is not known: it may be any of them.
        if own.is_empty() {
            return alike(&near);
        }
        // A process that has one connection at a time wrote this down of its last one, or of one that it began in the time that
        // the log leaves open.
        let sure = own.iter().rposition(|one| one.at <= sought.at);
        alike(&own[sure.unwrap_or(0)..])
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

/// The one that all of them stand for.
fn alike<'c>(all: &[&'c Stood]) -> Found<'c> {
    let Some((first, others)) = all.split_first() else { return Found::None };
    let same = |one: &&Stood| one.source == first.source && one.stream == first.stream;
    if others.iter().all(same) { Found::One(first) } else { Found::Ambiguous }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn receiver(n: u8) -> IpAddr {
        IpAddr::from([20, 0, 0, n])
    }

    fn stood(second: i64, pid: u32, port: u16, to: u8, source: u8) -> Stood {
        Stood {
            at: at(second),
            pid: Some(pid),
            local_port: Some(port),
            destination: receiver(to),
            stream: "mail".into(),
            source: IpAddr::from([192, 0, 2, source]),
            provider: "other".into(),
        }
    }

    fn sought(second: i64, pid: Option<u32>, port: Option<u16>, to: u8) -> Sought {
        Sought {
            at: at(second),
            within: SignedDuration::ZERO,
            pid,
            local_port: port,
            destination: receiver(to),
        }
    }

    fn source(found: Found<'_>) -> Option<u8> {
        match found {
            Found::One(Stood { source: IpAddr::V4(address), .. }) => Some(address.octets()[3]),
            _ => None,
        }
    }

    #[test]
    fn a_port_or_a_process_tells_which() {
        let mut all = Connections::default();
        all.stood(stood(0, 7, 4001, 1, 11));
        all.stood(stood(1, 8, 4002, 1, 12));
        all.stood(stood(2, 7, 4003, 2, 13));
        all.stood(stood(13, 7, 4004, 1, 14));
        assert_eq!(source(all.find(&sought(15, None, Some(4002), 1))), Some(12));
        assert_eq!(source(all.find(&sought(15, Some(8), None, 1))), Some(12));
        assert_eq!(source(all.find(&sought(15, Some(7), None, 1))), Some(14), "its last one");
        assert_eq!(source(all.find(&sought(2, Some(7), None, 1))), Some(11), "as it was then");
        assert_eq!(all.find(&sought(5, None, Some(4009), 1)), Found::None);
    }

    #[test]
    fn what_could_be_several_is_not_guessed() {
        let mut all = Connections::default();
        all.stood(stood(0, 7, 4001, 1, 11));
        all.stood(stood(1, 8, 4002, 1, 12));
        all.stood(stood(1, 8, 4003, 2, 13));
        all.stood(stood(2, 9, 4004, 2, 13));
        assert_eq!(all.find(&sought(5, Some(99), None, 1)), Found::Ambiguous);
        assert_eq!(source(all.find(&sought(5, Some(99), None, 2))), Some(13), "all of them left alike");
        assert_eq!(all.find(&sought(5, None, None, 3)), Found::None);
        assert_eq!(all.find(&sought(2_000, Some(7), None, 1)), Found::None, "too long ago");
    }

    /// A log of whole seconds leaves open which of a second's connections it was.
    #[test]
    fn within_the_time_that_the_log_leaves_open_nothing_is_guessed() {
        let mut all = Connections::default();
        all.stood(stood(0, 7, 4001, 1, 11));
        all.stood(Stood { at: at(5) + SignedDuration::from_millis(500), ..stood(5, 7, 4002, 1, 12) });
        let whole =
            |second| Sought { within: SignedDuration::from_millis(999), ..sought(second, Some(7), None, 1) };
        assert_eq!(all.find(&whole(5)), Found::Ambiguous);
        assert_eq!(source(all.find(&whole(4))), Some(11));
        assert_eq!(source(all.find(&whole(6))), Some(12));
        assert_eq!(source(all.find(&sought(5, Some(7), None, 1))), Some(11), "its time is exact");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let mut all = Connections::default();
        for n in 0..u32::try_from(REMEMBERED).unwrap() + 500 {
            all.stood(stood(i64::from(n / 1000), n, 4001, 1, 11));
        }
        assert!(all.len() <= REMEMBERED);
        all.stood(stood(100_000, 1, 4001, 2, 11));
        assert_eq!(all.len(), 1);
    }
}
