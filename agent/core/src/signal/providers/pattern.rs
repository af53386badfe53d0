//! Names of mail servers, and patterns of them.
//!
//! Owns: when a name fits, label by label. Must not: know who is called so.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::is_full_host_name;

/// A host name as DNS compares it: small letters, no dot at the end. `None`: it is none.
pub(super) fn plain(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    is_full_host_name(&name).then_some(name)
}

/// `mx.example.net`, or `*.example.net` for all that is below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pattern {
    name: String,
    below: bool,
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.contains('*') {
            return Err("`*.` stands at the beginning only, and for whole labels");
        }
        match plain(rest) {
            Some(name) => Ok(Self { name, below }),
            None if below => Err("below it is a whole top-level domain, or it is no name"),
            None => Err("it is no full host name"),
        }
    }

    /// Whether it is the name, or the name is below it: on the boundary of a label.
    #[must_use]
    pub fn fits(&self, host: &str) -> bool {
        if !self.below {
            return host == self.name;
        }
        host.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }

    /// The longer, the more is said; a name without `*.` says more than one with.
    fn strength(&self) -> (usize, bool) {
        (self.name.len(), !self.below)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// Whose each pattern is: no pattern is two groups'.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups(BTreeMap<Pattern, String>);

impl Groups {
    /// Adds a pattern of a group.
    ///
    /// # Errors
    /// The group that has it already.
    pub fn add(&mut self, pattern: Pattern, group: &str) -> Result<(), String> {
        match self.0.get(&pattern) {
            Some(other) if other != group => Err(other.clone()),
            _ => {
                self.0.insert(pattern, group.to_owned());
                Ok(())
            }
        }
    }

    /// The group that a host of this name belongs to, by the longest pattern that fits, and that pattern.
    #[must_use]
    pub fn of(&self, host: &str) -> Option<(&str, &Pattern)> {
        let fitting = self.0.iter().filter(|(pattern, _)| pattern.fits(host));
        fitting
            .max_by_key(|(pattern, _)| pattern.strength())
            .map(|(pattern, group)| (group.as_str(), pattern))
    }

    /// Groups that have any pattern.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
