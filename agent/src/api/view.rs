//! What every answer is made of: plain data in the words of the design.
//!
//! Owns: the shape of answers. `--json` prints exactly these; the wire format mirrors them. Must not: know the
//! wire, a terminal, or where the data comes from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::config::Tier;
pub use mailsteer_core::decide::Who;
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
    /// The exit code of `status`.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
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
}

impl SourceState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Suspended, Self::Ineligible];

    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspended => "suspended",
            Self::Ineligible => "ineligible",
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
    /// Bytes sent, from the IP header on.
    pub bytes_out: u64,
    /// Bytes received, from the IP header on.
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

/// Where a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What should happen to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It leaves as it would without mailsteer.
    #[default]
    Alone,
    /// It leaves from a source of the pool.
    Steered,
    /// It is refused at once, by decision.
    Refused,
    /// Its SYN is dropped until there is a source.
    Held,
}

/// What happens to one connection, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Whose.
    pub who: Who,
    /// Where to.
    pub destination: Destination,
    /// Why no stream is even asked (port not steered, destination excluded); `None`: they are.
    pub not_steered: Option<String>,
    /// Every stream asked, in order, up to and including the one that matched.
    pub streams: Vec<StreamStep>,
    /// The pool of the stream that matched.
    pub pool: Option<String>,
    /// The family that the destination needs.
    pub family: Family,
    /// Each source of the pool in that family, and why it is taken or not.
    pub sources: Vec<SourceStep>,
    /// What happens, in a sentence.
    pub result: String,
    /// Facts of the host were not asked: a file was explained away from a running agent.
    pub assumed: Vec<String>,
    /// The stream that matched.
    pub stream: Option<String>,
    /// What happens to the share of it that is steered.
    pub fate: Fate,
    /// That share, in thousandths; 0 where it is left alone.
    pub share: u32,
}

/// A stream that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamStep {
    /// The stream.
    pub stream: String,
    /// It matched.
    pub matched: bool,
    /// Why, or why not.
    pub why: String,
}

/// A source of the pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SourceStep {
    /// The source.
    pub source: String,
    /// The address on the wire.
    pub address: IpAddr,
    /// Its tier.
    pub tier: Tier,
    /// Its share of the connections, 0 to 1; 0: none.
    pub share: f64,
    /// Why it has none; empty where it has some.
    pub why: String,
}

/// One step of a plan.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanRow {
    /// In a sentence.
    pub text: String,
    /// As data.
    pub action: serde_json::Value,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The file that was read.
    pub file: String,
    /// It differs from what was in force.
    pub changed: bool,
    /// Warnings about it, as text.
    pub warnings: Vec<String>,
}

/// What an operator's word did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// In a sentence.
    pub text: String,
    /// It changed something; asking twice does not.
    pub changed: bool,
}

/// What was taken away, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TeardownReport {
    /// What was removed.
    pub removed: Vec<String>,
    /// What is left, and why.
    pub left: Vec<String>,
}

/// A real connection made in a stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TryResult {
    /// The stream asked for.
    pub stream: String,
    /// What the connecting process saw.
    pub probe: Probe,
    /// What the agent would do with it, and why.
    pub explanation: Explanation,
    /// What the agent saw of it; `None`: no event came in time.
    pub connection: Option<ConnectionRow>,
    /// What became of it is what the explanation says: it left from a source that it names, or was refused, held or
    /// left alone where that was to be.
    pub as_wanted: bool,
    /// In a sentence.
    pub result: String,
}

/// What the connecting process saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Where to.
    pub destination: Destination,
    /// The socket's own address, before translation.
    pub local: Option<std::net::SocketAddr>,
    /// Socket cookie.
    pub cookie: u64,
    /// From `connect()` to its return, in milliseconds.
    pub connect_ms: f64,
    /// The receiver's first line.
    pub banner: Option<String>,
    /// Why there was no connection or no banner.
    pub error: Option<String>,
}
