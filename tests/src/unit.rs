//! A systemd unit of ours as a list of settings.
//!
//! Owns: reading the files in `systemd/` and what systemd's own tool says of sets of system calls. Must not: start
//! anything: no systemd runs where tests do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// Every unit of the package.
pub const UNITS: [&str; 3] = ["mailsteer.service", "mailsteer-boot.service", "mailsteer.socket"];

/// One unit.
#[derive(Clone, Debug)]
pub struct Unit {
    settings: Vec<(String, String)>,
}

impl Unit {
    /// Where the units and their companions are.
    #[must_use]
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
    }

    /// Reads one of ours by its name.
    ///
    /// # Errors
    /// When it is not there, or a line is neither a setting, a section nor a comment.
    pub fn read(name: &str) -> Result<Self> {
        let path = Self::folder().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut settings = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let (key, value) = line.split_once('=').with_context(|| format!("{name}: what is `{line}`?"))?;
            settings.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { settings })
    }

    /// The values of a setting, as often as it is there.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.settings.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The words of a setting, over all the times it is there.
    #[must_use]
    pub fn words<'a>(&'a self, key: &'a str) -> BTreeSet<&'a str> {
        self.values(key).flat_map(str::split_whitespace).collect()
    }

    /// Names of the system calls that its filter lets through: lists are taken in their order, as systemd does.
    ///
    /// # Errors
    /// When systemd-analyze is not there, or does not know a set.
    pub fn system_calls(&self) -> Result<BTreeSet<String>> {
        let mut allowed = BTreeSet::new();
        for value in self.values("SystemCallFilter") {
            let (removes, list) = value.strip_prefix('~').map_or((false, value), |rest| (true, rest));
            for word in list.split_whitespace() {
                for call in expand(word)? {
                    if removes {
                        allowed.remove(&call)
                    } else {
                        allowed.insert(call)
                    };
                }
            }
        }
        Ok(allowed)
    }
}

/// The system calls of a set such as `@system-service`, those of the sets inside it too; a call stands for itself.
fn expand(word: &str) -> Result<BTreeSet<String>> {
    if !word.starts_with('@') {
        return Ok([word.to_owned()].into());
    }
    let text = exec::output(Command::new("systemd-analyze").args(["syscall-filter", word]))
        .context("systemd-analyze is needed: `cargo xtask setup` installs it")?;
    let mut found = BTreeSet::new();
    for entry in text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        found.extend(expand(entry)?);
    }
    if found.is_empty() {
        bail!("systemd-analyze knows no set {word}");
    }
    Ok(found)
}
