//! The live table: streams and their sources, as mailsteer counts them and as the receivers saw them.
//!
//! Owns: its lines. Must not: mix the two counts; the reader compares them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::interrupt;
use super::stage::{Stage, Stream};
use crate::poll;

/// How long the agent may take to count the last connection.
const SETTLED: Duration = Duration::from_secs(10);

/// A source as the agent tells it.
struct Row {
    name: String,
    address: IpAddr,
    state: String,
    counted: u64,
}

/// The table now.
pub(super) fn text(stage: &Stage) -> Result<String> {
    let (connections, messages) = received(stage);
    let rows = rows(stage)?;
    let line = |name: &str, address: &str, state: &str, counts: [u64; 3]| {
        let [counted, connections, messages] = counts;
        format!("{name:<20}{address:<13}{state:<12}{counted:>9}{connections:>11}{messages:>10}\n")
    };
    let mut out = format!(
        "{:<45}{:>9}{:>11}{:>10}\n{:<20}{:<13}{:<12}{:>9}{:>11}{:>10}\n",
        "", "mailsteer", "receivers", "", "stream, source", "address", "state", "counted", "saw", "messages"
    );
    for stream in Stream::BOTH {
        let sources = stream.sources();
        let of = |counts: &BTreeMap<IpAddr, u64>| sources.iter().filter_map(|s| counts.get(s)).sum();
        let ours: Vec<&Row> = rows.iter().filter(|row| sources.contains(&row.address)).collect();
        let counted = ours.iter().map(|row| row.counted).sum();
        out += &line(stream.name(), "", "", [counted, of(&connections), of(&messages)]);
        for row in ours {
            let at = |counts: &BTreeMap<IpAddr, u64>| counts.get(&row.address).copied().unwrap_or_default();
            let counts = [row.counted, at(&connections), at(&messages)];
            out += &line(&format!("  {}", row.name), &row.address.to_string(), &row.state, counts);
        }
    }
    Ok(out)
}

/// What the agent has counted in all, once it has counted as many as the receivers saw, or time is up.
pub(super) fn settled(stage: &Stage) -> Result<u64> {
    let mut counted = 0;
    let seen = u64::try_from(stage.receiver.count())?;
    let waited = poll::until(SETTLED, "every connection to be counted", || {
        interrupt::check()?;
        counted = rows(stage)?.iter().map(|row| row.counted).sum();
        Ok((counted >= seen).then_some(()))
    });
    interrupt::check()?;
    // That they differ is for the summary to say.
    Ok(waited.map_or(counted, |()| counted))
}

/// The state of one source, in the agent's words.
pub(super) fn state(stage: &Stage, address: IpAddr) -> Result<String> {
    let rows = rows(stage)?;
    Ok(rows.into_iter().find(|row| row.address == address).context("the agent knows no such source")?.state)
}

fn rows(stage: &Stage) -> Result<Vec<Row>> {
    let answer = stage.agent.json(&["sources"])?;
    let rows = answer.as_array().context("no list of sources")?;
    rows.iter()
        .map(|row| {
            Ok(Row {
                name: row["name"].as_str().context("no name")?.to_owned(),
                address: row["public"].as_str().context("no address")?.parse()?,
                state: row["state"].as_str().context("no state")?.to_owned(),
                counted: row["counters"]["attempts"].as_u64().context("no count")?,
            })
        })
        .collect()
}

fn received(stage: &Stage) -> (BTreeMap<IpAddr, u64>, BTreeMap<IpAddr, u64>) {
    let (mut connections, mut messages) = (BTreeMap::new(), BTreeMap::new());
    for connection in stage.receiver.connections() {
        *connections.entry(connection.peer.ip()).or_default() += 1;
        *messages.entry(connection.peer.ip()).or_default() += connection.messages.len() as u64;
    }
    (connections, messages)
}
