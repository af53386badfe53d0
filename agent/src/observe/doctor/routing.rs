//! Links, addresses, policy rules and network settings of this namespace.

use std::collections::BTreeMap;

use mailsteer_core::doctor::{InterfaceSettings, PolicyRule, Read, TABLES, Unread};
use mailsteer_core::model::{Family, Host};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::files::{needed, unread};
use super::kernel::number;
use super::odd;
use crate::netlink::{self, Connection, NetError, PROTOCOL};
use crate::observe::net::snapshot;

/// What rtnetlink says.
pub(super) struct Seen {
    pub(super) host: Read<Host>,
    pub(super) rules: Read<Vec<PolicyRule>>,
    pub(super) taken_tables: Read<Vec<u32>>,
}

pub(super) async fn look() -> Seen {
    let connection = match Connection::open() {
        Ok(connection) => connection,
        Err(error) => {
            let why = refused(&error);
            return Seen { host: Err(why.clone()), rules: Err(why.clone()), taken_tables: Err(why) };
        }
    };
    let handle = connection.handle();
    let mut rules = Ok(vec![]);
    let mut tables = Ok(vec![]);
    for family in Family::BOTH {
        match (netlink::rules(handle, family).await, &mut rules) {
            (Ok(found), Ok(rules)) => rules.extend(found.iter().map(|message| rule(family, message))),
            (Err(error), _) => rules = Err(refused(&error)),
            _ => {}
        }
        match (netlink::routes(handle, family, false).await, &mut tables) {
            (Ok(found), Ok(tables)) => tables.extend(found.iter().filter_map(taken_table)),
            (Err(error), _) => tables = Err(refused(&error)),
            _ => {}
        }
    }
    let taken_tables = tables.map(|mut tables: Vec<u32>| {
        tables.sort_unstable();
        tables.dedup();
        tables
    });
    Seen { host: snapshot(handle).await.map_err(|error| refused(&error)), rules, taken_tables }
}

fn refused(error: &NetError) -> Unread {
    Unread { why: error.to_string(), needs_root: false }
}

/// A table of our numbers, where somebody else has a route in it.
pub(crate) fn taken_table(message: &RouteMessage) -> Option<u32> {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = table.unwrap_or_else(|| u32::from(message.header.table));
    let ours = message.header.protocol == RouteProtocol::from(PROTOCOL);
    (TABLES.contains(&table) && !ours).then_some(table)
}

pub(crate) fn rule(family: Family, message: &RuleMessage) -> PolicyRule {
    let header = &message.header;
    let (mut mark, mut mask, mut table) = (None, None, Some(u32::from(header.table)));
    let mut found = PolicyRule {
        family,
        preference: 0,
        mark: None,
        inverted: header.flags.contains(RuleFlags::Invert),
        selective: header.src_len > 0 || header.dst_len > 0 || header.tos != 0,
        table: None,
        suppresses: false,
        ours: false,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(preference) => found.preference = *preference,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(value) => table = Some(*value),
            RuleAttribute::Protocol(protocol) => found.ours = *protocol == RouteProtocol::from(PROTOCOL),
            RuleAttribute::SuppressPrefixLen(length) => found.suppresses = *length != u32::MAX,
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => found.selective = true,
            // The kernel shows the range of users with every rule: all of them, where none is chosen.
            RuleAttribute::UidRange(range) => found.selective |= range.start != 0 || range.end != u32::MAX,
            _ => {}
        }
    }
    // A mask of 0 asks for no mark.
    found.mark =
        mark.or(mask.map(|_| 0)).map(|mark| (mark, mask.unwrap_or(u32::MAX))).filter(|(_, mask)| *mask != 0);
    found.table = table.filter(|table| header.action == RuleAction::ToTable && *table != 0);
    found
}

/// Settings of every interface, and those of `all`.
pub(super) fn interfaces() -> Read<BTreeMap<String, InterfaceSettings>> {
    let base = "/proc/sys/net/ipv4/conf";
    let entries = std::fs::read_dir(base).map_err(|error| unread(base, &error))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let settings = |name: String| -> Read<(String, InterfaceSettings)> {
        let is_set = |key: &str| number::<u8>(&format!("{base}/{name}/{key}"));
        Ok((
            name.clone(),
            InterfaceSettings {
                rp_filter: is_set("rp_filter")?,
                src_valid_mark: is_set("src_valid_mark")? != 0,
                promote_secondaries: is_set("promote_secondaries")? != 0,
            },
        ))
    };
    // An interface that vanishes meanwhile takes its settings along.
    Ok(names.filter_map(|name| settings(name).ok()).collect())
}

pub(super) fn local_ports() -> Read<(u16, u16)> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = needed(path)?;
    let ports: Vec<u16> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match ports.as_slice() {
        [first, last] => Ok((*first, *last)),
        _ => odd(path),
    }
}
