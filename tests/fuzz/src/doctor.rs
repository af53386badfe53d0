//! What `mailsteer doctor` reads: listings of other programs, files of the kernel and of services. The first byte says
//! which, or all would only ever be one text.

use mailsteer_core::doctor::parse;

pub(crate) fn run(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match which % 4 {
        0 => {
            let Ok(ruleset) = serde_json::from_str(&text) else { return };
            judged(&parse::nftables(&ruleset), text.len());
        }
        1 => {
            let found = parse::iptables("iptables", &text);
            for rule in &found.rules {
                assert!(rule.removal.starts_with("iptables -t ") && !rule.removal.contains('\n'), "{rule:?}");
            }
            judged(&found, text.len());
        }
        2 => {
            assert!(parse::mounts(&text).len() <= text.len());
            let lockdown = parse::lockdown(&text);
            assert!(lockdown.is_none_or(|word| !word.contains(']')));
            let _read = (parse::capabilities(&text), parse::nft_version(&text));
            let _known = parse::has_conntrack_timeouts(&text);
        }
        _ => {
            let (one, two) = text.split_at(text.floor_char_boundary(text.len() / 2));
            let value = parse::setting(&[one, two], "ManageForeignRoutes");
            assert!(value.is_none_or(|value| value.trim() == value && !value.contains('\n')));
            let _read = (parse::orders(&text), parse::accounts(&text));
        }
    }
}

/// What was read is no more than was there, and every chain is found again.
fn judged(found: &mailsteer_core::doctor::Firewall, length: usize) {
    assert!(found.rules.len() + found.chains.len() <= length);
    for rule in &found.rules {
        assert!(!rule.does.is_empty());
        let _all = rule.scope.meets(&[25]) || rule.scope.meets_all();
        assert!(found.bases(&rule.table, &rule.chain).len() <= found.chains.len());
    }
}
