//! Element changes by netlink, in one transaction.
//!
//! Owns: the messages of a flip, and the check that what is changed stands as believed. Must not: touch rules.
//! The kernel deletes a map's element by its key and does not look at the value, so belief is checked by reading
//! first; we alone change these maps, and whoever else does is seen by the watch.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mailsteer_core::model::{Family, ReceiverSets, SlotTarget, SourceId};
use mailsteer_core::plan::SlotChange;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};

use super::Error;
use crate::nftnl::{
    Connection, Element, TABLE, lookup, map, receiver_element, slot_element, slot_of, source_address,
    translation_elements,
};

/// An attribute list holds 65,535 bytes; an element takes at most 60.
const PER_MESSAGE: usize = 512;

/// A flip, taken apart into elements by map.
#[derive(Default)]
struct Changes {
    delete: BTreeMap<String, Vec<Element>>,
    add: BTreeMap<String, Vec<Element>>,
}

/// Carries out `Action::Flip`, and reads back what it changed.
pub(super) fn flip(
    connection: &mut Connection,
    add: &BTreeMap<SourceId, IpAddr>,
    slots: &[SlotChange],
    remove: &BTreeMap<SourceId, IpAddr>,
) -> Result<(), Error> {
    expect_slots(connection, slots, |change| change.from)?;
    let mut changes = Changes::default();
    for (id, address) in add {
        changes.translate(connection, *id, *address)?;
    }
    for change in slots {
        let old = slot(change, change.from);
        changes.delete.entry(map::SLOTS.into()).or_default().push(Element { data: None, ..old });
        changes.add.entry(map::SLOTS.into()).or_default().push(slot(change, change.to));
    }
    for (id, address) in remove {
        changes.forget(*id, *address);
    }
    connection.transaction(changes.messages()).map_err(|error| match error.errno() {
        Some(libc::EEXIST | libc::ENOENT) => Error::Belief(format!("the kernel refused the change: {error}")),
        _ => error.into(),
    })?;
    expect_slots(connection, slots, |change| change.to)?;
    expect_translations(connection, add)
}

/// Carries out `Action::Receivers`, and reads back what it changed.
pub(super) fn receivers(
    connection: &mut Connection,
    named: &[String],
    add: &ReceiverSets,
    remove: &ReceiverSets,
) -> Result<(), Error> {
    let (add, remove) = (by_set(named, add)?, by_set(named, remove)?);
    let changes = Changes { delete: remove.clone(), add: add.clone() };
    connection.transaction(changes.messages()).map_err(|error| match error.errno() {
        Some(libc::EEXIST | libc::ENOENT) => Error::Belief(format!("the kernel refused the change: {error}")),
        _ => error.into(),
    })?;
    for (set, elements) in &add {
        let keys: Vec<Vec<u8>> = elements.iter().map(|element| element.key.clone()).collect();
        if lookup(connection, set, &keys)?.len() != keys.len() {
            return Err(Error::ReadBack(format!("an address is not in set {set}")));
        }
    }
    Ok(())
}

fn by_set(named: &[String], receivers: &ReceiverSets) -> Result<BTreeMap<String, Vec<Element>>, Error> {
    let mut sets: BTreeMap<String, Vec<Element>> = BTreeMap::new();
    for (provider, addresses) in receivers {
        let place = named.iter().position(|one| one == provider);
        let place = place.ok_or_else(|| Error::Belief(format!("provider {provider} has no set")))?;
        for address in addresses {
            let set = map::learned(place + 1, Family::of(*address));
            sets.entry(set).or_default().push(receiver_element(*address));
        }
    }
    Ok(sets)
}

impl Changes {
    /// A source gets an address, in place of the one it may have.
    fn translate(&mut self, connection: &mut Connection, id: SourceId, address: IpAddr) -> Result<(), Error> {
        let (wanted, _) = translation_elements(id, address);
        for family in Family::BOTH {
            let found = lookup(connection, map::addresses(family), std::slice::from_ref(&wanted.key))?;
            match found.values().find_map(source_address) {
                Some((_, standing)) if standing == address => return Ok(()),
                Some((_, standing)) => self.forget(id, standing),
                None => {}
            }
        }
        let (element, pair) = translation_elements(id, address);
        let family = Family::of(address);
        self.add.entry(map::addresses(family).into()).or_default().push(element);
        self.add.entry(map::eligible(family).into()).or_default().push(pair);
        Ok(())
    }

    fn forget(&mut self, id: SourceId, address: IpAddr) {
        let (element, pair) = translation_elements(id, address);
        let family = Family::of(address);
        self.delete.entry(map::addresses(family).into()).or_default().push(Element { data: None, ..element });
        self.delete.entry(map::eligible(family).into()).or_default().push(pair);
    }

    fn messages(self) -> Vec<(NfTablesMessage, u16)> {
        let mut messages = Vec::new();
        for (name, elements) in &self.delete {
            for part in elements.chunks(PER_MESSAGE) {
                messages.push((NfTablesMessage::DeleteSetElement(list(name, part)), 0));
            }
        }
        for (name, elements) in &self.add {
            for part in elements.chunks(PER_MESSAGE) {
                messages.push((NfTablesMessage::NewSetElement(list(name, part)), NLM_F_CREATE | NLM_F_EXCL));
            }
        }
        messages
    }
}

fn slot(change: &SlotChange, target: SlotTarget) -> Element {
    let (key, value) = slot_element(change.lane, change.family, change.slot, target);
    Element { key: key.to_ne_bytes().to_vec(), data: Some(value.to_ne_bytes().to_vec()), end: false }
}

fn list(name: &str, elements: &[Element]) -> SetElementMessage {
    let elements = elements
        .iter()
        .map(|element| {
            let mut parts = vec![SetElementAttribute::Key(DataAttribute::Value(element.key.clone()))];
            parts.extend(
                element.data.clone().map(|data| SetElementAttribute::Data(DataAttribute::Value(data))),
            );
            ListAttribute::Element(parts)
        })
        .collect();
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE.into()),
            SetElementList::Set(name.into()),
            SetElementList::Elements(elements),
        ],
    }
}

fn expect_slots(
    connection: &mut Connection,
    slots: &[SlotChange],
    wanted: impl Fn(&SlotChange) -> SlotTarget,
) -> Result<(), Error> {
    let keys: Vec<Vec<u8>> = slots.iter().map(|change| slot(change, change.from).key).collect();
    let found = lookup(connection, map::SLOTS, &keys)?;
    for (change, key) in slots.iter().zip(&keys) {
        let standing = found.get(key).and_then(slot_of).map(|(_, target)| target);
        let wanted = wanted(change);
        if standing != Some(wanted) {
            let SlotChange { lane, family, slot, .. } = change;
            return Err(Error::Belief(format!(
                "slot {slot} of lane {lane} ({family}) holds {standing:?}, not {wanted:?}"
            )));
        }
    }
    Ok(())
}

fn expect_translations(
    connection: &mut Connection,
    wanted: &BTreeMap<SourceId, IpAddr>,
) -> Result<(), Error> {
    for (id, address) in wanted {
        let (element, pair) = translation_elements(*id, *address);
        let family = Family::of(*address);
        for (name, element) in [(map::addresses(family), element), (map::eligible(family), pair)] {
            if lookup(connection, name, std::slice::from_ref(&element.key))?.get(&element.key)
                != Some(&element)
            {
                return Err(Error::Belief(format!("source {id} has no entry {address} in map {name}")));
            }
        }
    }
    Ok(())
}
