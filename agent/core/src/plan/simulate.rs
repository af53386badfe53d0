//! A plan carried out on paper.
//!
//! Owns: what each action does to what is observed, and what would be wrong with the result. The property tests run
//! every prefix of every plan through it, and `mailsteer plan` shows its findings. Must not: be used in place of
//! reading back.

use std::net::IpAddr;

use super::action::{Action, Observed, RouteAt};
use super::order::{source_of, takes_a_last_slot};
use crate::model::{Family, LaneId, SlotTarget, Slots, SourceId, UplinkId};

/// What is wrong with a state of the data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A slot names a source that translates to nothing.
    NoTranslation(LaneId, Family, SourceId),
    /// A slot names a source that the guard does not know, or knows by another address.
    GuardDisagrees(LaneId, Family, SourceId),
    /// A slot names a source whose address is not on the host.
    NoAddress(LaneId, Family, IpAddr),
    /// A slot names an uplink that has no route in its table.
    NoRoute(LaneId, Family, UplinkId),
}

/// What is observed after an action was carried out.
#[must_use]
pub fn carried_out(mut observed: Observed, action: &Action) -> Observed {
    match action {
        Action::AddAddress(entry) => observed.addresses.push(entry.clone()),
        Action::RemoveAddress(entry) => observed.addresses.retain(|there| there != entry),
        Action::AddRoute(route) => observed.routes.push(*route),
        Action::RemoveRoute(route) => observed.routes.retain(|there| there != route),
        Action::AddRule(rule) => observed.rules.push(rule.clone()),
        Action::RemoveRule(rule) => observed.rules.retain(|there| there != rule),
        Action::GuardSources { set, clear } => {
            observed.guard_sources.retain(|id, _| !clear.contains(id));
            observed.guard_sources.extend(set.iter().map(|source| (source.id, source.clone())));
        }
        Action::Guard(spec) => observed.guard = Some(spec.clone()),
        Action::Attach { ifindex } => observed.attached.push(*ifindex),
        Action::Detach { ifindex } => observed.attached.retain(|there| there != ifindex),
        Action::Table { spec, slots, translations, receivers } => {
            observed.table = Some(spec.clone());
            observed.slots.clone_from(slots);
            observed.translations.clone_from(translations);
            observed.receivers.clone_from(receivers);
        }
        Action::Receivers { add, remove } => {
            for (provider, gone) in remove {
                observed.receivers.entry(provider.clone()).or_default().retain(|one| !gone.contains(one));
            }
            for (provider, new) in add {
                observed.receivers.entry(provider.clone()).or_default().extend(new);
            }
        }
        Action::Flip { add, slots, remove } => {
            observed.translations.extend(add);
            observed.translations.retain(|id, _| !remove.contains_key(id));
            for change in slots {
                let lane = observed.slots.get_mut(&(change.lane, change.family));
                if let Some(slot) = lane.and_then(|lane| lane.0.get_mut(usize::from(change.slot))) {
                    *slot = change.to;
                }
            }
        }
        Action::Heal { .. } => observed.unhealed = false,
        Action::MovePending { .. } => observed.unmoved = false,
        Action::EndLive { .. } => observed.unended = false,
    }
    if takes_a_last_slot(action, &observed.slots) {
        (observed.unmoved, observed.unended) = (true, true);
    }
    observed
}

/// What is wrong with the slots as they stand: empty where every slot leads to a valid address.
#[must_use]
pub fn flaws(observed: &Observed, policy_routing: bool) -> Vec<Flaw> {
    let lanes = observed.slots.iter();
    lanes.flat_map(|(&key, slots)| lane_flaws(observed, key, slots, policy_routing)).collect()
}

fn lane_flaws(
    observed: &Observed,
    (lane, family): (LaneId, Family),
    slots: &Slots,
    policy_routing: bool,
) -> Vec<Flaw> {
    let mut targets: Vec<SlotTarget> = slots.0.clone();
    targets.sort_unstable();
    targets.dedup();
    let mut flaws = Vec::new();
    for target in targets {
        let Some(id) = source_of(target) else { continue };
        let Some(&address) = observed.translations.get(&id) else {
            flaws.push(Flaw::NoTranslation(lane, family, id));
            continue;
        };
        let guarded = observed.table.as_ref().is_none_or(|table| table.guarded);
        if guarded && observed.guard_sources.get(&id).is_none_or(|source| source.address != address) {
            flaws.push(Flaw::GuardDisagrees(lane, family, id));
        }
        if !observed.addresses.iter().any(|entry| entry.address == address) {
            flaws.push(Flaw::NoAddress(lane, family, address));
        }
        if let SlotTarget::Source(_, uplink) = target
            && policy_routing
            && !observed.routes.iter().any(|route| leads_out(route, uplink, family))
        {
            flaws.push(Flaw::NoRoute(lane, family, uplink));
        }
    }
    flaws
}

fn leads_out(route: &RouteAt, uplink: UplinkId, family: Family) -> bool {
    route.uplink == Some(uplink) && route.destination == crate::decide::default_route(family)
}
