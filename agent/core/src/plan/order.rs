//! From what stands to what is desired, in an order in which every step is safe.
//!
//! Owns: the differences and their order. The guard comes first: what it drops before the rules stand is held and
//! comes again. Then what new slots may need (routes and rules), then the slots in one transaction, and only then is
//! taken away what old slots needed. Addresses are added after the slots: no slot names an address that is not yet
//! on the host, and one that cannot be added must not keep the locks from closing.
//!
//! Connections that began before a flip are looked at right after the slots, and not by what this plan changes: the
//! steps name no source, but say "whose source holds no slot of its lane, as the slots stand now". So nothing has to be
//! remembered: carried out twice they do the same, and an agent that was killed between the slots and them comes back
//! with [`Observed::unmoved`] set and finishes what the dead one began. Must not: know how a step is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::action::{
    Action, AddressAt, GuardSpec, LaneSpec, Observed, RouteAt, RuleSpec, SlotChange, TableSpec,
};
use crate::decide::default_route;
use crate::model::{Desired, Family, GuardSource, LaneId, ReceiverSets, SlotTarget, Slots, SourceId};

/// The steps from `observed` to `desired`; none where nothing differs.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(new_guard_sources(desired, observed));
    actions.extend(guard_before(desired, observed));
    let ways: Vec<u32> = desired.uplinks.iter().filter_map(|uplink| uplink.ifindex).collect();
    actions.extend(missing(&ways, &observed.attached).map(|ifindex| Action::Attach { ifindex }));
    let (wanted_routes, wanted_rules) = (routes(desired), rules(desired));
    actions.extend(missing(&wanted_routes, &observed.routes).map(Action::AddRoute));
    actions.extend(missing(&wanted_rules, &observed.rules).map(Action::AddRule));
    let elements = elements(desired, observed);
    let lost = elements.as_ref().is_some_and(|action| takes_a_last_slot(action, &wanted_slots(desired)));
    let anew = matches!(elements, Some(Action::Table { .. }));
    actions.extend(elements);
    actions.extend(receivers(desired, observed).filter(|_| !anew));
    actions.extend(heal(desired, observed));
    actions.extend(after_a_flip(desired, observed, lost));
    actions.extend(missing_addresses(desired, observed));
    actions.extend(guard_after(desired, observed));
    actions.extend(missing(&observed.attached, &ways).map(|ifindex| Action::Detach { ifindex }));
    actions.extend(missing(&observed.rules, &wanted_rules).map(Action::RemoveRule));
    actions.extend(missing(&observed.routes, &wanted_routes).map(Action::RemoveRoute));
    actions.extend(addresses_to_remove(desired, observed));
    actions.extend(old_guard_sources(desired, observed));
    // Where there is no guard, there is nobody to tell.
    actions.retain(|action| desired.guard || !action.is_the_guards());
    actions
}

fn missing<'a, T: Clone + PartialEq>(wanted: &'a [T], there: &'a [T]) -> impl Iterator<Item = T> + 'a {
    wanted.iter().filter(|item| !there.contains(item)).cloned()
}

fn missing_addresses<'a>(desired: &'a Desired, observed: &'a Observed) -> impl Iterator<Item = Action> + 'a {
    let there: BTreeSet<IpAddr> = observed.addresses.iter().map(|entry| entry.address).collect();
    let absent = desired.addresses.iter().filter(move |wanted| !there.contains(&wanted.address));
    absent.map(|wanted| {
        Action::AddAddress(AddressAt {
            address: wanted.address,
            interface: wanted.interface.clone(),
            kind: wanted.kind,
            ours: true,
        })
    })
}

fn addresses_to_remove<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Action> + 'a {
    let wanted: BTreeSet<(IpAddr, &str)> =
        desired.addresses.iter().map(|wanted| (wanted.address, wanted.interface.as_str())).collect();
    let stale =
        move |entry: &&AddressAt| entry.ours && !wanted.contains(&(entry.address, entry.interface.as_str()));
    observed.addresses.iter().filter(stale).cloned().map(Action::RemoveAddress)
}

/// Routes of the uplinks' own tables and of the fallback table, as far as their links are up; none with a single
/// uplink.
#[must_use]
pub fn routes(desired: &Desired) -> Vec<RouteAt> {
    if !desired.policy_routing {
        return Vec::new();
    }
    let mut routes = Vec::new();
    for uplink in desired.uplinks.iter().filter(|uplink| uplink.up) {
        let Some(ifindex) = uplink.ifindex else { continue };
        for route in &uplink.routes {
            let (destination, gateway) = (route.destination, route.gateway);
            let own = RouteAt { uplink: Some(uplink.id), destination, gateway, ifindex, metric: 0 };
            routes.push(own);
            if destination.prefix_len() == 0 {
                let metric = u32::from(uplink.id.0);
                routes.push(RouteAt { uplink: None, destination, gateway, ifindex, metric });
            }
        }
    }
    routes.sort_unstable();
    routes
}

/// Policy routing rules; none with a single uplink.
#[must_use]
pub fn rules(desired: &Desired) -> Vec<RuleSpec> {
    if !desired.policy_routing {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for family in Family::BOTH {
        for uplink in desired.uplinks.iter().filter(|uplink| uplink.ifindex.is_some()) {
            if !uplink.routes.iter().any(|route| route.destination == default_route(family)) {
                continue;
            }
            let interface = uplink.interface.clone();
            rules.push(RuleSpec::Replies { family, uplink: uplink.id, interface });
            rules.push(RuleSpec::Uplink { family, uplink: uplink.id });
        }
        rules.extend(desired.ports.iter().map(|&port| RuleSpec::Fallback { family, port }));
    }
    rules
}

fn known(observed: &Observed, source: &GuardSource) -> bool {
    observed.guard_sources.get(&source.id) == Some(source)
}

fn new_guard_sources(desired: &Desired, observed: &Observed) -> Option<Action> {
    let set: Vec<GuardSource> =
        desired.sources.iter().filter(|source| !known(observed, source)).cloned().collect();
    (!set.is_empty()).then_some(Action::GuardSources { set, clear: Vec::new() })
}

fn old_guard_sources(desired: &Desired, observed: &Observed) -> Option<Action> {
    let wanted: BTreeSet<SourceId> = desired.sources.iter().map(|source| source.id).collect();
    let clear: Vec<SourceId> =
        observed.guard_sources.keys().filter(|id| !wanted.contains(id)).copied().collect();
    (!clear.is_empty()).then_some(Action::GuardSources { set: Vec::new(), clear })
}

/// What the guard should be told.
#[must_use]
pub fn guard_spec(desired: &Desired) -> GuardSpec {
    let cgroups: BTreeSet<String> =
        desired.lanes.iter().flat_map(|lane| lane.matches.cgroups.iter().cloned()).collect();
    let name = |lane: &crate::model::Lane| (lane.id, (lane.stream.clone(), lane.provider.clone()));
    GuardSpec {
        ports: desired.ports.clone(),
        exclude: desired.exclude.clone(),
        armed: desired.armed,
        cgroups: cgroups.into_iter().collect(),
        lanes: desired.lanes.iter().map(name).collect(),
    }
}

/// Arming comes before the rules; disarming after them.
fn guard_before(desired: &Desired, observed: &Observed) -> Option<Action> {
    let wanted = guard_spec(desired);
    let armed = wanted.armed || observed.guard.as_ref().is_some_and(|guard| guard.armed);
    let first = GuardSpec { armed, ..wanted };
    (observed.guard.as_ref() != Some(&first)).then_some(Action::Guard(first))
}

fn guard_after(desired: &Desired, observed: &Observed) -> Option<Action> {
    let disarms = !desired.armed && observed.guard.as_ref().is_some_and(|guard| guard.armed);
    disarms.then(|| Action::Guard(guard_spec(desired)))
}

/// What the constant rules are made of.
#[must_use]
pub fn table_spec(desired: &Desired) -> TableSpec {
    let lanes = desired.lanes.iter().map(|lane| {
        let count = |slots: &Slots| u32::try_from(slots.0.len()).unwrap_or(u32::MAX);
        let counts = lane.slots.iter().map(|(&family, slots)| (family, count(slots))).collect();
        let empty = lane.slots.keys().map(|&family| (family, Slots::default())).collect();
        LaneSpec { lane: crate::model::Lane { slots: empty, ..lane.clone() }, slots: counts }
    });
    TableSpec {
        ports: desired.ports.clone(),
        exclude: desired.exclude.clone(),
        uplinks: desired.uplinks.iter().map(|uplink| uplink.interface.clone()).collect(),
        lanes: lanes.collect(),
        named: desired.receivers.keys().cloned().collect(),
        guarded: desired.guard,
    }
}

fn wanted_slots(desired: &Desired) -> BTreeMap<(LaneId, Family), Slots> {
    let lanes = desired.lanes.iter();
    lanes
        .flat_map(|lane| lane.slots.iter().map(|(&family, slots)| ((lane.id, family), slots.clone())))
        .collect()
}

fn wanted_translations(desired: &Desired) -> BTreeMap<SourceId, IpAddr> {
    desired.sources.iter().map(|source| (source.id, source.address)).collect()
}

/// The rules where they differ or are unknown; single elements otherwise.
fn elements(desired: &Desired, observed: &Observed) -> Option<Action> {
    let (spec, slots) = (table_spec(desired), wanted_slots(desired));
    let translations = wanted_translations(desired);
    if observed.table.as_ref() == Some(&spec) && same_shape(&slots, &observed.slots) {
        return flip(&slots, &translations, observed);
    }
    Some(Action::Table { spec, slots, translations, receivers: (*desired.receivers).clone() })
}

/// Learned addresses, where the rules stand as they should. Which lane a connection is of is told by them, and no slot needs them.
fn receivers(desired: &Desired, observed: &Observed) -> Option<Action> {
    if *desired.receivers == observed.receivers {
        return None;
    }
    Some(Action::Receivers {
        add: without(&desired.receivers, &observed.receivers),
        remove: without(&observed.receivers, &desired.receivers),
    })
}

/// What the one has and the other has not.
fn without(one: &ReceiverSets, other: &ReceiverSets) -> ReceiverSets {
    let left = |(provider, addresses): (&String, &BTreeSet<IpAddr>)| {
        let known = other.get(provider);
        let left: BTreeSet<IpAddr> = addresses
            .iter()
            .filter(|address| known.is_none_or(|known| !known.contains(address)))
            .copied()
            .collect();
        (!left.is_empty()).then(|| (provider.clone(), left))
    };
    one.iter().filter_map(left).collect()
}

/// After the rules: connections that began without them would keep what they have for ever.
fn heal(desired: &Desired, observed: &Observed) -> Option<Action> {
    (desired.armed && observed.unhealed).then(|| Action::Heal {
        ports: desired.ports.clone(),
        exclude: desired.exclude.clone(),
        sources: wanted_translations(desired),
    })
}

/// After the slots: what is pending takes another source with its next SYN, and of what lives goes what its stream
/// does not let finish.
fn after_a_flip(desired: &Desired, observed: &Observed, lost: bool) -> impl Iterator<Item = Action> {
    let (ports, lanes) = (desired.ports.clone(), desired.on_flip.clone());
    let moves = desired.armed && (lost || observed.unmoved);
    let ends = desired.armed && (lost || observed.unended) && !lanes.is_empty();
    let moved = moves.then(|| Action::MovePending { ports: ports.clone() });
    moved.into_iter().chain(ends.then_some(Action::EndLive { ports, lanes }))
}

/// Whether an action may take a source's last slot of a lane: one that writes all slots does not say what stood before.
/// `after`: the slots behind it.
#[must_use]
pub fn takes_a_last_slot(action: &Action, after: &BTreeMap<(LaneId, Family), Slots>) -> bool {
    let Action::Flip { slots, .. } = action else { return matches!(action, Action::Table { .. }) };
    let taken: BTreeSet<(LaneId, Family, SlotTarget)> = slots
        .iter()
        .filter(|change| source_of(change.from).is_some())
        .map(|change| (change.lane, change.family, change.from))
        .collect();
    taken.iter().any(|(lane, family, source)| {
        after.get(&(*lane, *family)).is_none_or(|slots| !slots.0.contains(source))
    })
}

fn same_shape(wanted: &BTreeMap<(LaneId, Family), Slots>, there: &BTreeMap<(LaneId, Family), Slots>) -> bool {
    let shape = |slots: &BTreeMap<(LaneId, Family), Slots>| -> Vec<((LaneId, Family), usize)> {
        slots.iter().map(|(&key, slots)| (key, slots.0.len())).collect()
    };
    shape(wanted) == shape(there)
}

fn flip(
    slots: &BTreeMap<(LaneId, Family), Slots>,
    translations: &BTreeMap<SourceId, IpAddr>,
    observed: &Observed,
) -> Option<Action> {
    let differs = |(id, address): &(&SourceId, &IpAddr)| observed.translations.get(id) != Some(*address);
    let own = |(&id, &address): (&SourceId, &IpAddr)| (id, address);
    let add: BTreeMap<SourceId, IpAddr> = translations.iter().filter(differs).map(own).collect();
    let gone = |(id, _): &(&SourceId, &IpAddr)| !translations.contains_key(id);
    let remove: BTreeMap<SourceId, IpAddr> = observed.translations.iter().filter(gone).map(own).collect();
    let slots = slot_changes(slots, &observed.slots);
    let nothing = add.is_empty() && slots.is_empty() && remove.is_empty();
    (!nothing).then_some(Action::Flip { add, slots, remove })
}

fn slot_changes(
    wanted: &BTreeMap<(LaneId, Family), Slots>,
    there: &BTreeMap<(LaneId, Family), Slots>,
) -> Vec<SlotChange> {
    let mut changes = Vec::new();
    for (key @ &(lane, family), slots) in wanted {
        let Some(old) = there.get(key) else { continue };
        let pairs = old.0.iter().zip(&slots.0).zip(0_u16..);
        let changed = pairs.filter(|((from, to), _)| from != to);
        changes.extend(changed.map(|((&from, &to), slot)| SlotChange { lane, family, slot, from, to }));
    }
    changes
}

/// Whether a slot's target needs a source.
pub(super) const fn source_of(target: SlotTarget) -> Option<SourceId> {
    match target {
        SlotTarget::Source(source, _) => Some(source),
        SlotTarget::Refuse(_) | SlotTarget::Pass | SlotTarget::Hold => None,
    }
}
