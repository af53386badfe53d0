//! How addresses, routes and rules of the model look as rtnetlink messages, both ways.
//!
//! Owns: the bijection between `RouteAt`, `RuleSpec` and the wire; whatever is written here must be read back the
//! same, or the plan would never come to rest. Must not: talk to the kernel.

use std::net::IpAddr;

use ipnet::IpNet;
use mailsteer_core::model::{Address, AddressState, Family, Route, UplinkId};
use mailsteer_core::plan::{RouteAt, RuleSpec};
use mailsteer_ebpf::Mark;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::request::address_family;
use super::{PRIORITY_FALLBACK, PRIORITY_REPLIES, PRIORITY_UPLINK, PROTOCOL, TABLE_BASE, TABLE_LAST};

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The routing table of an uplink, or the fallback table.
#[must_use]
pub const fn uplink_table(uplink: Option<UplinkId>) -> u32 {
    match uplink {
        Some(UplinkId(id)) => TABLE_BASE + id as u32,
        None => TABLE_BASE,
    }
}

/// The metric as the kernel gets it. IPv6 has no metric 0 (the kernel turns it into 1024), so all of its metrics
/// are one higher on the wire; else a plan could not tell what it wrote from what it reads.
#[must_use]
pub const fn metric_on_wire(family: Family, metric: u32) -> u32 {
    match family {
        Family::V4 => metric,
        Family::V6 => metric.saturating_add(1),
    }
}

/// An address as the model has it; `None` for what is neither IPv4 nor IPv6.
#[must_use]
pub fn address_of(message: &AddressMessage) -> Option<Address> {
    let mut remote = None;
    let mut local = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        // On point-to-point links the plain attribute is the peer's address.
        address: local.or(remote)?,
        prefix_len: message.header.prefix_len,
        state: state(flags),
        ours: message_protocol(message) == Some(PROTOCOL),
    })
}

/// Who added the address, where the kernel knows.
#[must_use]
pub fn message_protocol(message: &AddressMessage) -> Option<u8> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(u8::from(*protocol)),
        _ => None,
    })
}

fn state(flags: AddressFlags) -> AddressState {
    if flags.contains(AddressFlags::Dadfailed) {
        AddressState::DadFailed
    } else if flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic) {
        AddressState::Tentative
    } else {
        AddressState::Ready
    }
}

/// The unicast routes that a message of the main table stands for: one for each next hop.
#[must_use]
pub fn main_routes(message: &RouteMessage) -> Vec<Route> {
    let unwanted = RouteFlags::Cloned | RouteFlags::Dead;
    if table(message) != MAIN
        || message.header.kind != RouteType::Unicast
        || message.header.flags.intersects(unwanted)
    {
        return Vec::new();
    }
    let Some(destination) = destination(message) else { return Vec::new() };
    let metric = metric(message);
    hops(message)
        .into_iter()
        .map(|(gateway, ifindex)| Route { destination, gateway, ifindex, metric })
        .collect()
}

/// A route of one of our tables as the plan has it; `None` for what is not ours.
#[must_use]
pub fn route_at(message: &RouteMessage) -> Option<RouteAt> {
    let table = table(message);
    if !(TABLE_BASE..=TABLE_LAST).contains(&table)
        || message.header.protocol != RouteProtocol::from(PROTOCOL)
        || message.header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let destination = destination(message)?;
    let (gateway, ifindex) = hops(message).into_iter().next()?;
    let metric = match destination {
        IpNet::V4(_) => metric(message),
        IpNet::V6(_) => metric(message).saturating_sub(1),
    };
    let uplink = u8::try_from(table - TABLE_BASE).ok().filter(|id| *id > 0).map(UplinkId);
    Some(RouteAt { uplink, destination, gateway, ifindex, metric })
}

/// A route of ours as the kernel gets it. The gateway is taken to be on the link: an uplink's own table has no
/// connected route that could say so.
#[must_use]
pub fn route_message(route: &RouteAt) -> RouteMessage {
    let family = Family::of(route.destination.addr());
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (family, route.gateway) {
        (Family::V4, None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(uplink_table(route.uplink)));
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    attributes.push(RouteAttribute::Oif(route.ifindex));
    attributes.push(RouteAttribute::Priority(metric_on_wire(family, route.metric)));
    match route.gateway {
        Some(IpAddr::V6(gateway)) if family == Family::V4 => {
            attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
        }
        Some(gateway) => attributes.push(RouteAttribute::Gateway(gateway.into())),
        None => {}
    }
    if route.gateway.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    message
}

fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

fn metric(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    attribute.unwrap_or(0)
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = match (address, message.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => IpAddr::from([0; 4]),
        (None, AddressFamily::Inet6) => IpAddr::from([0; 16]),
        (None, _) => return None,
    };
    // A network is told apart by its prefix; what stands beyond it says nothing.
    IpNet::new(address, message.header.destination_prefix_length).ok().map(|net| net.trunc())
}

fn hops(message: &RouteMessage) -> Vec<(Option<IpAddr>, u32)> {
    let mut found: Vec<_> = hop(&message.attributes, None).into_iter().collect();
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(next) = attribute {
            found.extend(next.iter().filter_map(|one| hop(&one.attributes, Some(one.interface_index))));
        }
    }
    found
}

fn hop(attributes: &[RouteAttribute], ifindex: Option<u32>) -> Option<(Option<IpAddr>, u32)> {
    let mut gateway = None;
    let mut out = ifindex;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    out.map(|out| (gateway, out))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// A rule of ours as the kernel gets it.
#[must_use]
pub fn rule_message(rule: &RuleSpec) -> RuleMessage {
    let (family, table, priority) = match rule {
        RuleSpec::Uplink { family, uplink } => {
            (*family, uplink_table(Some(*uplink)), PRIORITY_UPLINK + u32::from(uplink.0))
        }
        RuleSpec::Replies { family, uplink, .. } => (*family, MAIN, PRIORITY_REPLIES + u32::from(uplink.0)),
        RuleSpec::Fallback { family, .. } => (*family, TABLE_BASE, PRIORITY_FALLBACK),
    };
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message.attributes.extend(rule_selectors(rule));
    message
}

fn rule_selectors(rule: &RuleSpec) -> Vec<RuleAttribute> {
    match rule {
        RuleSpec::Uplink { uplink, .. } => vec![
            RuleAttribute::FwMark(Mark { uplink: uplink.0, lane: 0, source: 0 }.pack()),
            RuleAttribute::FwMask(Mark::UPLINK_MASK),
        ],
        RuleSpec::Replies { interface, .. } => vec![
            RuleAttribute::Iifname(interface.clone()),
            RuleAttribute::FwMark(Mark::MAGIC),
            RuleAttribute::FwMask(Mark::MAGIC_MASK),
        ],
        RuleSpec::Fallback { port, .. } => vec![
            RuleAttribute::IpProtocol(IpProtocol::Tcp),
            RuleAttribute::DestinationPortRange(RulePortRange { start: *port, end: *port }),
        ],
    }
}

/// A rule as the plan has it; `None` for one that is not exactly as we write it.
#[must_use]
pub fn rule_spec(message: &RuleMessage) -> Option<RuleSpec> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let has = |wanted: &RuleAttribute| message.attributes.contains(wanted);
    if !has(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL))) {
        return None;
    }
    let mut priority = 0;
    let mut interface = None;
    let mut port = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::DestinationPortRange(range) if range.start == range.end => {
                port = Some(range.start);
            }
            _ => {}
        }
    }
    let uplink = |base: u32| {
        priority.checked_sub(base).and_then(|id| u8::try_from(id).ok()).filter(|id| (1..=15).contains(id))
    };
    let spec = match (uplink(PRIORITY_REPLIES), uplink(PRIORITY_UPLINK), priority) {
        (Some(id), ..) => RuleSpec::Replies { family, uplink: UplinkId(id), interface: interface? },
        (_, Some(id), _) => RuleSpec::Uplink { family, uplink: UplinkId(id) },
        (.., PRIORITY_FALLBACK) => RuleSpec::Fallback { family, port: port? },
        _ => return None,
    };
    // One written differently (by an older version, or changed by hand) is none of the plan's: it is removed by
    // teardown, and the right one is added beside it.
    let ours = rule_message(&spec);
    let narrowed = message.attributes.iter().any(|one| selects(one) && !ours.attributes.contains(one));
    let header = &message.header;
    let plain = header.action == ours.header.action
        && !header.flags.contains(RuleFlags::Invert)
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0);
    (plain && !narrowed && ours.attributes.iter().all(has)).then_some(spec)
}

/// Whether an attribute makes a rule meet less than all packets, or look up less than a whole table. The kernel shows
/// some with every rule, and may show new ones.
fn selects(attribute: &RuleAttribute) -> bool {
    match attribute {
        RuleAttribute::FwMark(_)
        | RuleAttribute::FwMask(_)
        | RuleAttribute::Iifname(_)
        | RuleAttribute::Oifname(_)
        | RuleAttribute::IpProtocol(_)
        | RuleAttribute::SourcePortRange(_)
        | RuleAttribute::DestinationPortRange(_) => true,
        RuleAttribute::UidRange(range) => range.start != 0 || range.end != u32::MAX,
        RuleAttribute::SuppressPrefixLen(length) => *length != u32::MAX,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::rule::RuleUidRange;

    use super::*;

    #[test]
    fn a_rule_that_meets_less_than_ours_is_not_ours() {
        let spec = RuleSpec::Uplink { family: Family::V4, uplink: UplinkId(1) };
        let ours = rule_message(&spec);
        let with = |change: &dyn Fn(&mut RuleMessage)| {
            let mut message = ours.clone();
            change(&mut message);
            rule_spec(&message)
        };
        let users = |start, end| RuleAttribute::UidRange(RuleUidRange { start, end });
        let shown = [users(0, u32::MAX), RuleAttribute::SuppressPrefixLen(u32::MAX)];
        assert_eq!(with(&|rule| rule.attributes.extend(shown.clone())), Some(spec));
        let changes: [&dyn Fn(&mut RuleMessage); 7] = [
            &|rule| rule.header.flags |= RuleFlags::Invert,
            &|rule| rule.header.action = RuleAction::Unreachable,
            &|rule| rule.header.src_len = 8,
            &|rule| rule.header.tos = 4,
            &|rule| rule.attributes.push(RuleAttribute::Oifname("eth0".into())),
            &|rule| rule.attributes.push(users(1, 1)),
            &|rule| rule.attributes.push(RuleAttribute::SuppressPrefixLen(0)),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(with(change), None, "change {number}");
        }
    }
}
