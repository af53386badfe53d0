//! Rules of a firewall, as far as they can meet steered connections.
//!
//! Owns: one shape for what nft and iptables list. Must not: hold more than is judged; what is not understood of a
//! rule counts as a condition that may or may not be met.

use std::collections::{BTreeMap, BTreeSet};

/// The rules that a program lists, without ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Firewall {
    /// Chains, also those without rules.
    pub chains: Vec<Chain>,
    /// Rules that do something which is looked at.
    pub rules: Vec<Rule>,
    /// Some rule or chain makes the kernel track connections.
    pub tracks: bool,
}

/// A chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Family and table, such as `ip nat`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` where it is only jumped to.
    pub base: Option<Base>,
}

/// Where a chain is hooked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `output`, `postrouting` and so on.
    pub hook: String,
    /// Its priority.
    pub priority: i64,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Family and table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What a person calls it: a line of iptables, or where nft has it.
    pub name: String,
    /// How to take it away.
    pub removal: String,
    /// Whom it meets.
    pub scope: Scope,
    /// What it does.
    pub does: Vec<Does>,
}

/// Whom a rule meets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// It cannot meet TCP, or only what stays on the host.
    pub never: bool,
    /// The ports that it is limited to, source or destination, as ranges; `None`: any.
    pub ports: Option<Vec<(u16, u16)>>,
    /// Marks that it asks for.
    pub marks: Vec<MarkTest>,
    /// It has further conditions.
    pub conditions: bool,
}

/// A question about a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkTest {
    /// The value under the mask.
    pub value: u32,
    /// The mask.
    pub mask: u32,
    /// Anything but this value is meant.
    pub inverted: bool,
}

/// What a rule does, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Does {
    /// Takes packets out of connection tracking.
    NoTrack,
    /// Rewrites the source address.
    SourceNat,
    /// Drops or rejects.
    Drop,
    /// Writes this value under this mask into the packet's mark.
    SetMark(u32, u32),
    /// Writes these bits of the connection's mark.
    SetConnmark(u32),
    /// Copies these bits of the packet's mark into the connection's.
    SaveConnmark(u32),
    /// Goes on in another chain of the same table.
    Jump(String),
}

impl Scope {
    /// Whether it can meet TCP connections to or from one of these ports.
    #[must_use]
    pub fn meets(&self, ports: &[u16]) -> bool {
        !self.never
            && self.ports.as_ref().is_none_or(|list| {
                list.iter().any(|(first, last)| ports.iter().any(|port| (*first..=*last).contains(port)))
            })
    }

    /// Whether it certainly meets all of them.
    #[must_use]
    pub fn meets_all(&self) -> bool {
        !self.never && !self.conditions && self.marks.is_empty()
    }
}

impl Firewall {
    /// The hooks by which packets can come to a chain.
    #[must_use]
    pub fn bases(&self, table: &str, chain: &str) -> BTreeSet<&Base> {
        let own: BTreeMap<&str, &Base> = self
            .chains
            .iter()
            .filter(|one| one.table == table)
            .filter_map(|one| Some((one.name.as_str(), one.base.as_ref()?)))
            .collect();
        let (mut reached, mut todo) = (BTreeSet::from([chain]), vec![chain]);
        while let Some(target) = todo.pop() {
            for rule in self.rules.iter().filter(|rule| rule.table == table) {
                let jumps = rule.does.iter().any(|does| matches!(does, Does::Jump(to) if to == target));
                if jumps && reached.insert(&rule.chain) {
                    todo.push(&rule.chain);
                }
            }
        }
        reached.iter().filter_map(|name| own.get(name).copied()).collect()
    }
}
