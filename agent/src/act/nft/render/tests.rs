//! What the rendered batch promises, whatever the spec.

use std::collections::BTreeMap;

use mailsteer_core::config::Balance;
use mailsteer_core::model::{Lane, LaneId, LaneMatch, SlotTarget, Slots, Steering, UplinkId};
use mailsteer_core::plan::{LaneSpec, TableSpec};

use super::*;

fn lane(id: u8, matches: LaneMatch, steering: Steering) -> LaneSpec {
    LaneSpec {
        lane: Lane {
            id: LaneId(id),
            stream: format!("s{id}"),
            provider: "other".into(),
            networks: Vec::new(),
            matches,
            steering,
            balance: Balance::RoundRobin,
            slots: BTreeMap::new(),
        },
        slots: BTreeMap::from([(Family::V4, 2)]),
    }
}

fn spec(lanes: Vec<LaneSpec>) -> TableSpec {
    TableSpec {
        ports: vec![25, 587],
        exclude: Vec::new(),
        uplinks: vec!["eth0".into()],
        lanes,
        named: Vec::new(),
        guarded: true,
    }
}

fn commands(spec: &TableSpec, standing: &[ChainInfo]) -> Vec<Value> {
    let slots = spec.lanes.iter().map(|lane| {
        let target = SlotTarget::Source(SourceId(1), UplinkId(1));
        ((lane.lane.id, Family::V4), Slots(vec![target; 2]))
    });
    let sources = BTreeMap::from([(SourceId(1), "192.0.2.1".parse().unwrap())]);
    let (slots, receivers) = (slots.collect(), ReceiverSets::new());
    let elements = Elements { slots: &slots, translations: &sources, receivers: &receivers };
    let batch = render(spec, elements, standing, &[], true).unwrap();
    batch.json["nftables"].as_array().unwrap().clone()
}

/// Where the rules of a chain go, in order.
fn ways(commands: &[Value], chain: &str) -> Vec<String> {
    let rules = commands.iter().map(|command| &command["add"]["rule"]).filter(|rule| rule["chain"] == chain);
    let last =
        rules.filter_map(|rule| rule["expr"].as_array().unwrap().last().unwrap()["goto"]["target"].as_str());
    last.filter(|target| target.starts_with("lane_")).map(str::to_owned).collect()
}

#[test]
fn the_first_match_wins_and_each_origin_sees_only_what_it_can_match() {
    let local = LaneMatch { uids: vec![1], ..LaneMatch::default() };
    let forwarded = LaneMatch { subnets: vec!["172.16.0.0/24".parse().unwrap()], ..LaneMatch::default() };
    let marked = LaneMatch { marks: vec![7], ..LaneMatch::default() };
    let spec = spec(vec![
        lane(4, marked, Steering::Enforce),
        lane(1, local, Steering::Enforce),
        lane(3, forwarded, Steering::Enforce),
        lane(2, LaneMatch::default(), Steering::Observe),
    ]);
    let commands = commands(&spec, &[]);
    assert_eq!(ways(&commands, chain::OUTPUT), ["lane_4", "lane_1", "lane_2"]);
    assert_eq!(ways(&commands, chain::PREROUTING), ["lane_4", "lane_3", "lane_2"]);
}

#[test]
fn an_address_match_gives_a_rule_for_each_family_that_can_match() {
    let both = LaneMatch {
        tags: vec!["198.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        ..LaneMatch::default()
    };
    let only_v4 = LaneMatch { destinations: vec!["192.0.2.0/24".parse().unwrap()], ..both.clone() };
    let never = LaneMatch { destinations: only_v4.destinations.clone(), ..LaneMatch::default() };
    let never = LaneMatch { tags: vec!["fd00::2".parse().unwrap()], ..never };
    let spec = spec(vec![
        lane(1, both, Steering::Enforce),
        lane(2, only_v4, Steering::Enforce),
        lane(3, never, Steering::Enforce),
    ]);
    assert_eq!(ways(&commands(&spec, &[]), chain::OUTPUT), ["lane_1", "lane_1", "lane_2"]);
}

#[test]
fn a_cgroup_is_known_by_its_place_among_all_of_them() {
    let of = |paths: &[&str]| LaneMatch {
        cgroups: paths.iter().map(|path| (*path).to_owned()).collect(),
        ..LaneMatch::default()
    };
    let spec = spec(vec![
        lane(1, of(&["/z", "/b"]), Steering::Enforce),
        lane(2, of(&["/a", "/b"]), Steering::Enforce),
    ]);
    let text = serde_json::to_string(&commands(&spec, &[])).unwrap();
    // Sorted: /a is 0, /b is 1, /z is 2.
    assert!(text.contains(&format!("\"set\":[{},{}]", 0x4c00_0002_u32, 0x4c00_0001_u32)), "{text}");
    assert!(text.contains(&format!("\"set\":[{},{}]", 0x4c00_0000_u32, 0x4c00_0001_u32)), "{text}");
}

#[test]
fn the_table_is_never_deleted_or_declared_and_stale_chains_go() {
    let chain = |name: &str| ChainInfo { name: name.into(), hook: None, policy: None };
    let spec = spec(vec![lane(1, LaneMatch::default(), Steering::Enforce)]);
    // `output` stands without its hook, as a stranger might leave it.
    let commands = commands(&spec, &[chain("lane_9"), chain("lane_1"), chain("output")]);
    let deleted: Vec<_> =
        commands.iter().filter_map(|command| command["delete"]["chain"]["name"].as_str()).collect();
    assert_eq!(deleted, ["lane_9", "output"]);
    for command in &commands {
        let words: Vec<_> =
            command.as_object().unwrap().values().flat_map(|what| what.as_object().unwrap().keys()).collect();
        assert_ne!(words, ["table"], "an owned table takes no table statement");
    }
}

#[test]
fn observing_neither_refuses_nor_drops_on_the_way_out() {
    let spec = spec(vec![
        lane(1, LaneMatch::default(), Steering::Observe),
        lane(2, LaneMatch::default(), Steering::Bypass),
    ]);
    let rules: Vec<_> = commands(&spec, &[]).iter().map(|command| command["add"]["rule"].clone()).collect();
    let classified: Vec<_> = rules
        .iter()
        .filter(|rule| !["check", "verify"].contains(&rule["chain"].as_str().unwrap_or("check")))
        .collect();
    let text = serde_json::to_string(&classified).unwrap();
    assert!(!text.contains("reject") && !text.contains("drop"), "{text}");
}

#[test]
fn no_ports_and_no_uplinks_are_rendered_without_empty_sets() {
    let spec = TableSpec { ports: Vec::new(), guarded: true, ..spec(Vec::new()) };
    let spec = TableSpec { uplinks: Vec::new(), ..spec };
    let text = serde_json::to_string(&commands(&spec, &[])).unwrap();
    assert!(!text.contains("\"set\":[]"), "{text}");
}
