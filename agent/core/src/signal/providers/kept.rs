//! What outlives a restart: mail servers and their addresses, so that the next agent does not begin with none.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::host::Host;

/// A mail server as it is written down. Whose it is is not: the config may say otherwise by then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptHost {
    /// Its name.
    pub host: String,
    /// When an MX record that was asked for named it.
    pub listed: Option<Timestamp>,
    /// When anybody named it last.
    pub named: Timestamp,
    /// Its addresses, and when the name led there last.
    pub addresses: Vec<(IpAddr, Timestamp)>,
}

impl KeptHost {
    pub(super) fn of(name: &str, host: &Host) -> Self {
        let addresses = host.addresses.iter().map(|(address, seen)| (*address, *seen)).collect();
        Self { host: name.to_owned(), listed: host.listed, named: host.named, addresses }
    }

    /// By a clock that may have been another: nothing lies ahead.
    pub(super) fn into_host(self, group: &str, now: Timestamp) -> Host {
        let mut host = Host::new(group, self.named.min(now));
        host.listed = self.listed.map(|at| at.min(now));
        host.due = now;
        host.addresses = self.addresses.into_iter().map(|(address, seen)| (address, seen.min(now))).collect();
        host
    }
}
