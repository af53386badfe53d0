//! What the machine asks, hears and tells.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::pattern::Groups;
use crate::model::Family;

/// What an MTA says of a connection of its own: the next hop by its name in the MX record, and the address that it called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The name.
    pub host: String,
    /// The address.
    pub address: IpAddr,
}

/// A question to the resolver.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Query {
    /// The mail servers of a domain.
    Mx(String),
    /// The addresses of a mail server.
    Addresses(String, Family),
}

/// What the resolver said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Names of mail servers.
    Hosts(Vec<String>),
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// There is no such name, or nothing of the kind under it.
    Nothing,
    /// Nothing that says anything: SERVFAIL, REFUSED, a time-out, with the cause in words.
    Failed(String),
}

/// How often it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnerPace {
    /// Between two questions for the same domain or mail server.
    pub interval: SignedDuration,
    /// Questions a minute at most.
    pub per_minute: u32,
}

/// What is to be learned.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    /// Whose which name is.
    pub groups: Groups,
    /// Domains whose mail servers are looked up.
    pub domains: Vec<String>,
    /// How often.
    pub pace: LearnerPace,
}

/// Whose an address is, and by which name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The provider.
    pub provider: String,
    /// The name that leads to the address.
    pub host: String,
}

/// Addresses of which is known whose they are.
pub type Learned = BTreeMap<IpAddr, Named>;

/// How it goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Names of mail servers that are known.
    pub hosts: usize,
    /// Addresses that two groups' names lead to: nobody's.
    pub conflicts: usize,
    /// Names out of logs that lead to the address they were written beside.
    pub confirmed: u64,
    /// Names out of logs that do not, and were not believed.
    pub refused: u64,
    /// Names and addresses for which there was no room.
    pub left_out: u64,
    /// Questions in a row that the resolver left without an answer.
    pub failures: u32,
    /// What it said last in place of one.
    pub why: Option<String>,
}
