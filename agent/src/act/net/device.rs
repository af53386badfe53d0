//! The interface that an address goes to: its number, and how its neighbours are told.
//!
//! Owns: reading it freshly for each action. Must not: keep it: interfaces are renamed and made anew.

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::Handle;

use crate::netlink::{self, NetError};

/// An interface, as far as an address needs it.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) loopback: bool,
    /// The hardware address, where neighbours are found by ARP and neighbour discovery.
    pub(super) hardware: Option<[u8; 6]>,
}

/// Looks an interface up by its name.
pub(super) async fn named(handle: &Handle, name: &str) -> Result<Device, NetError> {
    let found = netlink::links(handle).await?.iter().find_map(|link| device(link, name));
    found.ok_or_else(|| NetError::NoInterface { name: name.to_owned() })
}

fn device(link: &LinkMessage, name: &str) -> Option<Device> {
    let mut hardware = None;
    let mut named = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(found) => named = found == name,
            LinkAttribute::Address(bytes) => hardware = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let flags = link.header.flags;
    let loopback = flags.contains(LinkFlags::Loopback);
    let arp = !loopback && !flags.contains(LinkFlags::Noarp);
    named.then(|| Device {
        name: name.to_owned(),
        index: link.header.index,
        loopback,
        hardware: hardware.filter(|_| arp),
    })
}
