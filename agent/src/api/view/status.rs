//! The agent as a whole: config, locks, streams, pools, what the operator said.
//!
//! Owns: the shape of `status`. Must not: say how things stand (`headline` does).

use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::config::Tier;
use mailsteer_core::model::Family;
use serde::{Deserialize, Serialize};

/// How things stand, worst first when compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every message leaves where it should.
    #[default]
    Ok,
    /// Steering works; something wants a look.
    Attention,
    /// Mail does not leave as it should, or a lock is open.
    Broken,
}

impl Level {
    /// The exit status of `status`.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Attention => 1,
            Self::Broken => 2,
        }
    }
}

/// The answer in one line: is every message leaving where it should, and if not, what to do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Headline {
    /// How things stand.
    pub level: Level,
    /// The sentence.
    pub sentence: String,
    /// What to do; empty where nothing is to be done.
    pub advice: String,
}

/// The agent as a whole.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The first line; computed from the rest by [`super::headline`].
    pub headline: Headline,
    /// The agent's version.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Seconds since the last full reconcile that found or made everything as desired; `None`: never yet.
    pub reconcile_age_seconds: Option<f64>,
    /// The config.
    pub config: ConfigState,
    /// The two locks.
    pub locks: Locks,
    /// Streams in the order in which they match.
    pub streams: Vec<StreamState>,
    /// Eligible sources of each pool.
    pub pools: Vec<PoolState>,
    /// What was counted since the counters were made.
    pub totals: Totals,
    /// Share of the conntrack table in use, 0 to 1; `None` where it cannot be read.
    pub conntrack_used_ratio: Option<f64>,
    /// How often the table had to be repaired.
    pub table_repairs: u64,
    /// Sources that the operator suspended.
    pub suspended: Vec<Suspension>,
    /// Streams that the operator lets pass for a time.
    pub bypasses: Vec<BypassState>,
    /// Nothing changes by itself, by the operator's word.
    pub hold: Option<HoldState>,
    /// What went wrong last and still holds, in sentences (a failed action, an unreadable file).
    pub faults: Vec<String>,
    /// When this was said.
    pub time: Timestamp,
    /// The directory that the paths of cgroups start from.
    pub cgroup_root: String,
}

/// The config file and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigState {
    /// The file; `None`: the agent runs without one and observes.
    pub file: Option<String>,
    /// When the config in force was loaded.
    pub loaded: Option<Timestamp>,
    /// Why the file is not in force as it stands on disk; the config before it is.
    pub error: Option<String>,
}

/// The two locks of invariant 1.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Locks {
    /// The nftables table stands as it should.
    pub table: bool,
    /// The kernel protects the table from strangers (owner flag).
    pub table_owned: bool,
    /// The eBPF guard is attached at every uplink.
    pub guard: bool,
    /// The guard drops what has no right to leave (it only counts while no stream is steered).
    pub guard_armed: bool,
    /// Why there is no guard; `None` where there is one, attached or not.
    pub guard_error: Option<String>,
}

impl Locks {
    /// How many hold: what one lets through, the other stops.
    #[must_use]
    pub fn held(&self) -> u8 {
        u8::from(self.table) + u8::from(self.guard && self.guard_armed)
    }

    /// What nobody sees where there is no guard, in words.
    #[must_use]
    pub fn unseen(&self) -> Vec<&'static str> {
        if self.guard_error.is_none() { Vec::new() } else { UNSEEN.to_vec() }
    }
}

/// What only the eBPF programs see.
const UNSEEN: [&str; 5] = [
    "single connections (`connections`, `try` sees its own)",
    "connections that nobody answered, that an ICMP error ended, or of which no SYN left",
    "connections ended by a reset, and those open now",
    "packets that left with a wrong address while the table was away",
    "streams that are told by their cgroup",
];

/// A stream's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamMode {
    /// Counted and left alone.
    #[default]
    Observe,
    /// A share is steered.
    Canary,
    /// All of it is steered.
    Enforce,
    /// Left alone for a limited time, by the operator's word.
    Bypass,
}

impl StreamMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Observe, Self::Canary, Self::Enforce, Self::Bypass];

    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Canary => "canary",
            Self::Enforce => "enforce",
            Self::Bypass => "bypass",
        }
    }
}

/// A stream.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its mode.
    pub mode: StreamMode,
    /// Thousandths that are steered: 0 in observe and bypass, 1000 in enforce.
    pub share: u32,
    /// Whose traffic, in words: `user 105 and tag 198.18.0.2`.
    pub matches: String,
    /// Families in which no source serves: its connections are refused, held or passed (see `explain`).
    pub exhausted: Vec<Family>,
    /// Tags that its connections may bind to.
    pub tags: Vec<IpAddr>,
    /// User ids it matches.
    pub uids: Vec<u32>,
    /// Group ids it matches.
    pub gids: Vec<u32>,
    /// cgroup paths it matches.
    pub cgroups: Vec<String>,
    /// It matches something that only forwarded traffic has (subnet, via): no program of this host can try it.
    pub forwarded: bool,
    /// Packet marks it matches.
    pub marks: Vec<u32>,
}

/// How many sources of a pool are eligible.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolState {
    /// The pool.
    pub pool: String,
    /// The tier.
    pub tier: Tier,
    /// The family.
    pub family: Family,
    /// Eligible sources.
    pub eligible: u32,
    /// All sources.
    pub total: u32,
    /// Those that the operator suspended.
    pub suspended: u32,
}

/// What was counted, over all streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Packets of steered connections that left with another address than was chosen (only while the guard is open).
    pub wrong: u64,
    /// Packets held in a gap.
    pub held: u64,
    /// Connections refused by decision.
    pub refused: u64,
    /// Connections whose first SYN left.
    pub attempts: u64,
    /// Connections that were established.
    pub established: u64,
    /// Packets of steered connections that bore another address and were stopped on this host.
    pub stopped: u64,
    /// When `wrong` last grew; `None`: not while this agent ran.
    pub wrong_last: Option<Timestamp>,
    /// When `stopped` last grew; `None`: not while this agent ran.
    pub stopped_last: Option<Timestamp>,
}

/// A source that the operator suspended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suspension {
    /// The source.
    pub source: String,
    /// In the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until resumed.
    pub until: Option<Timestamp>,
}

/// A stream that passes unsteered for a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BypassState {
    /// The stream.
    pub stream: String,
    /// In the operator's words.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
}

/// No share moves by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HoldState {
    /// In the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until it is ended.
    pub until: Option<Timestamp>,
}
