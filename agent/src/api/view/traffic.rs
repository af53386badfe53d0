//! Sources, connections and events: what there is, and what happened.
//!
//! Owns: their rows. Must not: sum anything up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::config::Tier;
use serde::{Deserialize, Serialize};

/// Whether a source may serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It may.
    #[default]
    Healthy,
    /// The operator suspended it.
    Suspended,
    /// A fact keeps it from serving.
    Ineligible,
    /// It may, and something may be wrong with it.
    Suspect,
    /// It is isolated at a provider, or at every one.
    Isolated,
    /// It is on its way back from that.
    Probation,
}

impl SourceState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Healthy, Self::Suspended, Self::Ineligible, Self::Suspect, Self::Isolated, Self::Probation];

    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspended => "suspended",
            Self::Ineligible => "ineligible",
            Self::Suspect => "suspect",
            Self::Isolated => "isolated",
            Self::Probation => "probation",
        }
    }
}

/// A source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceRow {
    /// Its name.
    pub name: String,
    /// The address the world sees.
    pub public: IpAddr,
    /// The address on this host.
    pub local: IpAddr,
    /// Pools it is in.
    pub pools: Vec<String>,
    /// Its tier (in the first of the pools).
    pub tier: Tier,
    /// Its weight (in the first of the pools).
    pub weight: u32,
    /// Its uplink; `None` where none is known.
    pub uplink: Option<String>,
    /// Whether it may serve.
    pub state: SourceState,
    /// Why not; empty where it may.
    pub reason: String,
    /// What became of its connections.
    pub counters: SourceCounters,
}

/// What became of a source's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceCounters {
    /// First SYN left.
    pub attempts: u64,
    /// Answered by a SYN-ACK.
    pub established: u64,
    /// Answered by a reset.
    pub refused: u64,
    /// Answered by an ICMP error.
    pub unreachable: u64,
    /// Established, ended by a reset.
    pub reset: u64,
    /// Never answered.
    pub unanswered: u64,
    /// Open now.
    pub open: u64,
    /// Bytes sent by connections that have ended, from the IP header on.
    pub bytes_out: u64,
    /// Bytes that they received, from the IP header on.
    pub bytes_in: u64,
    /// Counted by the table alone: `unreachable`, `reset`, `unanswered` and `open` are not known, and stand as 0.
    pub partial: bool,
}

/// What became of a connection attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The SYN was answered by a SYN-ACK.
    #[default]
    Established,
    /// The SYN was answered by a reset.
    Refused,
    /// The SYN was answered by an ICMP error.
    Unreachable,
    /// The SYN left and nobody ever answered.
    Unanswered,
    /// No SYN ever left this host, and that was no decision: lost on the way to the wire.
    Local,
    /// mailsteer refused it at once, by decision.
    Policy,
}

impl Outcome {
    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unanswered => "unanswered",
            Self::Local => "local",
            Self::Policy => "policy",
        }
    }
}

/// One connection attempt whose outcome is known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// When `connect()` was called, or the first SYN left.
    pub time: Timestamp,
    /// Process id; `None` for forwarded traffic.
    pub pid: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// cgroup path, or `id:NUMBER` where the path is gone.
    pub cgroup: Option<String>,
    /// The stream; `None`: matched by none.
    pub stream: Option<String>,
    /// Who receives.
    pub provider: String,
    /// The source that was chosen; `None`: not steered, or refused before one was chosen.
    pub wanted_source: Option<String>,
    /// Its address.
    pub wanted_address: Option<IpAddr>,
    /// The address on the wire; `None`: nothing left.
    pub real_address: Option<IpAddr>,
    /// Where to.
    pub destination: IpAddr,
    /// Port there.
    pub destination_port: u16,
    /// Port of the socket, before translation.
    pub local_port: Option<u16>,
    /// Socket cookie; `None` for forwarded traffic.
    pub cookie: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// From the first SYN to the outcome, in milliseconds.
    pub handshake_ms: f64,
    /// SYNs sent again.
    pub retransmits: u32,
}

/// Something that happened and that an operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// Counts up, also over restarts.
    pub number: u64,
    /// When.
    pub time: Timestamp,
    /// A word for what kind: `flip`, `repair`, `suspended`, `reload` ...
    pub kind: String,
    /// What it is about: a source, a stream, the table.
    pub subject: String,
    /// A sentence.
    pub text: String,
    /// What it rests on.
    pub evidence: BTreeMap<String, String>,
}
