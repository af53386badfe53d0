//! What the operator said: suspensions, bypasses and a hold, each with a reason, some with an end.
//!
//! Owns: their state and their expiry. Must not: touch slots; they are facts that `desired` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::EventKind;

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
    /// Drops what has expired and says so.
    pub(super) fn expire(&mut self, now: Timestamp, names: &BTreeMap<IpAddr, String>) -> Vec<EventKind> {
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
