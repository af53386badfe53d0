//! What is desired of the kernel: complete, and in words of no particular data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Countries, Family, LaneId, SourceId, UplinkId};
use crate::config::{Balance, OnFlip};

/// Everything that should stand on the host, and why.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    /// Steered ports.
    pub ports: Vec<u16>,
    /// Destinations that are never steered: configured, and networks behind interfaces that are no uplinks.
    /// Disjoint and sorted.
    pub exclude: Vec<IpNet>,
    /// Addresses that should be on the host.
    pub addresses: Vec<WantedAddress>,
    /// Uplinks and how each is reached.
    pub uplinks: Vec<UplinkPlan>,
    /// Whether each uplink gets a routing table of its own: where uplinks are declared, mail leaves by them whatever the
    /// main table says.
    pub policy_routing: bool,
    /// Lanes in the order in which streams match.
    pub lanes: Vec<Lane>,
    /// Addresses that were learned of each provider that is told by names, some with none.
    pub receivers: Arc<ReceiverSets>,
    /// Source ids and the addresses that a connection bearing them must leave from. Also holds sources that no
    /// slot uses any more, while connections of theirs may live.
    pub sources: Vec<GuardSource>,
    /// Whether anything is steered, so that the guard drops and does not only count.
    pub armed: bool,
    /// Whether there is an eBPF guard that could be told anything.
    pub guard: bool,
    /// Steered lanes whose live connections do not all go on when their source has lost its last slot there.
    pub on_flip: BTreeMap<LaneId, OnFlip>,
    /// For each lane and family, why each source was chosen or not.
    pub choices: Vec<Choice>,
}

/// Addresses of receivers, by provider.
pub type ReceiverSets = BTreeMap<String, BTreeSet<IpAddr>>;

/// An address that should be on the host.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WantedAddress {
    /// The address.
    pub address: IpAddr,
    /// Name of the interface it should be on.
    pub interface: String,
    /// What for.
    pub kind: WantedKind,
}

/// What an address is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WantedKind {
    /// Mail leaves from it; announced to the neighbours.
    Source,
    /// An MTA's transport binds to it; stays on lo.
    Tag,
}

/// An uplink with what is known of the way onward.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UplinkPlan {
    /// Its number in the mark.
    pub id: UplinkId,
    /// Its name in the config, or the interface's.
    pub name: String,
    /// Its interface.
    pub interface: String,
    /// The interface's number; `None` while it does not exist.
    pub ifindex: Option<u32>,
    /// Whether its link is up: the kernel takes the routes away with the link, and takes none until it is up again.
    pub up: bool,
    /// Routes of its own table.
    pub routes: Vec<OnwardRoute>,
}

/// One route of an uplink's table.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OnwardRoute {
    /// Where to.
    pub destination: IpNet,
    /// By which next hop; `None`: directly.
    pub gateway: Option<IpAddr>,
}

/// A stream at a provider: the unit that chooses.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lane {
    /// Its number in the mark.
    pub id: LaneId,
    /// The stream.
    pub stream: String,
    /// The provider.
    pub provider: String,
    /// Where its receivers are, besides those in [`Desired::receivers`]. Where it has neither: wherever no other lane of the
    /// stream takes them (`other`).
    pub networks: Vec<IpNet>,
    /// Whose traffic.
    pub matches: LaneMatch,
    /// Whether it is steered.
    pub steering: Steering,
    /// How a slot is drawn.
    pub balance: Balance,
    /// The slots of each family.
    pub slots: BTreeMap<Family, Slots>,
}

/// Whose traffic a lane takes. Every list that is not empty must match; within a list one entry is enough.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LaneMatch {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids.
    pub gids: Vec<u32>,
    /// cgroup paths, from the root of the cgroup2 hierarchy; a cgroup's children belong to it.
    pub cgroups: Vec<String>,
    /// Tags: the address the socket is bound to.
    pub tags: Vec<IpAddr>,
    /// Source networks of forwarded traffic (containers).
    pub subnets: Vec<IpNet>,
    /// Packet marks that others set.
    pub marks: Vec<u32>,
    /// Incoming interfaces of forwarded traffic.
    pub via: Vec<String>,
    /// Destination networks.
    pub destinations: Vec<IpNet>,
    /// Providers whose receivers they are.
    #[serde(default)]
    pub providers: Vec<String>,
    /// Countries that the receivers are in.
    #[serde(default)]
    pub countries: Countries,
}

impl fmt::Display for LaneMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn or<T: ToString>(list: &[T]) -> String {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
        }
        let parts = [
            ("user id", or(&self.uids)),
            ("group id", or(&self.gids)),
            ("cgroup", or(&self.cgroups)),
            ("bound to", or(&self.tags)),
            ("from", or(&self.subnets)),
            ("packet mark", or(&self.marks)),
            ("in by", or(&self.via)),
            ("to", or(&self.destinations)),
            ("at", or(&self.providers)),
            ("in", or(&self.countries.codes)),
        ];
        let given = parts.iter().filter(|(_, list)| !list.is_empty());
        let texts: Vec<String> = given.map(|(what, list)| format!("{what} {list}")).collect();
        f.write_str(if texts.is_empty() { "everything" } else { "" })?;
        f.write_str(&texts.join(" and "))
    }
}

/// Whether a lane's connections are steered.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// Counted and left alone.
    Observe,
    /// This share (in thousandths) is steered, the rest is left alone.
    Canary(u16),
    /// All of it is steered.
    Enforce,
    /// Left alone for a limited time, by the operator's word.
    Bypass,
}

/// The slots of a lane for one family: a source's share of the lane is its share of the slots.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slots(pub Vec<SlotTarget>);

impl Slots {
    /// What becomes of the lane's connections: a source where any slot has one, else what the slots say.
    #[must_use]
    pub fn says(&self) -> Option<SlotTarget> {
        let serves = |target: &&SlotTarget| matches!(target, SlotTarget::Source(..));
        self.0.iter().find(serves).or_else(|| self.0.first()).copied()
    }

    /// How many slots lead to no source, though others do: shares that stay with sources which cannot serve, while the
    /// operator holds.
    #[must_use]
    pub fn stranded(&self) -> usize {
        match self.says() {
            Some(SlotTarget::Source(..)) => {
                self.0.iter().filter(|target| !matches!(target, SlotTarget::Source(..))).count()
            }
            _ => 0,
        }
    }
}

/// What one slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotTarget {
    /// Leave from this source by this uplink.
    Source(SourceId, UplinkId),
    /// Refuse at once.
    Refuse(RefuseReason),
    /// Leave unsteered (`on_exhausted = "pass"`, `ipv6 = "pass"`).
    Pass,
    /// Wait: addresses are being put on the host. The SYN is dropped and comes again.
    Hold,
}

/// Why a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// No eligible source is left.
    Exhausted,
    /// The pool has no IPv4 source.
    NoIpv4Source,
    /// The pool has no IPv6 source.
    NoIpv6Source,
    /// The share of a source that failed, of which its siblings may take no more.
    Surge,
    /// The stream is stopped at this provider: its flips of the day are used up.
    Stopped,
    /// Too much of what the stream sent from this share's source comes back.
    Fuse,
}

impl RefuseReason {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Exhausted, Self::NoIpv4Source, Self::NoIpv6Source, Self::Surge, Self::Stopped, Self::Fuse];

    /// The word for it in metrics, counters and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::NoIpv4Source => "no_ipv4_source",
            Self::NoIpv6Source => "no_ipv6_source",
            Self::Surge => "surge",
            Self::Stopped => "stopped",
            Self::Fuse => "fuse",
        }
    }
}

/// A source id and where its connections must leave from.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GuardSource {
    /// Its id.
    pub id: SourceId,
    /// Its address on this host.
    pub address: IpAddr,
    /// Number of the interface it must leave by; `None`: any.
    pub ifindex: Option<u32>,
}

impl GuardSource {
    /// The number of no interface (the kernel's are positive `int`s): what must leave by an interface that is gone is
    /// held until it is back.
    pub const NOWHERE: u32 = u32::MAX;
}

/// What was decided of one source in one lane and family, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Choice {
    /// The lane.
    pub lane: LaneId,
    /// The family.
    pub family: Family,
    /// The source's name.
    pub source: String,
    /// Taken or not.
    pub mode: ChoiceMode,
}

/// Taken or not, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "why")]
pub enum ChoiceMode {
    /// It holds this many slots of so many.
    Chosen {
        /// Slots it holds.
        slots: u32,
        /// Slots of the lane.
        of: u32,
    },
    /// It holds none.
    Discarded(crate::decide::Reason),
}
