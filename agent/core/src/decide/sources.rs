//! Whether a source can serve, and if not, why.
//!
//! Owns: eligibility by facts and by the operator's word. Must not: weigh sources against each other.

use super::world::World;
use super::{Reason, uplinks};
use crate::config::PoolSource;
use crate::model::{AddressState, Family, Host, UplinkId, UplinkPlan};

/// The uplink that a source leaves by, or why it cannot serve; one that flaps, or waits for its preflight, cannot either.
pub(super) fn standing(
    world: &World,
    host: &Host,
    ways: &[UplinkPlan],
    source: &PoolSource,
) -> Result<UplinkId, Reason> {
    let uplink = by_facts(world, host, ways, source)?;
    world.waits(source.local).map_or(Ok(uplink), Err)
}

/// The same by what is now, whatever was before.
pub(super) fn by_facts(
    world: &World,
    host: &Host,
    ways: &[UplinkPlan],
    source: &PoolSource,
) -> Result<UplinkId, Reason> {
    if let Some(suspension) = world.operator.suspended.get(&source.public) {
        return Err(Reason::Suspended { why: suspension.reason.clone() });
    }
    if source.weight == 0 {
        return Err(Reason::WeightZero);
    }
    let family = Family::of(source.local);
    let uplink = uplink_of(world, host, ways, source)
        .ok_or_else(|| Reason::NoRoute { uplink: format!("of the default {family} route") })?;
    let link = host.links.iter().find(|link| Some(link.index) == uplink.ifindex);
    let interface = || uplink.interface.clone();
    let link = link.ok_or_else(|| Reason::NoInterface { interface: interface() })?;
    if !link.up {
        return Err(Reason::LinkDown { interface: interface() });
    }
    if !uplinks::has_way(uplink, family) {
        return Err(Reason::NoRoute { uplink: uplink.name.clone() });
    }
    address_is_ready(host, source)?;
    Ok(uplink.id)
}

/// The uplink that a source belongs to: the configured one, or that of its family's default route.
pub(super) fn uplink_of<'a>(
    world: &World,
    host: &Host,
    ways: &'a [UplinkPlan],
    source: &PoolSource,
) -> Option<&'a UplinkPlan> {
    if let Some(index) = source.uplink {
        let name = &world.config.uplinks.get(index)?.name;
        return ways.iter().find(|way| way.name == *name);
    }
    let ifindex = uplinks::by_default_route(host, Family::of(source.local))?;
    ways.iter().find(|way| way.ifindex == Some(ifindex))
}

fn address_is_ready(host: &Host, source: &PoolSource) -> Result<(), Reason> {
    let entries = host.addresses.iter().filter(|entry| entry.address == source.local);
    let states: Vec<AddressState> = entries.map(|entry| entry.state).collect();
    if states.contains(&AddressState::Ready) {
        Ok(())
    } else if states.contains(&AddressState::Tentative) {
        Err(Reason::AddressTentative)
    } else if states.contains(&AddressState::DadFailed) {
        Err(Reason::DadFailed)
    } else {
        Err(Reason::AddressMissing)
    }
}
