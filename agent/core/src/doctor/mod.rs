//! What `mailsteer doctor` says of a host: what is missing, what it costs, what to do.
//!
//! Owns: every check, as a function from what was found ([`Findings`]) to judgements ([`Finding`]), and the parsers of
//! the foreign text that was found. Must not: read anything itself, or judge what could not be read: that is a note.
//! A check says something in every case, so that a reader sees what was looked at.

mod about;
mod checks;
mod dns;
mod finding;
mod findings;
mod firewall;
mod numbers;
pub mod parse;

pub use about::{About, CHECKS, reference};
pub use dns::{compliance, unaskable, unasked};
pub use finding::{Finding, Level};
pub use findings::{Conntrack, Findings, Foreign, InterfaceSettings, Mount, PolicyRule, Read, Unit, Unread};
pub use firewall::{Base, Chain, Does, Firewall, MarkTest, Rule, Scope};
pub use numbers::{FALLBACK, PREFERENCES, TABLES};

use crate::config::Config;

/// Runs every check, in the order of [`CHECKS`].
#[must_use]
pub fn examine(found: &Findings, config: Option<&Config>) -> Vec<Finding> {
    checks::Patient::new(found, config).examine()
}

/// The worst of them.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}
