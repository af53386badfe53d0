//! What `iptables-save` and its kin print.

use crate::doctor::firewall::{Base, Chain, Does, Firewall, MarkTest, Rule, Scope};

/// Chains and rules out of what `program`, such as `ip6tables-legacy`, saves.
#[must_use]
pub fn iptables(program: &str, text: &str) -> Firewall {
    let mut found = Firewall::default();
    let mut table = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next().unwrap_or_default();
            found.chains.push(Chain {
                table: format!("{program} {table}"),
                name: name.to_owned(),
                base: base(&table, name),
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            found.tracks |= table == "nat" || rule.contains("conntrack") || rule.contains("-m state");
            found.rules.extend(read_rule(program, &table, rule));
        }
    }
    found
}

fn base(table: &str, chain: &str) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING" => chain.to_lowercase(),
        _ => return None,
    };
    let (kind, priority) = match (table, chain) {
        ("raw", _) => ("filter", -300),
        ("mangle", "OUTPUT") => ("route", -150),
        ("mangle", _) => ("filter", -150),
        ("nat", "PREROUTING" | "OUTPUT") => ("nat", -100),
        ("nat", _) => ("nat", 100),
        ("security", _) => ("filter", 50),
        _ => ("filter", 0),
    };
    Some(Base { kind: kind.to_owned(), hook, priority })
}

fn read_rule(program: &str, table: &str, rule: &str) -> Option<Rule> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let (chain, rest) = words.split_first()?;
    let mut scope = Scope::default();
    let mut does = vec![];
    let mut inverted = false;
    let mut at = 0;
    while let Some(word) = rest.get(at) {
        let value = rest.get(at + 1).copied().unwrap_or_default();
        at += 1;
        match *word {
            "!" => {
                inverted = true;
                continue;
            }
            "-j" | "-g" => does.extend(target(value, &rest[at..])),
            _ => condition(word, value, inverted, &mut scope),
        }
        inverted = false;
        if matches!(*word, "-j" | "-g") {
            break;
        }
    }
    if does.is_empty() {
        return None;
    }
    let name = format!("`{program} -t {table} -A {rule}`");
    let removal = format!("{program} -t {table} -D {rule}");
    Some(Rule { table: format!("{program} {table}"), chain: (*chain).to_owned(), name, removal, scope, does })
}

fn condition(word: &str, value: &str, inverted: bool, scope: &mut Scope) {
    match word {
        "-p" => scope.never |= (value == "tcp" || value == "all") == inverted,
        "--dport" | "--sport" | "--dports" | "--sports" | "--ports" => {
            match ranges(value).filter(|_| !inverted) {
                Some(list) => scope.ports.get_or_insert_default().extend(list),
                None => scope.conditions = true,
            }
        }
        "-i" | "-o" if value == "lo" && !inverted => scope.never = true,
        "--mark" => match number_and_mask(value) {
            Some((value, mask)) => scope.marks.push(MarkTest { value, mask, inverted }),
            None => scope.conditions = true,
        },
        "-s" | "-d" | "-i" | "-o" => scope.conditions = true,
        // Names of match modules bring their options along; comments say nothing.
        "-m" | "--comment" => {}
        other if other.starts_with("--") => scope.conditions = true,
        _ => {}
    }
}

/// `25`, `25:30`, `25,587:600`.
fn ranges(text: &str) -> Option<Vec<(u16, u16)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').map(range).collect()
}

fn number_and_mask(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
    Some((number(value)?, mask.map_or(Some(u32::MAX), number)?))
}

fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16)).ok()
}

fn target(name: &str, options: &[&str]) -> Vec<Does> {
    let has = |word: &str| options.contains(&word);
    let after = |word: &str| {
        let at = options.iter().position(|option| *option == word)?;
        options.get(at + 1).copied()
    };
    match name {
        "NOTRACK" => vec![Does::NoTrack],
        "CT" if has("--notrack") => vec![Does::NoTrack],
        "MASQUERADE" | "SNAT" | "NETMAP" => vec![Does::SourceNat],
        "DROP" | "REJECT" => vec![Does::Drop],
        "CONNMARK" => connmark(has("--save-mark"), has("--restore-mark"), after),
        "MARK" => {
            let set =
                ["--set-xmark", "--set-mark"].iter().find_map(|word| after(word)).and_then(number_and_mask);
            set.map(|(value, mask)| Does::SetMark(value, mask)).into_iter().collect()
        }
        "ACCEPT" | "RETURN" | "LOG" | "CT" | "TCPMSS" | "DNAT" | "REDIRECT" | "NFLOG" => vec![],
        chain => vec![Does::Jump(chain.to_owned())],
    }
}

fn connmark<'a>(save: bool, restore: bool, after: impl Fn(&str) -> Option<&'a str>) -> Vec<Does> {
    if restore {
        return vec![];
    }
    if save {
        let mask = after("--ctmask").or_else(|| after("--mask")).and_then(number);
        return vec![Does::SaveConnmark(mask.unwrap_or(u32::MAX))];
    }
    let set = ["--set-xmark", "--set-mark"].iter().find_map(|word| after(word));
    let bits = set.and_then(number_and_mask).map_or(u32::MAX, |(value, mask)| value | mask);
    vec![Does::SetConnmark(bits)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated\n*raw\n:OUTPUT ACCEPT [0:0]\n\
        -A OUTPUT -p tcp -m tcp --dport 25 -j CT --notrack\n-A OUTPUT -p udp -j NOTRACK\n\
        -A OUTPUT -o lo -j NOTRACK\n-A OUTPUT -p tcp -m multiport --dports 80,440:445 -j NOTRACK\nCOMMIT\n\
        *filter\n:OUTPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A OUTPUT -j KUBE-FIREWALL\n\
        -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n\
        -A OUTPUT ! -o wg0 -m mark ! --mark 0xca6c -m addrtype ! --dst-type LOCAL -j REJECT --reject-with x\n\
        -A OUTPUT -j ACCEPT\nCOMMIT\n\
        *mangle\n-A OUTPUT -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000\n\
        -A OUTPUT -j CONNMARK --set-xmark 0x100/0x3f00\n-A OUTPUT -j CONNMARK --restore-mark\nCOMMIT\n";

    #[test]
    fn what_iptables_save_prints() {
        let found = iptables("iptables", SAVED);
        let by = |does: Does| found.rules.iter().filter(move |rule| rule.does.contains(&does));
        let met: Vec<bool> = by(Does::NoTrack).map(|rule| rule.scope.meets(&[25])).collect();
        assert_eq!(met, [true, false, false, false]);
        assert!(by(Does::NoTrack).next().unwrap().scope.meets_all());
        let drops: Vec<_> = by(Does::Drop).flat_map(|rule| rule.scope.marks.clone()).collect();
        assert_eq!(drops[0], MarkTest { value: 0x8000, mask: 0x8000, inverted: false });
        assert_eq!(drops[1], MarkTest { value: 0xca6c, mask: u32::MAX, inverted: true });
        assert_eq!(by(Does::SaveConnmark(0xff_0000)).count(), 1);
        assert_eq!(by(Does::SetConnmark(0x3f00)).count(), 1);
        assert_eq!(found.bases("iptables filter", "KUBE-FIREWALL").len(), 1);
        let first = &found.rules[0];
        assert_eq!(first.removal, "iptables -t raw -D OUTPUT -p tcp -m tcp --dport 25 -j CT --notrack");
    }

    #[test]
    fn odd_lines_are_passed_over() {
        let found = iptables("iptables", "-A\n-A OUTPUT\n*\n:\n-A X -j\n-A OUTPUT -j DROP --mark\n\u{0}");
        assert_eq!(found.rules.iter().filter(|rule| rule.does == [Does::Drop]).count(), 1);
    }
}
