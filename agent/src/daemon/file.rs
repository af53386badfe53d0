//! A config file explained and planned without an agent: the same decisions, on the host as it is found.
//!
//! Owns: what is assumed where nothing is running. Must not: change anything.

use anyhow::Result;
use jiff::Timestamp;
use mailsteer_core::config::{Config, HostView};
use mailsteer_core::decide::{Decision, Observation, World, desired};
use mailsteer_core::model::{Address, AddressState, Host, WantedAddress};
use mailsteer_core::plan::{Action, Observed, plan};

use super::reconcile::addresses;
use crate::api::explained;
use crate::api::view::{Destination, Explanation, PlanRow, Who};

/// Explains a connection for a config, without an agent.
///
/// # Errors
/// Where this host's network could not be read.
pub fn explain_file(config: &Config, view: &HostView, who: &Who, to: Destination) -> Result<Explanation> {
    let now = Timestamp::now();
    let mut host = view.host.clone().unwrap_or_default();
    let mut world = World::new(config.clone(), now);
    world.apply(Observation::Host(host.clone()), now);
    let before = desired(&world, now).desired;
    let added: Vec<&WantedAddress> =
        before.addresses.iter().filter(|wanted| !stands(&host, wanted)).collect();
    let assumed =
        (!added.is_empty()).then(|| "addresses that mailsteer would add are taken as ready".to_owned());
    let ready: Vec<Address> = added.iter().filter_map(|wanted| as_added(&host, wanted)).collect();
    host.addresses.extend(ready);
    world.apply(Observation::Host(host), now);
    let Decision { desired, .. } = desired(&world, now);
    let mut explanation = explained(&world, &desired, who.clone(), to);
    explanation.assumed.extend(assumed);
    if view.host.is_none() {
        explanation.assumed.push("this host's network was not read: no uplink is known".to_owned());
    }
    Ok(explanation)
}

/// The plan for a config, without an agent: everything that it would do on this host as it is.
///
/// # Errors
/// Where this host's network could not be read.
pub fn plan_file(config: &Config, view: &HostView) -> Result<Vec<PlanRow>> {
    let now = Timestamp::now();
    let host = view.host.clone().unwrap_or_default();
    let observed = Observed { addresses: addresses(&host), unhealed: true, ..Observed::default() };
    let mut world = World::new(config.clone(), now);
    world.apply(Observation::Host(host), now);
    let actions = plan(&desired(&world, now).desired, &observed);
    Ok(rows(&actions)?)
}

/// Actions in words and as data.
pub(super) fn rows(actions: &[Action]) -> serde_json::Result<Vec<PlanRow>> {
    let row =
        |action: &Action| Ok(PlanRow { text: action.to_string(), action: serde_json::to_value(action)? });
    actions.iter().map(row).collect()
}

fn stands(host: &Host, wanted: &WantedAddress) -> bool {
    host.addresses.iter().any(|entry| entry.address == wanted.address)
}

fn as_added(host: &Host, wanted: &WantedAddress) -> Option<Address> {
    let link = host.links.iter().find(|link| link.name == wanted.interface)?;
    Some(Address {
        ifindex: link.index,
        address: wanted.address,
        prefix_len: if wanted.address.is_ipv4() { 32 } else { 128 },
        state: AddressState::Ready,
        ours: true,
    })
}
