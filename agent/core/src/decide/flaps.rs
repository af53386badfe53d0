//! Sources that are lost and come back, and are lost again: their way back is held.
//!
//! Owns: how often each was lost lately, and until when its return waits. Must not: hold a loss; that is acted on at once.
//!
//! The first return is free: a link that was unplugged once, an address that another program took away and put back. From the
//! second within ten minutes on the source has to stay for 5 s, then 10, 20, and at most 5 minutes, before it serves again: each
//! flap costs a flip there and back, and what was begun in between.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::Reason;
use super::world::moved;

/// How long the second return waits; each further one twice as long.
const FIRST: SignedDuration = SignedDuration::from_secs(5);
/// Longest wait.
const LONGEST: SignedDuration = SignedDuration::from_mins(5);
/// After as long without a loss they are forgotten.
const CALM: SignedDuration = SignedDuration::from_mins(10);

/// Where a source that was lost is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    /// It is lost.
    Lost,
    /// It is back, and waits.
    Waits(Timestamp),
    /// It serves.
    Serves,
}

/// Losses of one source.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Flap {
    losses: u32,
    last: Timestamp,
    phase: Phase,
}

/// Losses of all sources.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Flaps(BTreeMap<IpAddr, Flap>);

impl Flaps {
    /// Takes in how a source stands: whether it served before, and whether it could serve by the facts.
    pub(super) fn look(&mut self, source: IpAddr, served: bool, could: bool, now: Timestamp) {
        let Some(flap) = self.0.get_mut(&source) else {
            if served && !could {
                self.0.insert(source, Flap { losses: 1, last: now, phase: Phase::Lost });
            }
            return;
        };
        match (flap.phase, could) {
            // Lost again, while it served or waited.
            (Phase::Serves | Phase::Waits(_), false) => {
                (flap.losses, flap.last, flap.phase) = (flap.losses + 1, now, Phase::Lost);
            }
            (Phase::Lost, true) => {
                let until = now.checked_add(wait(flap.losses)).unwrap_or(now);
                flap.phase = if until > now { Phase::Waits(until) } else { Phase::Serves };
            }
            (Phase::Waits(until), true) if until <= now => flap.phase = Phase::Serves,
            (Phase::Serves, true) if now.duration_since(flap.last) >= CALM => {
                self.0.remove(&source);
            }
            _ => {}
        }
    }

    /// Why a source that could serve waits, if it does.
    pub(super) fn holds(&self, source: IpAddr) -> Option<Reason> {
        match self.0.get(&source)?.phase {
            Phase::Waits(until) => Some(Reason::Flapping { until }),
            Phase::Lost | Phase::Serves => None,
        }
    }

    /// Forgets sources that are gone.
    pub(super) fn retain(&mut self, is_source: impl Fn(&IpAddr) -> bool) {
        self.0.retain(|source, _| is_source(source));
    }

    /// When a source may come back.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let waits = self.0.values().filter_map(|flap| match flap.phase {
            Phase::Waits(until) => Some(until),
            Phase::Lost | Phase::Serves => None,
        });
        waits.min()
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        for flap in self.0.values_mut() {
            flap.last = moved(flap.last, by);
            if let Phase::Waits(until) = &mut flap.phase {
                *until = moved(*until, by);
            }
        }
    }
}

/// How long the return after so many losses waits.
fn wait(losses: u32) -> SignedDuration {
    match losses {
        0 | 1 => SignedDuration::ZERO,
        more => FIRST.checked_mul(1 << (more - 2).min(10)).unwrap_or(LONGEST).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_first_return_is_free_and_each_further_one_waits_longer() {
        let (mut flaps, mut now) = (Flaps::default(), 0);
        for wait in [0, 5, 10, 20, 40, 80, 160, 300, 300] {
            flaps.look(SOURCE, true, false, at(now));
            flaps.look(SOURCE, false, true, at(now + 1));
            let until = (wait > 0).then(|| Reason::Flapping { until: at(now + 1 + wait) });
            assert_eq!(flaps.holds(SOURCE), until);
            assert_eq!(flaps.next_deadline(), (wait > 0).then(|| at(now + 1 + wait)));
            now += 1 + wait;
            flaps.look(SOURCE, false, true, at(now));
            assert_eq!(flaps.holds(SOURCE), None);
        }
    }

    #[test]
    fn what_is_lost_while_it_waits_waits_anew_and_calm_forgives() {
        let mut flaps = Flaps::default();
        for second in [0, 2, 4] {
            flaps.look(SOURCE, second == 0, false, at(second));
            flaps.look(SOURCE, false, true, at(second + 1));
        }
        assert_eq!(flaps.holds(SOURCE), Some(Reason::Flapping { until: at(15) }));
        flaps.look(SOURCE, false, true, at(15));
        flaps.look(SOURCE, true, true, at(603));
        assert_eq!(flaps.0.len(), 1);
        flaps.look(SOURCE, true, true, at(604));
        assert!(flaps.0.is_empty());
    }
}
