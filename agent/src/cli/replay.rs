//! `mailsteer replay`: judges again what an event rests on, with the judge of this version.
//!
//! Owns: the way from an event to its evidence, and how that is shown. Must not: change anything; the agent that runs is only
//! asked for the event.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use mailsteer_core::decide::{Evidence, Finding, Outcome, State, judge};
use serde::Serialize;

use super::render::{moment, table};
use crate::api::view::EventRow;
use crate::api::{Client, Tail};

/// As many as the agent has in memory.
const EVENTS: usize = 10_000;

/// What the judge says of an event's evidence now.
#[derive(Serialize)]
pub(super) struct Replay {
    event: u64,
    text: String,
    evidence: Evidence,
    finding: Finding,
    /// Whether that leads to the state that the event tells.
    same: bool,
}

/// Finds the event and judges it.
pub(super) async fn replay(client: &mut Client, number: u64) -> Result<Replay> {
    let mut rows = client.events(Tail { last: EVENTS, follow: false }).await?;
    let mut known: Option<(u64, u64)> = None;
    while let Some(row) = rows.next().await {
        let row = row?;
        if row.number == number {
            return judged(&row);
        }
        known = Some((known.map_or(row.number, |(first, _)| first), row.number));
    }
    match known {
        Some((first, last)) => {
            bail!(
                "there is no event {number}: the agent has {first} to {last}; `mailsteer events` lists them"
            )
        }
        None => bail!("there is no event {number}: nothing has happened yet"),
    }
}

fn judged(row: &EventRow) -> Result<Replay> {
    let Some(evidence) = row.evidence.get("evidence") else {
        bail!(
            "event {} ({}) rests on no connections: only a verdict that traffic led to can be judged again",
            row.number,
            row.kind
        );
    };
    let evidence: Evidence =
        serde_json::from_str(evidence).context("its evidence is of another version, and cannot be read")?;
    let to: State = row
        .evidence
        .get("to")
        .map(|to| serde_json::from_str(to))
        .transpose()
        .context("its verdict is of another version, and cannot be read")?
        .context("it tells no verdict")?;
    let from = row.evidence.get("from").map_or("", String::as_str);
    let finding = judge(&evidence);
    // On its way back a source has less credit.
    let isolates = match &finding {
        Finding::Guilty { .. } => true,
        Finding::Suspect { .. } => from == "probation",
        Finding::Well => false,
    };
    let same = isolates == matches!(to, State::Isolated { .. });
    Ok(Replay { event: row.number, text: row.text.clone(), evidence, finding, same })
}

/// As people read it.
pub(super) fn shown(replay: &Replay) -> String {
    let row = |one: &Outcome| {
        let met = one.failure.as_ref().map_or_else(|| "did well".to_owned(), ToString::to_string);
        let counts = match (&one.failure, one.receiver_well) {
            (Some(_), false) => "no: the receiver may be at fault",
            _ => "yes",
        };
        let others = format!("{} well, {} failed", one.others.well, one.others.failed);
        let others = if one.failure.is_some() { others } else { String::new() };
        vec![moment(one.at), one.destination.to_string(), met, counts.to_owned(), others]
    };
    let rows: Vec<_> = replay.evidence.outcomes.iter().map(row).collect();
    let mut out = format!("event {}: {}\n\n", replay.event, replay.text);
    out.push_str(&table(&["SEEN", "RECEIVER", "MET", "COUNTS", "OTHERS THEN"], &[], &rows));
    let siblings = replay.evidence.siblings;
    let _ = match siblings.any {
        true => {
            writeln!(out, "\nother sources meanwhile: {} did well, {} failed", siblings.well, siblings.failed)
        }
        false => writeln!(out, "\nno other source had traffic there"),
    };
    let finding = match &replay.finding {
        Finding::Well => "nothing is wrong with the source".to_owned(),
        Finding::Suspect { cause } => format!("something may be wrong: {cause}"),
        Finding::Guilty { cause } => format!("the source is at fault: {cause}"),
    };
    let _ = writeln!(out, "judged now: {finding}");
    if !replay.same {
        out.push_str(
            "That alone does not lead to this verdict: its network, its uplink or a probe decided, or the judge was another \
             version's. The events around it tell.\n",
        );
    }
    out
}
