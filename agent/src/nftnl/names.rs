//! Names of everything in the table, and what a counter's name tells.
//!
//! Owns: the names, which are an interface between the rules that count and the reader that reports. Must not:
//! change a name lightly: counters outlive an agent.

use std::fmt;

use mailsteer_core::model::{LaneId, RefuseReason};

/// Names of chains.
pub mod chain {
    use mailsteer_core::model::LaneId;

    /// Local connections.
    pub const OUTPUT: &str = "output";
    /// Forwarded connections.
    pub const PREROUTING: &str = "prerouting";
    /// Connections that no stream matches.
    pub const UNMATCHED: &str = "unmatched";
    /// Takes our own probes past the lanes.
    pub const PROBE: &str = "probe";
    /// Source translation.
    pub const TRANSLATE: &str = "translate";
    /// The last look in nftables.
    pub const VERIFY: &str = "verify";
    /// What `verify` does with packets that bear a mark of ours.
    pub const CHECK: &str = "check";
    /// Counts what leaves, where no eBPF program does.
    pub const LEAVES: &str = "leaves";
    /// Counts what comes back, where no eBPF program does.
    pub const ANSWERS: &str = "answers";

    /// A lane's chain.
    #[must_use]
    pub fn lane(id: LaneId) -> String {
        format!("lane_{id}")
    }

    /// Whose chain that is; `None` where it is no lane's.
    #[must_use]
    pub fn lane_of(name: &str) -> Option<LaneId> {
        name.strip_prefix("lane_")?.parse().ok().map(LaneId)
    }

    /// Between stream and provider, in the comment that names a lane.
    pub const AT: &str = " at ";
}

/// Names of maps and sets.
pub mod map {
    use mailsteer_core::model::Family;

    /// Slot key to mark.
    pub const SLOTS: &str = "slots";

    /// Source id to address.
    #[must_use]
    pub const fn addresses(family: Family) -> &'static str {
        match family {
            Family::V4 => "addr4",
            Family::V6 => "addr6",
        }
    }

    /// Pairs of source id and address that may leave.
    #[must_use]
    pub const fn eligible(family: Family) -> &'static str {
        match family {
            Family::V4 => "ok4",
            Family::V6 => "ok6",
        }
    }

    /// Learned addresses of a provider, by its number.
    #[must_use]
    pub fn learned(number: usize, family: Family) -> String {
        numbered("learned", number, family)
    }

    /// Which provider's set that is, and of which family; `None` where it is none.
    #[must_use]
    pub fn learned_of(name: &str) -> Option<(usize, Family)> {
        let (family, number) = name.strip_prefix("learned")?.split_once('_')?;
        let family = Family::BOTH.into_iter().find(|one| digit(*one) == family)?;
        Some((number.parse().ok()?, family))
    }

    /// Networks of countries, by the number of their list.
    #[must_use]
    pub fn countries(number: usize, family: Family) -> String {
        numbered(COUNTRIES, number, family)
    }

    /// Whether a set holds networks of countries.
    #[must_use]
    pub fn is_countries(name: &str) -> bool {
        name.strip_prefix(COUNTRIES).is_some_and(|rest| rest.starts_with(['4', '6']))
    }

    const COUNTRIES: &str = "countries";

    fn numbered(what: &str, number: usize, family: Family) -> String {
        format!("{what}{}_{number}", digit(family))
    }

    const fn digit(family: Family) -> &'static str {
        match family {
            Family::V4 => "4",
            Family::V6 => "6",
        }
    }

    /// Destinations that are never steered.
    #[must_use]
    pub const fn exclude(family: Family) -> &'static str {
        match family {
            Family::V4 => "exclude4",
            Family::V6 => "exclude6",
        }
    }
}

/// What the rules count of each pair of lane and source where no eBPF program does: names of sets whose elements count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum PairSet {
    /// First SYNs on their way out, after every check.
    Attempted,
    /// SYN-ACKs.
    Established,
    /// Resets in answer to a SYN.
    Refused,
    /// All packets out.
    Sent,
    /// All packets in.
    Received,
}

impl PairSet {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Attempted, Self::Established, Self::Refused, Self::Sent, Self::Received];

    /// Its name in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempted => "attempted",
            Self::Established => "established",
            Self::Refused => "refused",
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// Name of the conntrack timeouts that steered connections get.
#[must_use]
pub const fn timeout(family: mailsteer_core::model::Family) -> &'static str {
    match family {
        mailsteer_core::model::Family::V4 => "steered4",
        mailsteer_core::model::Family::V6 => "steered6",
    }
}

/// Why a packet was rejected that is no new connection we could place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum RejectCause {
    /// conntrack does not follow it: a stranger's notrack rule, or an invalid packet.
    Untracked,
    /// It belongs to a connection whose conntrack entry was lost.
    Midstream,
}

/// What a named counter of ours counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Counter {
    /// Connections of a lane that were refused by decision.
    Refused(LaneId, RefuseReason),
    /// Packets of a lane that were rejected since they could not be placed.
    Rejected(LaneId, RejectCause),
    /// SYNs held because no slot stood where one should.
    HeldGap,
    /// SYNs held because the addresses of their pool are being put on the host.
    HeldPending,
    /// Packets of this host that no process owns and no connection of ours: resets and last words of closed sockets,
    /// of which nobody can tell any more whose they were.
    HeldUnowned,
    /// Packets dropped at the last look because their address is not their mark's.
    DroppedWrong,
}

impl RejectCause {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Untracked, Self::Midstream];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Untracked => "untracked",
            Self::Midstream => "midstream",
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(lane, reason) => write!(f, "refused_{lane}_{}", reason.as_str()),
            Self::Rejected(lane, cause) => write!(f, "refused_{lane}_{}", cause.as_str()),
            Self::HeldGap => f.write_str("held_gap"),
            Self::HeldPending => f.write_str("held_pending"),
            Self::HeldUnowned => f.write_str("held_unowned"),
            Self::DroppedWrong => f.write_str("dropped_wrong"),
        }
    }
}

impl Counter {
    /// What a counter's name tells; `None` where it is no name of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "held_gap" => return Some(Self::HeldGap),
            "held_pending" => return Some(Self::HeldPending),
            "held_unowned" => return Some(Self::HeldUnowned),
            "dropped_wrong" => return Some(Self::DroppedWrong),
            _ => {}
        }
        let (lane, why) = name.strip_prefix("refused_")?.split_once('_')?;
        let lane = LaneId(lane.parse().ok()?);
        RefuseReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == why)
            .map(|reason| Self::Refused(lane, reason))
            .or_else(|| {
                RejectCause::ALL
                    .into_iter()
                    .find(|cause| cause.as_str() == why)
                    .map(|cause| Self::Rejected(lane, cause))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_learned_addresses_is_told_by_its_name() {
        use mailsteer_core::model::Family;
        for family in Family::BOTH {
            assert_eq!(map::learned_of(&map::learned(12, family)), Some((12, family)));
            assert!(map::is_countries(&map::countries(3, family)));
            assert_eq!(map::learned_of(&map::countries(3, family)), None);
        }
        assert!(!map::is_countries("learned4_1") && map::learned_of("learned5_1").is_none());
    }

    #[test]
    fn every_counter_name_is_read_back() {
        let lane = LaneId(12);
        let all = RefuseReason::ALL
            .map(|reason| Counter::Refused(lane, reason))
            .into_iter()
            .chain(RejectCause::ALL.map(|cause| Counter::Rejected(lane, cause)))
            .chain([Counter::HeldGap, Counter::HeldPending, Counter::HeldUnowned, Counter::DroppedWrong]);
        for counter in all {
            assert_eq!(Counter::parse(&counter.to_string()), Some(counter));
        }
        assert_eq!(Counter::parse("refused_x_exhausted"), None);
        assert_eq!(Counter::parse("refused_1_"), None);
    }
}
