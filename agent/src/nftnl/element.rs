//! How slots and translations are laid out as elements of maps and sets.
//!
//! Owns: the bytes. Must not: send them. Marks are numbers of the host's byte order, addresses of the network's;
//! each part of a concatenated key fills whole words.

use std::net::IpAddr;

use mailsteer_core::model::{Family, LaneId, RefuseReason, SlotTarget, SourceId, UplinkId};
use mailsteer_ebpf::{FIRST_REFUSAL, HOLD, Mark, Refusal, SLOT_FAMILY_V6, SLOT_MAGIC, slot_key};

/// An element of a map (with data) or a set (without).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Element {
    /// Its key.
    pub key: Vec<u8>,
    /// What a map holds under it.
    pub data: Option<Vec<u8>>,
    /// It ends an interval.
    pub end: bool,
}

/// Key and value of a slot.
#[must_use]
pub fn slot_element(lane: LaneId, family: Family, slot: u16, target: SlotTarget) -> (u32, u32) {
    (slot_key(lane.0, family == Family::V6, slot), slot_value(lane, target))
}

fn slot_value(lane: LaneId, target: SlotTarget) -> u32 {
    let (uplink, source) = match target {
        SlotTarget::Source(source, uplink) => (uplink.0, source.0),
        SlotTarget::Refuse(reason) => (0, refusal(reason)),
        SlotTarget::Pass => (0, 0),
        SlotTarget::Hold => (0, HOLD as u16),
    };
    Mark { uplink, lane: lane.0, source }.pack()
}

/// The source id that stands for a refusal.
#[must_use]
pub(crate) const fn refusal(reason: RefuseReason) -> u16 {
    match reason {
        RefuseReason::Exhausted => Refusal::Exhausted as u16,
        RefuseReason::NoIpv4Source => Refusal::NoIpv4Source as u16,
        RefuseReason::NoIpv6Source => Refusal::NoIpv6Source as u16,
        RefuseReason::Surge => Refusal::Surge as u16,
        RefuseReason::Stopped => Refusal::Stopped as u16,
        RefuseReason::Fuse => Refusal::Fuse as u16,
    }
}

/// What an element of the slot map says; `None` where it is no slot that we would write.
#[must_use]
pub fn slot_of(element: &Element) -> Option<((LaneId, Family, u16), SlotTarget)> {
    let key = u32::from_ne_bytes(element.key.as_slice().try_into().ok()?);
    let value = u32::from_ne_bytes(element.data.as_deref()?.try_into().ok()?);
    let mark = Mark::unpack(value)?;
    let lane = ((key >> 16) & 0xff) as u8;
    if key & Mark::MAGIC_MASK != SLOT_MAGIC || mark.lane != lane {
        return None;
    }
    let target = match mark.source {
        0 => SlotTarget::Pass,
        id if u32::from(id) == HOLD => SlotTarget::Hold,
        id if u32::from(id) >= FIRST_REFUSAL => {
            SlotTarget::Refuse(RefuseReason::ALL.into_iter().find(|reason| refusal(*reason) == id)?)
        }
        id => SlotTarget::Source(SourceId(id), UplinkId(mark.uplink)),
    };
    // An uplink beside what is no source would send mail that is left alone by another way.
    if slot_value(LaneId(lane), target) != value {
        return None;
    }
    let family = if key & SLOT_FAMILY_V6 == 0 { Family::V4 } else { Family::V6 };
    Some(((LaneId(lane), family, (key & (SLOT_FAMILY_V6 - 1)) as u16), target))
}

/// A source's element of the address map and of the set of eligible pairs.
#[must_use]
pub fn translation_elements(source: SourceId, address: IpAddr) -> (Element, Element) {
    let id = u32::from(source.0).to_ne_bytes();
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pair = [id.as_slice(), &octets].concat();
    (
        Element { key: id.to_vec(), data: Some(octets), end: false },
        Element { key: pair, data: None, end: false },
    )
}

/// What an element of an address map (key and data) or of a set of eligible pairs (key alone) says.
#[must_use]
pub fn source_address(element: &Element) -> Option<(SourceId, IpAddr)> {
    let (id, rest) = element.key.split_first_chunk::<4>()?;
    let id = SourceId(u16::try_from(u32::from_ne_bytes(*id)).ok()?);
    let octets = element.data.as_deref().unwrap_or(rest);
    let address = if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        IpAddr::from(v4)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
    };
    Some((id, address))
}

/// A learned address as an element of its set.
#[must_use]
pub fn receiver_element(address: IpAddr) -> Element {
    let key = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    Element { key, data: None, end: false }
}

/// The address that such an element is; `None` where it is none that we would write.
#[must_use]
pub fn receiver(element: &Element) -> Option<IpAddr> {
    if element.end || element.data.is_some() {
        return None;
    }
    let v4 = <[u8; 4]>::try_from(element.key.as_slice()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(element.key.as_slice()).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_back_as_written() {
        let targets = [
            SlotTarget::Pass,
            SlotTarget::Hold,
            SlotTarget::Source(SourceId(4079), UplinkId(15)),
            SlotTarget::Source(SourceId(1), UplinkId(1)),
        ]
        .into_iter()
        .chain(RefuseReason::ALL.map(SlotTarget::Refuse));
        for target in targets {
            for family in Family::BOTH {
                let (key, value) = slot_element(LaneId(255), family, 4095, target);
                let element = Element {
                    key: key.to_ne_bytes().to_vec(),
                    data: Some(value.to_ne_bytes().to_vec()),
                    end: false,
                };
                assert_eq!(slot_of(&element), Some(((LaneId(255), family, 4095), target)));
            }
        }
    }

    #[test]
    fn what_we_would_not_have_written_is_no_slot() {
        for source in [0, HOLD as u16, Refusal::Exhausted as u16] {
            let key = slot_key(3, false, 0).to_ne_bytes().to_vec();
            let value = |uplink| Some(Mark { uplink, lane: 3, source }.pack().to_ne_bytes().to_vec());
            let element = |uplink| Element { key: key.clone(), data: value(uplink), end: false };
            assert!(slot_of(&element(0)).is_some());
            assert_eq!(slot_of(&element(5)), None, "source {source} by uplink 5");
        }
    }

    #[test]
    fn receivers_are_read_back_as_written() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(receiver(&receiver_element(address)), Some(address));
        }
        assert_eq!(receiver(&Element { key: vec![0; 5], data: None, end: false }), None);
    }

    #[test]
    fn translations_are_read_back_as_written() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            let (map, set) = translation_elements(SourceId(7), address);
            assert_eq!(source_address(&map), Some((SourceId(7), address)));
            assert_eq!(source_address(&set), Some((SourceId(7), address)));
        }
    }
}
