//! The doors by which hostile input comes to parsers that are nobody else's business: `tests/fuzz` calls these.
//!
//! Owns: calling them, and what must hold of whatever they make of it. Must not: be called by the agent. No feature
//! hides it: that would build the agent twice for one run of the tests, and what is not called is not linked.

use mailsteer_core::model::Family;
use mailsteer_ebpf::{Event, Said};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use crate::nftnl::{self, Counter, Ours, slot_element, slot_of};
use crate::observe::doctor::routing;
use crate::observe::nft::Heard;
use crate::{bpf_maps, conntrack, netlink, observe};

/// Datagrams of rtnetlink, one message after the other. What is read as ours must be written as it was read, or a plan
/// would never come to rest.
pub fn rtnetlink(datagram: &[u8]) {
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        rest = rest.get(length..).unwrap_or_default();
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            read(&inner);
        }
    }
}

fn read(message: &RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewAddress(message) => {
            let (address, passing) = (netlink::address_of(message), observe::init::passing(message));
            assert!(passing.is_none_or(|one| address.is_some_and(|all| all.address == one)));
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let taken = routing::taken_table(message);
            for route in netlink::main_routes(message) {
                assert_eq!(route.destination, route.destination.trunc());
            }
            let Some(route) = netlink::route_at(message) else { return };
            assert_eq!(taken, None, "ours, and a stranger's");
            assert_eq!(netlink::route_at(&netlink::route_message(&route)), Some(route));
        }
        RouteNetlinkMessage::NewRule(message) => {
            let seen = routing::rule(Family::V4, message);
            let Some(rule) = netlink::rule_spec(message) else { return };
            assert!(seen.ours, "{rule:?}");
            assert_eq!(netlink::rule_spec(&netlink::rule_message(&rule)), Some(rule));
        }
        RouteNetlinkMessage::NewLink(message) => {
            observe::net::link(message);
        }
        _ => {}
    }
}

/// A datagram of nf_tables, as an answer and as a notification.
pub fn nf_tables(datagram: &[u8]) {
    let mut heard = Heard::new(Ours::default());
    heard.digest(datagram);
    while let Some(change) = heard.next() {
        // It stands in one event.
        assert!(change.what.len() <= 9 * (datagram.len() * 3 + 64), "{change:?}");
    }
    for reply in nftnl::frames(datagram).filter_map(Result::ok).filter_map(|frame| frame.reply()) {
        assert!(reply.attributes.len() <= datagram.len());
        nftnl::dump::table_info(&reply);
        nftnl::dump::chain_info(&reply);
        nftnl::dump::rule_info(&reply).lane();
        if let Ok(Some((name, _))) = nftnl::dump::counter(&reply) {
            let counter = Counter::parse(&name);
            assert!(counter.is_none_or(|one| Counter::parse(&one.to_string()) == Some(one)));
        }
        nftnl::pair_elements(&reply.attributes);
        nftnl::dump::parse(&reply.attributes).iter().for_each(element);
    }
}

/// What is read as a slot or a source of ours is what we would have written.
fn element(element: &nftnl::Element) {
    if let Some(((lane, family, slot), target)) = slot_of(element) {
        let (key, value) = slot_element(lane, family, slot, target);
        assert_eq!(element.key, key.to_ne_bytes());
        assert_eq!(element.data.as_deref(), Some(value.to_ne_bytes().as_slice()), "{target:?}");
    }
    if let Some((source, address)) = nftnl::source_address(element) {
        let (map, set) = nftnl::translation_elements(source, address);
        let written = if element.data.is_some() { map } else { set };
        assert_eq!((&written.key, &written.data), (&element.key, &element.data));
    }
}

/// A datagram of conntrack: entries to any port, and how the answer ends.
pub fn conntrack(datagram: &[u8]) {
    let mut each = |message: &[u8]| {
        let Some(entry) = conntrack::socket::entry(message) else { return };
        let families = [entry.source.ip(), entry.destination.ip(), entry.leaves_from].map(Family::of);
        assert!(families.iter().all(|family| *family == entry.family()), "{entry:?}");
    };
    let sequence = datagram.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    if let Err(error) = conntrack::socket::take(datagram, sequence, &mut each) {
        assert!(!error.to_string().is_empty());
    }
}

/// A record of the ring buffer, and the names of directories beside the pins.
pub fn bpf(record: &[u8]) {
    let known = observe::bpf::record(record);
    assert_eq!(known.is_some(), [size_of::<Event>(), size_of::<Said>()].contains(&record.len()));
    if let Ok(name) = std::str::from_utf8(record)
        && let Some(given) = bpf_maps::Given::of_name(name)
    {
        assert_eq!(bpf_maps::Given::of_name(&given.name()), Some(given));
    }
}
