//! What is asked of lists, how fast, and what is found.
//!
//! Owns: the words between the machine and those who carry its queries out. Must not: know when anything is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::SignedDuration;

use super::answer::Reading;
use super::table::Action;

/// How fast.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// From one round of a list to the next.
    pub interval: SignedDuration,
    /// Queries a minute at most. Where that is too few, rounds take longer.
    pub per_minute: u32,
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    /// A test point, and whether it has to be on the list.
    Test(bool),
    /// An address.
    Address(IpAddr),
}

/// A query to be made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Query {
    /// Which round it belongs to.
    pub round: u64,
    /// The list's name.
    pub list: String,
    /// What is asked.
    pub what: What,
    /// The name to ask an A record of.
    pub name: String,
    /// Whether the TXT record of a listing is wanted too.
    pub reason: bool,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListEvent {
    /// An address is on a list, asked twice.
    Listed {
        /// The list.
        list: String,
        /// The address.
        address: IpAddr,
        /// What its codes mean.
        meaning: String,
        /// What follows.
        action: Action,
        /// The list's own words.
        reason: Option<String>,
    },
    /// It is on the list no more.
    Cleared {
        /// The list.
        list: String,
        /// The address.
        address: IpAddr,
    },
    /// A list does not pass its tests: nobody looks at it until it does.
    SetAside {
        /// The list.
        list: String,
        /// Why.
        why: String,
    },
    /// It passes them again.
    Back {
        /// The list.
        list: String,
    },
    /// A list gives answers that say nothing, other than before.
    Unknown {
        /// The list.
        list: String,
        /// What it answers.
        why: String,
    },
}

/// What is known of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Why it is set aside, if it is.
    pub aside: Option<String>,
    /// Whether it has passed its tests at all.
    pub tested: bool,
    /// Queries by what came of them: `clean`, `listed`, `unknown`.
    pub answers: BTreeMap<&'static str, u64>,
}

impl Standing {
    pub(super) fn count(&mut self, reading: &Reading) {
        let word = match reading {
            Reading::Clean => "clean",
            Reading::Listed { .. } | Reading::Score(_) => "listed",
            Reading::Unknown(_) => "unknown",
        };
        *self.answers.entry(word).or_default() += 1;
    }
}
