//! Everything on the mail host that mailsteer could have touched, as the kernel shows it, to compare before and after.
//!
//! Owns: what belongs to that: rules, routes and addresses, every nftables table, pins, attached programs, kernel
//! parameters. Must not: judge; [`HostState::differences`] names what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::{poll, tcx, topology};

/// What `ip` and `nft` are asked; each answers with a JSON array.
const QUESTIONS: [(&str, &str); 6] = [
    ("rule", "ip -4 -j rule show"),
    ("rule6", "ip -6 -j rule show"),
    ("route", "ip -4 -j route show table all"),
    ("route6", "ip -6 -j route show table all"),
    ("address", "ip -j address show"),
    ("nft", "nft -j list ruleset"),
];

/// Parameters that change by themselves.
const RESTLESS: [&str; 2] = ["nf_conntrack_count", "nf_conntrack_buckets"];

/// What stood at one time; one line for each thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostState(BTreeSet<String>);

impl HostState {
    /// Reads it, once no address is tentative any more.
    ///
    /// # Errors
    /// When something cannot be read, or an address stays tentative.
    pub fn of(lab: &Lab) -> Result<Self> {
        settled(&lab.mail)?;
        let mut lines = BTreeSet::new();
        for (name, question) in QUESTIONS {
            lines.extend(items(&lab.mail, question)?.into_iter().map(|item| format!("{name} {item}")));
        }
        let mut pins = Vec::new();
        walk(&lab.bpffs(), &mut |path| pins.push(path.display().to_string()))?;
        lines.extend(pins.into_iter().map(|pin| format!("pin {pin}")));
        for uplink in topology::uplinks().iter().take(lab.options.uplinks) {
            let count = tcx::attached(&lab.mail, uplink.interface)?;
            lines.insert(format!("{count} programs at {}", uplink.interface));
        }
        let parameters = lab.mail.run(parameters)??;
        lines.extend(parameters.into_iter().map(|(path, value)| format!("{path} = {value}")));
        Ok(Self(lines))
    }

    /// What is not there any more (-), and what is new (+).
    #[must_use]
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let gone = self.0.difference(&after.0).map(|line| format!("- {line}"));
        gone.chain(after.0.difference(&self.0).map(|line| format!("+ {line}"))).collect()
    }

    /// The lines of one kind, such as `pin` or `rule`.
    #[must_use]
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        let prefix = format!("{kind} ");
        self.0.iter().filter_map(|line| line.strip_prefix(&prefix)).collect()
    }
}

fn settled(ns: &NetNs) -> Result<()> {
    poll::until(Duration::from_secs(10), "no tentative address", || {
        Ok(ns.sh("ip -6 address show tentative")?.trim().is_empty().then_some(()))
    })
}

fn items(ns: &NetNs, question: &str) -> Result<Vec<String>> {
    let text = ns.sh(question)?;
    // Where nothing stands, ip prints nothing at all.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    let mut answer: serde_json::Value =
        serde_json::from_str(text).with_context(|| format!("{question}: {text}"))?;
    let items = if answer.is_object() { answer["nftables"].take() } else { answer };
    Ok(items.as_array().into_iter().flatten().map(ToString::to_string).collect())
}

/// Every kernel parameter of this thread's network namespace.
fn parameters() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    walk(Path::new("/proc/sys/net"), &mut |path| {
        let restless = path.file_name().is_some_and(|name| RESTLESS.iter().any(|one| name == *one));
        // Some may only be written, and some answer an error while they are not set: neither can be compared.
        if let Ok(value) = fs::read_to_string(path)
            && !restless
        {
            found.insert(path.display().to_string(), value.trim().to_owned());
        }
    })?;
    Ok(found)
}

fn walk(dir: &Path, see: &mut impl FnMut(&Path)) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() { walk(&path, see)? } else { see(&path) }
    }
    Ok(())
}
