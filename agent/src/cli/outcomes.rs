//! `report-outcome`: what became of messages, from the command line or as JSON lines.
//!
//! Owns: reading reports. Must not: judge or join them; the agent does.

use std::fmt::Write as _;
use std::io::BufRead as _;

use anyhow::{Context as _, Result};

use super::args::OutcomeArgs;
use crate::api::Client;
use crate::api::view::{OutcomeReport, OutcomesTaken};

/// Reports in one call.
const AT_ONCE: usize = 1_000;

/// Tells the agent, and sums up what it says.
pub(super) async fn report(client: &mut Client, args: OutcomeArgs) -> Result<OutcomesTaken> {
    let mut sum = OutcomesTaken::default();
    let OutcomeArgs { destination, source, stream, pid, local_port, complaint, reply, .. } = args;
    if let Some(destination) = destination {
        let reply = reply.unwrap_or_default();
        let one =
            OutcomeReport { time: None, destination, source, stream, pid, local_port, reply, complaint };
        add(&mut sum, client.report_outcomes(vec![one]).await?);
        return Ok(sum);
    }
    let mut waiting = vec![];
    for (number, line) in (1_u64..).zip(std::io::stdin().lock().lines()) {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(one) => waiting.push(one),
            Err(error) => sum.refused.push(format!("line {number}: {error}")),
        }
        if waiting.len() == AT_ONCE {
            add(&mut sum, client.report_outcomes(std::mem::take(&mut waiting)).await?);
        }
    }
    if !waiting.is_empty() {
        add(&mut sum, client.report_outcomes(waiting).await?);
    }
    Ok(sum)
}

fn add(sum: &mut OutcomesTaken, more: OutcomesTaken) {
    sum.joined += more.joined;
    sum.ambiguous += more.ambiguous;
    sum.unknown += more.unknown;
    sum.refused.extend(more.refused);
}

/// As people read it.
pub(super) fn shown(taken: &OutcomesTaken) -> String {
    let OutcomesTaken { joined, ambiguous, unknown, refused } = taken;
    let mut out = format!(
        "{joined} counted for a source, {ambiguous} could be several's, {unknown} of no steered connection, {} refused\n",
        refused.len()
    );
    for why in refused {
        let _ = writeln!(out, "  {why}");
    }
    out
}
