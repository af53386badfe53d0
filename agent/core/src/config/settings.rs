//! What a config means, once it has passed the checks: names resolved, ranges expanded, defaults filled in.

mod reputation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::reputation::{
    CountryNetworks, DnsSettings, Domain, Feed, FeedKind, Fuse, Hook, HookWay, Learning, ListSettings, Log,
    LogPlace, Preflight,
};
use crate::model::LaneMatch;

/// A config that passed every check.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Mode of every stream that has none of its own.
    pub mode: Mode,
    /// Steered destination ports.
    pub ports: Vec<u16>,
    /// Destinations that are never steered.
    pub exclude: Vec<IpNet>,
    /// Whether mailsteer puts addresses on the host.
    pub plumbing: Plumbing,
    /// Whether the nftables table is owned where the kernel can.
    pub own_table: OwnTable,
    /// Whether there has to be an eBPF guard.
    pub ebpf: Ebpf,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Who may do what through the control socket.
    pub control: ControlAccess,
    /// How much history is kept.
    pub retention: Retention,
    /// What a belief may do.
    pub safety: Safety,
    /// When too much of a stream's mail comes back.
    pub fuse: Fuse,
    /// DNS lists that are asked; `None`: none.
    pub lists: Option<ListSettings>,
    /// Whom a new source is tried with; `None`: it is not.
    pub preflight: Option<Preflight>,
    /// How DNS compliance is looked at; `None`: not.
    pub dns: Option<DnsSettings>,
    /// Who is told of events, in file order.
    pub hooks: Vec<Hook>,
    /// What is published of addresses, in file order.
    pub feeds: Vec<Feed>,
    /// Logs that are followed.
    pub logs: Vec<Log>,
    /// Uplinks as configured; empty: found by the default routes.
    pub uplinks: Vec<Uplink>,
    /// Providers in file order, then the groups of the table; what no one has is [`OTHER`].
    pub providers: Vec<Provider>,
    /// How addresses are found by names; `None`: only networks tell.
    pub learning: Option<Learning>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// Streams in the order in which they match.
    pub streams: Vec<Stream>,
}

/// Who may ask and command the agent, besides root and the agent's own user. Groups by their ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlAccess {
    /// Members may change something.
    pub operators: BTreeSet<u32>,
    /// Members may look; `None`: whoever may open the socket.
    pub readers: Option<BTreeSet<u32>>,
    /// Whether clients may ask which calls there are.
    pub reflection: bool,
}

impl Default for ControlAccess {
    fn default() -> Self {
        Self { operators: BTreeSet::new(), readers: None, reflection: true }
    }
}

/// Whether a stream is steered.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Count, change nothing.
    #[default]
    Observe,
    /// Steer this share, in thousandths.
    Canary(u16),
    /// Steer all.
    Enforce,
}

/// Whether mailsteer adds the pools' addresses to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Plumbing {
    /// Adds what is missing, and takes away only what it added.
    #[default]
    Plumb,
    /// Never adds or removes a pool address.
    Adopt,
}

/// Whether the nftables table is owned, so that a stranger's `nft flush ruleset` skips it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OwnTable {
    /// Where the kernel can (6.9 and later).
    #[default]
    Auto,
    /// Never.
    Never,
}

/// Whether there has to be an eBPF guard, the second lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ebpf {
    /// Where the kernel lets it; elsewhere one lock is enough.
    #[default]
    Auto,
    /// The agent does not start without it.
    Required,
    /// Never.
    Off,
}

/// How much history the state database keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Days that events are kept.
    pub events_days: u32,
    /// Events that are kept at most.
    pub events_max: u32,
    /// Days that ended verdicts and bypasses are kept, and what each address did on each.
    pub history_days: u32,
    /// Ended verdicts and bypasses that are kept at most, of each.
    pub history_max: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events_days: 90, events_max: 100_000, history_days: 400, history_max: 50_000 }
    }
}

/// What moves because of a belief may do: invariant 5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Safety {
    /// Flips of a stream on one day.
    pub flips_per_day: u32,
    /// What a sibling takes at most of its own share, in thousandths.
    pub surge: u32,
    /// What beliefs from silence may take of a pool in ten minutes, in thousandths.
    pub brake: u32,
    /// Failures in a row, each at another receiver, that isolate a source.
    pub failures: u32,
    /// Minutes of the first isolation for what no receiver said.
    pub silent_minutes: u32,
    /// Minutes of the first isolation for a receiver's own word.
    pub refused_minutes: u32,
}

impl Default for Safety {
    /// Three failures: a working source's connections fail once in a hundred times, three in a row once in a million. Five
    /// minutes are longer than a route takes to settle and a link to be mended by itself (BGP converges in minutes), and
    /// short beside the hours for which an MTA keeps trying. Blocks by rate or reputation last from half an hour to a day.
    fn default() -> Self {
        Self {
            flips_per_day: 3,
            surge: 1500,
            brake: 300,
            failures: 3,
            silent_minutes: 5,
            refused_minutes: 30,
        }
    }
}

/// What happens to a stream whose flips of the day are used up, when the next source fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRelapse {
    /// No further flip: a source that fails in silence goes on, the share of one that receivers refuse is refused.
    #[default]
    Hold,
    /// The stream is refused at that provider until a flip of the day before is a day old.
    Stop,
}

/// How a lane draws a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// At random.
    Random,
    /// The same source for the same destination address.
    Sticky,
}

/// What happens when a pool has no eligible source left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExhausted {
    /// Refuse at once: the MTA defers.
    #[default]
    Refuse,
    /// Let it leave unsteered.
    Pass,
}

/// What happens to IPv6 connections of a pool without an IPv6 source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// Refuse at once: the MTA falls back to IPv4.
    #[default]
    Refuse,
    /// Let it leave unsteered.
    Pass,
}

/// What happens to live connections of a source that has lost its last slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFlip {
    /// They go on until their MTA ends them.
    #[default]
    Finish,
    /// Those in which it is the MTA's turn to speak and it does not are closed: it keeps them for its next message,
    /// which would leave from the source that was just left.
    CloseIdle,
    /// They are closed at once, whatever they are at.
    Cut,
}

impl OnFlip {
    /// The word for it in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::CloseIdle => "close-idle",
            Self::Cut => "cut",
        }
    }
}

/// A pool.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The EHLO name that its MTA transports send.
    pub ehlo: Option<String>,
    /// How its lanes draw.
    pub balance: Balance,
    /// Primary sources, then spare ones, in the order written.
    pub sources: Vec<PoolSource>,
    /// With fewer eligible primary sources of a family than this, the spare ones take over what the others held.
    pub min_healthy: u32,
}

/// A source in a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSource {
    /// Its label, such as `bulk-1`.
    pub name: String,
    /// The address on this host.
    pub local: IpAddr,
    /// The address the world sees: its identity.
    pub public: IpAddr,
    /// Its share; 0: never.
    pub weight: u32,
    /// Primary or spare.
    pub tier: Tier,
    /// Index into [`Config::uplinks`]; `None` where none is configured.
    pub uplink: Option<usize>,
}

/// A pool's tiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Used first.
    Primary,
    /// Used when fewer primary sources are eligible than the pool's `min_healthy`.
    Spare,
}

/// A stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its pool's name.
    pub pool: String,
    /// Whose traffic.
    pub matches: LaneMatch,
    /// Whether it is steered.
    pub mode: Mode,
    /// Without an eligible source.
    pub on_exhausted: OnExhausted,
    /// IPv6 without an IPv6 source.
    pub ipv6: Ipv6,
    /// When its flips of the day are used up.
    pub on_relapse: OnRelapse,
    /// Live connections of a source that has lost its last slot.
    pub on_flip: OnFlip,
}

/// The provider of receivers that no other one has.
pub const OTHER: &str = "other";

/// Receivers that judge together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// Where its mail servers are; no two providers have an address in common.
    pub networks: Vec<IpNet>,
    /// Whether its mail servers are told by name too.
    pub named: bool,
}

/// An uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its interface.
    pub interface: String,
    /// Next hops, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// A source belongs to the uplink whose prefix holds it.
    pub prefixes: Vec<IpNet>,
}

/// What the checks need to know of the host.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    /// User names and ids; empty where the file is for another host, whose names are not known.
    pub users: BTreeMap<String, u32>,
    /// Group names and ids; empty likewise.
    pub groups: BTreeMap<String, u32>,
    /// The network; `None` where a file is checked away from its host.
    pub host: Option<crate::model::Host>,
    /// Name and text of the operator's own table of DNS lists.
    pub lists: Option<(String, String)>,
    /// The same of their table of rules for replies.
    pub replies: Option<(String, String)>,
    /// The same of their table of providers.
    pub providers: Option<(String, String)>,
    /// What the database of countries has of those that are asked for, or why it cannot be read; `None`: nobody looked.
    pub countries: Option<Result<CountryNetworks, String>>,
}

impl Config {
    /// What holds without any config: everything is counted, nothing is changed.
    #[must_use]
    pub fn observe_only() -> Self {
        super::load("(no config)", "", &HostView::default()).config.unwrap_or(Self {
            mode: Mode::Observe,
            ports: vec![25],
            exclude: vec![],
            plumbing: Plumbing::Plumb,
            own_table: OwnTable::Auto,
            ebpf: Ebpf::Auto,
            metrics: None,
            control: ControlAccess::default(),
            retention: Retention::default(),
            safety: Safety::default(),
            fuse: Fuse::default(),
            lists: None,
            preflight: None,
            dns: None,
            hooks: vec![],
            feeds: vec![],
            logs: vec![],
            uplinks: vec![],
            providers: vec![],
            learning: None,
            pools: BTreeMap::new(),
            streams: vec![],
        })
    }

    /// Whose receiver an address is by its network, and by which.
    #[must_use]
    pub fn provider_by_network(&self, receiver: IpAddr) -> Option<(&str, IpNet)> {
        let holds = |provider: &Provider| {
            provider.networks.iter().find(|network| network.contains(&receiver)).copied()
        };
        self.providers.iter().find_map(|provider| Some((provider.name.as_str(), holds(provider)?)))
    }

    /// Whether there is a provider of this name that is told by names.
    #[must_use]
    pub fn is_named(&self, provider: &str) -> bool {
        self.providers.iter().any(|one| one.named && one.name == provider)
    }

    /// The providers at which a stream has a lane, with their networks.
    pub fn providers_of(&self, stream: &Stream) -> impl Iterator<Item = (&str, &[IpNet])> {
        let only = stream.matches.providers.clone();
        self.all_providers().filter(move |(name, _)| only.is_empty() || only.iter().any(|one| one == name))
    }

    /// Every provider with its networks; the last is [`OTHER`], and has none.
    pub fn all_providers(&self) -> impl Iterator<Item = (&str, &[IpNet])> {
        let named =
            self.providers.iter().map(|provider| (provider.name.as_str(), provider.networks.as_slice()));
        named.chain([(OTHER, [].as_slice())])
    }

    /// The first stream that is matched by a cgroup. Only the eBPF programs know cgroups: without them nobody could tell
    /// whose its connections are.
    #[must_use]
    pub fn matched_by_cgroup(&self) -> Option<&Stream> {
        self.streams.iter().find(|stream| !stream.matches.cgroups.is_empty())
    }
}
