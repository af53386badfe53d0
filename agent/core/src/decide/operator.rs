//! What the operator said: suspensions, bypasses and a hold, each with a reason, some with an end.
//!
//! Owns: their state and their expiry. Must not: touch slots; they are facts that `desired` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::EventKind;
use super::world::moved;

/// A source set aside by the operator, known by its public address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suspension {
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until resumed.
    pub until: Option<Timestamp>,
}

/// A stream that is left alone for a limited time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bypass {
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// No automatic change, by the operator's word: no slot changes hands. What a source may not serve of its own share is
/// refused and not moved, and is its own again as soon as it can serve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until it is ended.
    pub until: Option<Timestamp>,
    /// Local addresses that share the traffic meanwhile: those that could serve when it began, and those that the
    /// operator put into service since.
    pub serving: BTreeSet<IpAddr>,
}

/// What an operator can say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Set a source aside.
    Suspend {
        /// Its name, or its public or local address.
        source: String,
        /// Until when; `None`: until resumed.
        until: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// Let it serve again.
    Resume {
        /// Its name, or its public or local address.
        source: String,
        /// Why.
        reason: String,
    },
    /// Leave a stream alone for a time.
    Bypass {
        /// The stream.
        stream: String,
        /// Until when.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// Let nothing change by itself.
    Hold {
        /// Until when; `None`: until it is ended.
        until: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// Let things change again.
    EndHold {
        /// Why.
        reason: String,
    },
    /// Steer it again before the time is over.
    EndBypass {
        /// The stream.
        stream: String,
        /// Why.
        reason: String,
    },
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OperatorError {
    /// No such source.
    #[error("no source is called `{name}`; `mailsteer sources` lists them")]
    UnknownSource {
        /// What was asked for.
        name: String,
    },
    /// No such stream.
    #[error("no stream is called `{name}`; `mailsteer status` lists them")]
    UnknownStream {
        /// What was asked for.
        name: String,
    },
    /// The source is not suspended.
    #[error("{source_name} is not suspended")]
    NotSuspended {
        /// The source.
        source_name: String,
    },
    /// The stream is not bypassed.
    #[error("stream {stream} is not bypassed")]
    NotBypassed {
        /// The stream.
        stream: String,
    },
    /// There is no hold to end.
    #[error("nothing is on hold")]
    NotHeld,
    /// The time given is over already.
    #[error("that time is over already: give one that lies ahead")]
    Past,
}

/// What the operator said and still holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Operator {
    pub(super) suspended: BTreeMap<IpAddr, Suspension>,
    pub(super) bypassed: BTreeMap<String, Bypass>,
    pub(super) hold: Option<Hold>,
}

impl Operator {
    /// What was said for a time lasts as long as it would have by the clock before it was set.
    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        for (since, until) in self.times() {
            *since = moved(*since, by);
            if let Some(until) = until {
                *until = moved(*until, by);
            }
        }
    }

    /// What was said later than now was said by a clock that was set back meanwhile: it begins now, so that a limited
    /// time stays limited.
    fn nothing_of_the_future(&mut self, now: Timestamp) {
        for (since, until) in self.times().into_iter().filter(|(since, _)| **since > now) {
            let ahead = now.duration_since(*since);
            if let Some(until) = until {
                *until = moved(*until, ahead);
            }
            *since = now;
        }
    }

    fn times(&mut self) -> Vec<(&mut Timestamp, Option<&mut Timestamp>)> {
        let suspended = self.suspended.values_mut().map(|one| (&mut one.since, one.until.as_mut()));
        let bypassed = self.bypassed.values_mut().map(|one| (&mut one.since, Some(&mut one.until)));
        let hold = self.hold.as_mut().map(|one| (&mut one.since, one.until.as_mut()));
        suspended.chain(bypassed).chain(hold).collect()
    }

    /// Drops what has expired and says so.
    pub(super) fn expire(&mut self, now: Timestamp, names: &BTreeMap<IpAddr, String>) -> Vec<EventKind> {
        self.nothing_of_the_future(now);
        let mut events = Vec::new();
        self.suspended.retain(|address, suspension| {
            let stays = suspension.until.is_none_or(|until| until > now);
            if !stays {
                let source = names.get(address).cloned().unwrap_or_else(|| address.to_string());
                events.push(EventKind::Resumed { source, address: *address, why: "its time is over".into() });
            }
            stays
        });
        self.bypassed.retain(|stream, bypass| {
            let stays = bypass.until > now;
            if !stays {
                events
                    .push(EventKind::BypassEnded { stream: stream.clone(), why: "its time is over".into() });
            }
            stays
        });
        if self.hold.take_if(|hold| hold.until.is_some_and(|until| until <= now)).is_some() {
            events.push(EventKind::HoldEnded { why: "its time is over".into() });
        }
        events
    }

    /// The next time at which something expires.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let suspensions = self.suspended.values().filter_map(|suspension| suspension.until);
        let hold = self.hold.as_ref().and_then(|hold| hold.until);
        suspensions.chain(self.bypassed.values().map(|bypass| bypass.until)).chain(hold).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-01-05T{time}Z").parse().unwrap()
    }

    /// Said before a reboot, and the host wakes up with a clock that is hours behind.
    #[test]
    fn what_was_said_in_the_future_lasts_no_longer_than_it_was_meant_to() {
        let bypass = Bypass { reason: String::new(), since: at("10:00:00"), until: at("10:30:00") };
        let mut operator =
            Operator { bypassed: BTreeMap::from([("mail".into(), bypass)]), ..Operator::default() };
        assert!(operator.expire(at("04:00:00"), &BTreeMap::new()).is_empty());
        assert_eq!(operator.next_deadline(), Some(at("04:30:00")));
        // Then the right time is told, ten minutes later.
        operator.follow_clock(SignedDuration::from_hours(6));
        assert!(operator.expire(at("10:10:00"), &BTreeMap::new()).is_empty());
        assert_eq!(operator.expire(at("10:30:00"), &BTreeMap::new()).len(), 1);
    }
}
