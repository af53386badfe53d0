//! The config that `mailsteer init` writes: what was found on a host, as a file to start from.
//!
//! Owns: sorting what was found, and the text. Must not: read the host, or ask what can be found out. What cannot be
//! found out (what a 1:1 NAT makes of an address) is left as a commented place to fill in, so that the file always
//! passes `check` on the host that it was written for. It observes: putting it into force changes no connection.

mod sort;
mod text;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::Host;

pub use sort::is_container_bridge;
pub use text::write;

/// What was found on a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Links, addresses and routes.
    pub host: Host,
    /// IPv6 addresses that come and go by router advertisement.
    pub passing: BTreeSet<IpAddr>,
    /// MTAs, in the order in which their streams match.
    pub mtas: Vec<Mta>,
    /// The host's full name, if it has one.
    pub name: Option<String>,
}

/// An MTA that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mta {
    /// Its name, which its stream gets: small letters.
    pub name: String,
    /// By what it was found.
    pub evidence: String,
    /// How its connections are told from others.
    pub by: MatchBy,
}

/// How an MTA's connections are told from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MatchBy {
    /// By this user of the host, who is not root.
    User(String),
    /// By its cgroup: it connects as root, as others do.
    Cgroup(String),
}
