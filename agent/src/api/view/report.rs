//! What each address did over some days.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What all addresses did, from the first day to the last, both included. Days are those of UTC.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The first day, as `2026-11-23`.
    pub from: String,
    /// The last day.
    pub to: String,
    /// The first day of which anything is known at all.
    pub kept_since: Option<String>,
    /// In the order of the config; addresses that are in it no more come last.
    pub rows: Vec<ReportRow>,
    /// What is missing, in sentences.
    pub notes: Vec<String>,
}

/// What an address did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportRow {
    /// The source's name; empty where it is not known any more.
    pub source: String,
    /// Its public address.
    pub public: IpAddr,
    /// Connections whose first SYN left.
    pub attempts: u64,
    /// Those that were answered.
    pub established: u64,
    /// Messages that receivers took. Of messages only those count whose replies were reported.
    pub accepted: u64,
    /// Messages that they put off.
    pub deferred: u64,
    /// Replies that refuse the address itself, for now or for good.
    pub blocked: u64,
    /// Messages that they refused for good, for another reason.
    pub bounced: u64,
    /// Complaints of recipients.
    pub complaints: u64,
    /// How often a DNS list took it up.
    pub listed: u64,
    /// For how many seconds it was on any.
    pub listed_seconds: u64,
    /// How often it lost a share of a stream.
    pub flips: u64,
}
