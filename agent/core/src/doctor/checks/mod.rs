//! The checks, by subject.
//!
//! Owns: what all of them look at, and their order. Each submodule owns the checks of its subject.

mod conntrack;
mod firewall;
mod kernel;
mod port25;
mod privileges;
mod programs;
mod routing;
mod services;

use std::collections::BTreeSet;

use super::about::CHECKS;
use super::finding::{Finding, Level};
use super::findings::Findings;
use super::firewall::{Firewall, Rule};
use super::numbers::Marks;
use crate::config::Config;

/// Whom the checks look at.
pub(super) struct Patient<'a> {
    found: &'a Findings,
    config: Option<&'a Config>,
}

impl<'a> Patient<'a> {
    pub(super) fn new(found: &'a Findings, config: Option<&'a Config>) -> Self {
        Self { found, config }
    }

    pub(super) fn examine(&self) -> Vec<Finding> {
        let all: [fn(&Patient<'_>) -> Vec<Finding>; 8] = [
            kernel::check,
            privileges::check,
            conntrack::check,
            firewall::check,
            programs::check,
            routing::check,
            port25::check,
            services::check,
        ];
        let mut findings: Vec<Finding> = all.iter().flat_map(|check| check(self)).collect();
        findings.sort_by_key(|finding| CHECKS.iter().position(|about| about.name == finding.check));
        findings
    }

    fn ports(&self) -> &[u16] {
        self.config.map_or(&[25], |config| &config.ports)
    }

    /// Uplinks: configured, else interfaces with a default route.
    fn uplinks(&self) -> BTreeSet<String> {
        let declared = self.config.map(|config| &config.uplinks).filter(|uplinks| !uplinks.is_empty());
        if let Some(uplinks) = declared {
            return uplinks.iter().map(|uplink| uplink.interface.clone()).collect();
        }
        let Ok(host) = &self.found.host else { return BTreeSet::new() };
        let name =
            |index: u32| host.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let defaults = host.routes.iter().filter(|route| route.destination.prefix_len() == 0);
        defaults.filter_map(|route| name(route.ifindex)).collect()
    }

    /// Mail leaves by uplinks of the config, whatever the main table says.
    fn declares_uplinks(&self) -> bool {
        self.config.is_some_and(|config| !config.uplinks.is_empty())
    }

    fn marks(&self) -> Marks {
        Marks::of(self.config, self.uplinks().len())
    }

    /// A collision that is certain with this config, and only possible without one.
    fn certainly(&self) -> Level {
        if self.config.is_some() { Level::Warn } else { Level::Note }
    }

    /// Both firewalls, as far as they could be read.
    fn firewalls(&self) -> impl Iterator<Item = &'a Firewall> {
        [self.found.nftables.as_ref().ok(), self.found.iptables.as_ref().ok()].into_iter().flatten()
    }

    /// Rules of others that can meet steered connections.
    fn meeting(&self) -> Vec<(&'a Firewall, &'a Rule)> {
        let rules =
            self.firewalls().flat_map(|firewall| firewall.rules.iter().map(move |rule| (firewall, rule)));
        rules.filter(|(_, rule)| rule.scope.meets(self.ports())).collect()
    }

    /// What of the firewalls could not be read: told in full by the first check that needs it.
    fn unread_firewalls(&self, check: &'static str) -> Vec<Finding> {
        let both = [
            ("the rules of nftables", &self.found.nftables),
            ("the rules of iptables", &self.found.iptables),
        ];
        let unread = both.into_iter().filter_map(|(what, read)| read.as_ref().err().map(|why| (what, why)));
        if check == "notrack" {
            return unread.map(|(what, why)| Finding::unread(check, what, why)).collect();
        }
        let subjects: Vec<&str> = unread.map(|(what, _)| what).collect();
        if subjects.is_empty() {
            return vec![];
        }
        let what = format!("not seen: {}, as said under notrack", listed(&subjects));
        vec![Finding::new(check, Level::Note, what, "", "")]
    }
}

/// `25`, `25, 465 and 587`.
fn listed<T: ToString>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(ToString::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.join(""),
    }
}

/// `26,214`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
