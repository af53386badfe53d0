//! What `nft -j list ruleset` prints, walked as plain JSON. Its shapes differ between versions of nft and grow with
//! the kernel: what is not known here is a condition that may be met.

use serde_json::Value;

use crate::doctor::firewall::{Base, Chain, Does, Firewall, MarkTest, Rule, Scope};

/// The table of ours.
const OURS: &str = "mailsteer";

/// Chains and rules of others.
#[must_use]
pub fn nftables(ruleset: &Value) -> Firewall {
    let mut found = Firewall::default();
    for item in ruleset["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = item.get("chain").filter(|chain| !is_ours(chain)) {
            found.tracks |= chain["type"] == "nat";
            found.chains.push(Chain {
                table: table(chain),
                name: text(&chain["name"]),
                base: chain["hook"].as_str().map(|hook| Base {
                    kind: text(&chain["type"]),
                    hook: hook.to_owned(),
                    priority: chain["prio"].as_i64().unwrap_or(0),
                }),
            });
        }
        if let Some(rule) = item.get("rule").filter(|rule| !is_ours(rule)) {
            found.tracks |= mentions(&rule["expr"], "ct");
            found.rules.push(read_rule(rule));
        }
    }
    found.rules.retain(|rule| !rule.does.is_empty());
    found
}

fn is_ours(object: &Value) -> bool {
    object["table"] == OURS && object["family"] == "inet"
}

fn table(object: &Value) -> String {
    format!("{} {}", text(&object["family"]), text(&object["table"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a key stands anywhere within.
fn mentions(value: &Value, key: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| mentions(item, key)),
        Value::Object(map) => map.iter().any(|(name, item)| name == key || mentions(item, key)),
        _ => false,
    }
}

fn read_rule(rule: &Value) -> Rule {
    let (table, chain, handle) = (table(rule), text(&rule["chain"]), rule["handle"].as_u64().unwrap_or(0));
    let mut scope = Scope::default();
    let mut does = vec![];
    for statement in rule["expr"].as_array().into_iter().flatten() {
        let Some((word, value)) = statement.as_object().and_then(|map| map.iter().next()) else { continue };
        match word.as_str() {
            "match" => read_match(value, &mut scope),
            "counter" | "log" | "comment" | "accept" | "return" | "continue" => {}
            "notrack" => does.push(Does::NoTrack),
            "drop" | "reject" => does.push(Does::Drop),
            "masquerade" | "snat" => does.push(Does::SourceNat),
            "jump" | "goto" => does.push(Does::Jump(text(&value["target"]))),
            "mangle" if value["key"]["ct"]["key"] == "mark" => does.push(connmark(&value["value"])),
            "mangle" if value["key"]["meta"]["key"] == "mark" => {
                does.extend(
                    value["value"]
                        .as_u64()
                        .and_then(|n| u32::try_from(n).ok())
                        .map(|n| Does::SetMark(n, u32::MAX)),
                );
            }
            // Among others "xt", a rule of iptables: iptables-save has it in full.
            _ => scope.conditions = true,
        }
    }
    Rule {
        name: format!("the rule with handle {handle} in chain {chain} of table {table}"),
        removal: format!("nft delete rule {table} {chain} handle {handle}"),
        table,
        chain,
        scope,
        does,
    }
}

/// What is written into the connection's mark: the packet's mark, or something else. Which bits is not told apart.
fn connmark(value: &Value) -> Does {
    if mentions(value, "meta") { Does::SaveConnmark(u32::MAX) } else { Does::SetConnmark(u32::MAX) }
}

fn read_match(value: &Value, scope: &mut Scope) {
    let (left, right) = (&value["left"], &value["right"]);
    let inverted = value["op"] == "!=";
    let field = left["payload"]["field"].as_str();
    let protocol = left["payload"]["protocol"].as_str();
    if let ("dport" | "sport", Some("tcp" | "th")) = (field.unwrap_or_default(), protocol) {
        match ranges(right).filter(|_| !inverted) {
            Some(list) => scope.ports.get_or_insert_default().extend(list),
            None => scope.conditions = true,
        }
        return;
    }
    if matches!(protocol, Some("udp" | "icmp" | "icmpv6" | "sctp" | "dccp")) {
        scope.never = true;
        return;
    }
    match left["meta"]["key"].as_str() {
        Some("l4proto") => other_protocol(right, inverted, scope),
        Some("iif" | "iifname" | "oif" | "oifname") if right == "lo" && !inverted => scope.never = true,
        // Both ways stand in one ruleset, and each family of it meets mail.
        Some("nfproto") => {}
        _ if matches!(field, Some("protocol" | "nexthdr")) => other_protocol(right, inverted, scope),
        _ => match mark_test(left, right, inverted) {
            Some(test) => scope.marks.push(test),
            None => scope.conditions = true,
        },
    }
}

fn other_protocol(right: &Value, inverted: bool, scope: &mut Scope) {
    let tcp = |value: &Value| value == "tcp" || value == 6;
    let names_tcp = tcp(right) || right["set"].as_array().is_some_and(|set| set.iter().any(tcp));
    scope.never |= names_tcp == inverted;
}

/// `25`, `{ 25, 587 }`, `25-587`; `None` for what cannot be read, such as a named set.
fn ranges(right: &Value) -> Option<Vec<(u16, u16)>> {
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    if let Some(one) = port(right) {
        return Some(vec![(one, one)]);
    }
    if let Some([first, last]) = right["range"].as_array().map(Vec::as_slice) {
        return Some(vec![(port(first)?, port(last)?)]);
    }
    let lists: Option<Vec<_>> = right["set"].as_array()?.iter().map(ranges).collect();
    Some(lists?.concat())
}

fn mark_test(left: &Value, right: &Value, inverted: bool) -> Option<MarkTest> {
    let is_mark = |value: &Value| value["meta"]["key"] == "mark" || value["ct"]["key"] == "mark";
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    if is_mark(left) {
        // What nft makes of a mask that is a row of ones.
        if let (Some(value), Some(length)) =
            (number(&right["prefix"]["addr"]), right["prefix"]["len"].as_u64())
        {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(u32::try_from(length).ok()?)?).unwrap_or(0);
            return Some(MarkTest { value, mask, inverted });
        }
        return Some(MarkTest { value: number(right)?, mask: u32::MAX, inverted });
    }
    let [of, mask] = left["&"].as_array()?.as_slice() else { return None };
    is_mark(of).then_some(MarkTest { value: number(right)?, mask: number(mask)?, inverted })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(expr: &Value) -> Firewall {
        nftables(&json!({ "nftables": [
            { "metainfo": { "version": "1.0.6" } },
            { "chain": { "family": "ip", "table": "t", "name": "c", "type": "filter", "hook": "output", "prio": -300 } },
            { "rule": { "family": "ip", "table": "t", "chain": "c", "handle": 3, "expr": expr } },
        ] }))
    }

    #[test]
    fn ports_in_every_shape() {
        let dport = |right: Value| json!({ "match": { "op": "==", "left": { "payload": { "protocol": "tcp", "field": "dport" } }, "right": right } });
        for (right, meets) in [
            (json!(25), true),
            (json!(80), false),
            (json!({ "set": [80, 25] }), true),
            (json!({ "set": [{ "range": [20, 30] }] }), true),
            (json!({ "range": [1024, 65535] }), false),
            (json!("@mail_ports"), true),
        ] {
            let found = one(&json!([dport(right.clone()), { "notrack": null }]));
            assert_eq!(found.rules[0].scope.meets(&[25]), meets, "{right}");
            assert_eq!(found.rules[0].does, [Does::NoTrack]);
        }
    }

    #[test]
    fn who_is_never_met() {
        let is = |key: &str, right: &str| json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": right } });
        let meets =
            |statement: Value| one(&json!([statement, { "notrack": null }])).rules[0].scope.meets(&[25]);
        assert!(!meets(is("l4proto", "udp")));
        assert!(meets(is("l4proto", "tcp")));
        assert!(!meets(is("oifname", "lo")));
        assert!(meets(is("oifname", "eth0")));
        let udp = json!({ "match": { "op": "==", "left": { "payload": { "protocol": "udp", "field": "dport" } }, "right": 25 } });
        assert!(!meets(udp));
    }

    #[test]
    fn marks_nat_and_jumps() {
        let mark = json!({ "match": { "op": "==", "left": { "&": [{ "meta": { "key": "mark" } }, 65280] }, "right": 19712 } });
        let found = one(&json!([mark, { "drop": null }]));
        assert_eq!(found.rules[0].scope.marks, [MarkTest { value: 19712, mask: 65280, inverted: false }]);
        let set = json!({ "mangle": { "key": { "ct": { "key": "mark" } }, "value": 1 } });
        let found = one(&json!([set]));
        assert!(found.tracks);
        assert_eq!(found.rules[0].does, [Does::SetConnmark(u32::MAX)]);
        let found = one(&json!([{ "jump": { "target": "d" } }]));
        assert_eq!(found.bases("ip t", "d").len(), 1);
        assert!(found.bases("ip t", "e").is_empty());
    }

    #[test]
    fn foreign_shapes_are_passed_over() {
        for odd in [
            json!(null),
            json!([]),
            json!({ "nftables": 3 }),
            json!({ "nftables": [1, { "rule": 2 }, { "chain": [] }] }),
        ] {
            assert!(nftables(&odd).rules.is_empty(), "{odd}");
        }
        let found = one(&json!([{ "a new statement": { "x": 1 } }, 7, { "notrack": null }]));
        assert!(found.rules[0].scope.conditions);
        let ours = json!({ "nftables": [{ "chain": { "family": "inet", "table": "mailsteer", "name": "c", "type": "nat", "hook": "postrouting", "prio": 90 } }] });
        assert_eq!(nftables(&ours), Firewall::default());
    }
}
