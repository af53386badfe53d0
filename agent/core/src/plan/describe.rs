//! Actions in words, for `mailsteer plan`, logs and golden scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::action::{Action, AddressAt, GuardSpec, RouteAt, RuleSpec, SlotChange};
use crate::model::{Family, GuardSource, LaneId, ReceiverSets, RefuseReason, SlotTarget, WantedKind};

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAddress(entry) => write!(f, "add {entry}"),
            Self::RemoveAddress(entry) => write!(f, "remove {entry}"),
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::RemoveRoute(route) => write!(f, "remove {route}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove {rule}"),
            Self::GuardSources { set, clear } => {
                let way = |source: &GuardSource| match source.ifindex {
                    Some(GuardSource::NOWHERE) => " by no interface",
                    _ => "",
                };
                let sources: Vec<String> = set
                    .iter()
                    .map(|source| format!("{} = {}{}", source.id, source.address, way(source)))
                    .collect();
                let gone: Vec<String> = clear.iter().map(|id| format!("{id} forgotten")).collect();
                write!(f, "tell the guard of sources {}", [sources, gone].concat().join(", "))
            }
            Self::Guard(spec) => spec.fmt(f),
            Self::Attach { ifindex } => write!(f, "attach the guard to interface {ifindex}"),
            Self::Detach { ifindex } => write!(f, "detach the guard from interface {ifindex}"),
            Self::Table { spec, slots, translations, .. } => {
                let slots: usize = slots.values().map(|slots| slots.0.len()).sum();
                let (lanes, sources) = (spec.lanes.len(), translations.len());
                write!(f, "write the rules: {lanes} lanes, {slots} slots, {sources} sources")
            }
            Self::Flip { add, slots, remove } => {
                f.write_str("flip:")?;
                add.iter().try_for_each(|(id, address)| write!(f, " source {id} is {address};"))?;
                moves(slots).iter().try_for_each(|text| write!(f, " {text};"))?;
                remove.keys().try_for_each(|id| write!(f, " source {id} is gone;"))
            }
            Self::Receivers { add, remove } => {
                let count = |sets: &ReceiverSets| sets.values().map(BTreeSet::len).sum::<usize>();
                write!(f, "tell the rules whose receivers are: {} more, {} less", count(add), count(remove))
            }
            Self::Heal { .. } => f.write_str("delete connections that missed the rules"),
            Self::MovePending { .. } => {
                f.write_str("let connections that nobody answered take a source that holds slots")
            }
            Self::EndLive { lanes, .. } => {
                f.write_str("end connections of sources that hold no slots:")?;
                let mut some = lanes.iter();
                some.try_for_each(|(lane, which)| write!(f, " lane {lane} ({});", which.as_str()))
            }
        }
    }
}

/// Slot changes, summed up by lane, family and target.
fn moves(changes: &[SlotChange]) -> Vec<String> {
    let mut sums: BTreeMap<(LaneId, Family, SlotTarget, SlotTarget), u32> = BTreeMap::new();
    for change in changes {
        *sums.entry((change.lane, change.family, change.from, change.to)).or_default() += 1;
    }
    let text = |((lane, family, from, to), count): ((LaneId, Family, SlotTarget, SlotTarget), u32)| {
        format!("lane {lane} {family}: {count} slots {from} -> {to}")
    };
    sums.into_iter().map(text).collect()
}

impl fmt::Display for SlotTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source, uplink) => write!(f, "source {source} by uplink {uplink}"),
            Self::Refuse(RefuseReason::Exhausted) => f.write_str("refuse (exhausted)"),
            Self::Refuse(reason) => write!(f, "refuse ({})", reason.as_str()),
            Self::Pass => f.write_str("pass"),
            Self::Hold => f.write_str("hold"),
        }
    }
}

impl fmt::Display for AddressAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            WantedKind::Source => "address",
            WantedKind::Tag => "tag",
        };
        write!(f, "{what} {} on {}", self.address, self.interface)
    }
}

impl fmt::Display for RouteAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {}", self.destination)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))?;
        write!(f, " by interface {}", self.ifindex)?;
        match self.uplink {
            Some(uplink) => write!(f, " to uplink {uplink}'s table"),
            None => f.write_str(" to the fallback table"),
        }
    }
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink { family, uplink } => {
                write!(f, "{family} rule: marked for uplink {uplink} looks up its table")
            }
            Self::Replies { family, interface, .. } => {
                write!(f, "{family} rule: replies in by {interface} look up the main table")
            }
            Self::Fallback { family, port } => {
                write!(f, "{family} rule: port {port} without a route looks up the fallback table")
            }
        }
    }
}

impl fmt::Display for GuardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = if self.armed { "arm" } else { "disarm" };
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        let excluded = self.exclude.len();
        write!(f, "{armed} the guard for port {}, {excluded} networks excluded", ports.join(", "))
    }
}
