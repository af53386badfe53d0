//! Actions and observations, as plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use crate::config::OnFlip;
use crate::model::{
    Countries, Family, GuardSource, Lane, LaneId, ReceiverSets, SlotTarget, Slots, SourceId, UplinkId,
    WantedKind,
};

/// What of ours stands in the kernel.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    /// Addresses that bear our protocol mark, and wanted ones that others added.
    pub addresses: Vec<AddressAt>,
    /// Routes in our uplink tables.
    pub routes: Vec<RouteAt>,
    /// Our policy routing rules.
    pub rules: Vec<RuleSpec>,
    /// The rules last applied, if they are known to stand unchanged.
    pub table: Option<TableSpec>,
    /// Slots as they stand in the maps.
    pub slots: BTreeMap<(LaneId, Family), Slots>,
    /// Addresses of source ids as they stand in the nftables maps.
    pub translations: BTreeMap<SourceId, IpAddr>,
    /// Learned addresses of providers as they stand in the nftables sets.
    pub receivers: ReceiverSets,
    /// Addresses of source ids as they stand in the guard's array.
    pub guard_sources: BTreeMap<SourceId, GuardSource>,
    /// What else the guard was told.
    pub guard: Option<GuardSpec>,
    /// Interfaces at which guard and flow tracking are attached.
    pub attached: Vec<u32>,
    /// The rules were away, or may have been, and connections that missed them may still stand.
    pub unhealed: bool,
    /// A source may have lost its last slot of a lane since its pending connections were last looked at.
    pub unmoved: bool,
    /// The same of live connections; or some of them were busy then, and it is time to look again.
    pub unended: bool,
}

/// An address that stands on an interface, or should.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressAt {
    /// The address.
    pub address: IpAddr,
    /// The interface's name.
    pub interface: String,
    /// What for.
    pub kind: WantedKind,
    /// mailsteer added it.
    pub ours: bool,
}

/// A route in an uplink's own table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteAt {
    /// Whose table; `None`: the fallback table, which serves steered ports when the main table has no route.
    pub uplink: Option<UplinkId>,
    /// Destination.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub ifindex: u32,
    /// Metric; the fallback table's order.
    pub metric: u32,
}

/// A policy routing rule of ours.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum RuleSpec {
    /// Packets with this uplink's mark look up its table.
    Uplink {
        /// The family.
        family: Family,
        /// The uplink.
        uplink: UplinkId,
    },
    /// Replies that came in by an uplink look up the main table, whatever mark they bear.
    Replies {
        /// The family.
        family: Family,
        /// The uplink.
        uplink: UplinkId,
        /// Its interface.
        interface: String,
    },
    /// Connections to a steered port for which the main table has no route look up the fallback table.
    Fallback {
        /// The family.
        family: Family,
        /// The port.
        port: u16,
    },
}

/// What the constant rules are made of: when it changes, the rules are written anew.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TableSpec {
    /// Steered ports.
    pub ports: Vec<u16>,
    /// Destinations that are never steered.
    pub exclude: Vec<IpNet>,
    /// Names of the uplinks' interfaces.
    pub uplinks: Vec<String>,
    /// Lanes without their slots' contents, in the order in which they match.
    pub lanes: Vec<LaneSpec>,
    /// Providers that have sets of learned addresses, in the order of their numbers, from 1.
    pub named: Vec<String>,
    /// The eBPF guard stands behind the rules: they tell it what may leave, and it counts. Without it the rules count
    /// by themselves.
    pub guarded: bool,
}

impl TableSpec {
    /// Countries that lanes match, each list once, in the order of their numbers, from 1.
    #[must_use]
    pub fn countries(&self) -> Vec<&Countries> {
        let mut found: Vec<&Countries> = vec![];
        for countries in self.lanes.iter().map(|lane| &lane.lane.matches.countries) {
            if !countries.is_empty() && !found.contains(&countries) {
                found.push(countries);
            }
        }
        found
    }
}

/// What a lane's rules are made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LaneSpec {
    /// The lane; its slots are empty here.
    pub lane: Lane,
    /// How many slots each family has.
    pub slots: BTreeMap<Family, u32>,
}

/// What the guard is told besides the sources.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuardSpec {
    /// Steered ports.
    pub ports: Vec<u16>,
    /// Destinations that are never steered.
    pub exclude: Vec<IpNet>,
    /// Whether it drops.
    pub armed: bool,
    /// cgroup paths that streams match, in the order of their index.
    pub cgroups: Vec<String>,
    /// Lane names by id: stream and provider.
    pub lanes: BTreeMap<LaneId, (String, String)>,
}

/// One change of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotChange {
    /// The lane.
    pub lane: LaneId,
    /// The family.
    pub family: Family,
    /// The slot's number.
    pub slot: u16,
    /// What stands there.
    pub from: SlotTarget,
    /// What should.
    pub to: SlotTarget,
}

/// One step. Each is idempotent and verified by reading back.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Put an address on an interface and announce it; duplicate address detection is awaited by observation.
    AddAddress(AddressAt),
    /// Take an address of ours away.
    RemoveAddress(AddressAt),
    /// Add or replace a route of ours.
    AddRoute(RouteAt),
    /// Remove a route of ours.
    RemoveRoute(RouteAt),
    /// Add a policy routing rule.
    AddRule(RuleSpec),
    /// Remove a policy routing rule.
    RemoveRule(RuleSpec),
    /// Let the guard know these sources.
    GuardSources {
        /// New or changed.
        set: Vec<GuardSource>,
        /// No longer known.
        clear: Vec<SourceId>,
    },
    /// Tell the guard the rest.
    Guard(GuardSpec),
    /// Attach guard and flow tracking to an interface.
    Attach {
        /// The interface.
        ifindex: u32,
    },
    /// Detach them.
    Detach {
        /// The interface.
        ifindex: u32,
    },
    /// Write the rules with these slots and translations, in one transaction.
    Table {
        /// The rules.
        spec: TableSpec,
        /// Slots of every lane.
        #[serde(serialize_with = "as_pairs")]
        slots: BTreeMap<(LaneId, Family), Slots>,
        /// Addresses of source ids.
        translations: BTreeMap<SourceId, IpAddr>,
        /// Learned addresses of providers.
        receivers: ReceiverSets,
    },
    /// Change elements, in one transaction: translations added, slots moved, translations removed.
    Flip {
        /// Translations to add, or to change.
        add: BTreeMap<SourceId, IpAddr>,
        /// Slots to move.
        slots: Vec<SlotChange>,
        /// Translations to remove.
        remove: BTreeMap<SourceId, IpAddr>,
    },
    /// Change which addresses are whose, in one transaction.
    Receivers {
        /// New ones.
        add: ReceiverSets,
        /// Those that are a provider's no more.
        remove: ReceiverSets,
    },
    /// Delete conntrack entries to steered ports that bear no mark of ours, or whose address is not their mark's.
    Heal {
        /// Steered ports.
        ports: Vec<u16>,
        /// Destinations that are none of ours.
        exclude: Vec<IpNet>,
        /// Eligible sources.
        sources: BTreeMap<SourceId, IpAddr>,
    },
    /// Delete conntrack entries of connections that nobody has answered yet and whose source holds no slot of their
    /// lane, by the slots that stand: the kernel's next SYN of each takes a new source.
    MovePending {
        /// Steered ports.
        ports: Vec<u16>,
    },
    /// End live connections whose source holds no slot of their lane, by the slots that stand.
    EndLive {
        /// Steered ports.
        ports: Vec<u16>,
        /// Of which lanes, and which of them.
        lanes: BTreeMap<LaneId, OnFlip>,
    },
}

impl Action {
    /// Whether it is about connections, and so only to be done while the rules stand that they would meet.
    #[must_use]
    pub const fn is_about_connections(&self) -> bool {
        matches!(self, Self::Heal { .. } | Self::MovePending { .. } | Self::EndLive { .. })
    }

    /// Whether it is the guard that this tells or moves.
    #[must_use]
    pub const fn is_the_guards(&self) -> bool {
        matches!(self, Self::GuardSources { .. } | Self::Guard(_) | Self::Attach { .. } | Self::Detach { .. })
    }
}

/// A map whose keys are no text, as a list of pairs: JSON has no other way to write it.
fn as_pairs<K: Serialize, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SlotTarget;

    /// `plan --json` shows actions.
    #[test]
    fn a_table_can_be_written_as_json() {
        let slots = BTreeMap::from([((LaneId(1), Family::V4), Slots(vec![SlotTarget::Pass]))]);
        let translations = BTreeMap::from([(SourceId(1), IpAddr::from([192, 0, 2, 11]))]);
        let spec = TableSpec::default();
        let action = Action::Table { spec, slots, translations, receivers: ReceiverSets::new() };
        let json = serde_json::to_value(&action).unwrap();
        assert_eq!(json["slots"], serde_json::json!([[[1, "v4"], ["pass"]]]));
        assert_eq!(json["translations"], serde_json::json!({ "1": "192.0.2.11" }));
    }
}
