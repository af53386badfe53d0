//! The operator's word as an agent before schema 1 kept it: `operator.json` in the state directory.
//!
//! Owns: taking it over once, so that an upgrade does not put a suspended source back to work. Its types are its own
//! and stay as that agent wrote them. Must not: write that file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mailsteer_core::decide::{Bypass, Hold, Suspension};
use serde::Deserialize;

use super::rows::Word;

#[derive(Deserialize)]
struct File {
    suspended: BTreeMap<IpAddr, Suspended>,
    bypassed: BTreeMap<String, Bypassed>,
    #[serde(default)]
    hold: Option<Held>,
}

#[derive(Deserialize)]
struct Held {
    reason: String,
    since: Timestamp,
    until: Option<Timestamp>,
    serving: BTreeSet<IpAddr>,
}

#[derive(Deserialize)]
struct Suspended {
    reason: String,
    since: Timestamp,
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Bypassed {
    reason: String,
    since: Timestamp,
    until: Timestamp,
}

/// Where it lay.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join("operator.json")
}

/// What it says; `None` where there is none.
pub(super) fn read(dir: &Path) -> io::Result<Option<Word>> {
    let bytes = match std::fs::read(file(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    parse(&bytes).map(Some)
}

pub(super) fn parse(bytes: &[u8]) -> io::Result<Word> {
    let File { suspended, bypassed, hold } = serde_json::from_slice(bytes)?;
    let suspended = suspended
        .into_iter()
        .map(|(source, Suspended { reason, since, until })| (source, Suspension { reason, since, until }));
    let bypassed = bypassed
        .into_iter()
        .map(|(stream, Bypassed { reason, since, until })| (stream, Bypass { reason, since, until }));
    let hold = hold.map(|Held { reason, since, until, serving }| Hold { reason, since, until, serving });
    Ok(Word { suspended: suspended.collect(), bypassed: bypassed.collect(), hold })
}
