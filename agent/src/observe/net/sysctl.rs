//! Whether the settings stand that our rules need.
//!
//! Owns: reading them. Must not: set any; carrying out the rule does. An interface that was made again has the kernel's
//! defaults, while the rule, which names it, stands.

use std::fs;

use mailsteer_core::plan::RuleSpec;

/// The reverse path filter that asks for the way back by this very interface.
const STRICT: u8 = 1;

/// Whether replies by this rule get in: a strict reverse path filter heeds their mark, or there is none. True for every
/// other rule, and for settings that cannot be read.
pub(super) fn holds(rule: &RuleSpec) -> bool {
    let RuleSpec::Replies { interface, .. } = rule else { return true };
    let either =
        |key: &str| [interface.as_str(), "all"].into_iter().filter_map(|conf| setting(conf, key)).max();
    either("rp_filter") != Some(STRICT) || either("src_valid_mark") != Some(0)
}

fn setting(interface: &str, key: &str) -> Option<u8> {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/{key}")).ok()?.trim().parse().ok()
}
