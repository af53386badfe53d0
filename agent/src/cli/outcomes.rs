//! `report-outcome`: what became of messages, from the command line, as JSON lines, or out of an MTA's log.
//!
//! Owns: reading reports. Must not: judge or join them; the agent does.

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::signal::log::{self, Line, Mta, Sessions};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::args::OutcomeArgs;
use super::commands::put;
use crate::api::Client;
use crate::api::view::{OutcomeReport, OutcomesTaken};

/// Reports in one call.
const AT_ONCE: usize = 1_000;

/// What was read of a log waits no longer.
const LATEST: Duration = Duration::from_secs(1);

/// Tells the agent, and sums up what it says.
pub(super) async fn report(client: &mut Client, args: OutcomeArgs) -> Result<OutcomesTaken> {
    let mut sum = OutcomesTaken::default();
    let OutcomeArgs { destination, source, stream, pid, local_port, complaint, reply, .. } = args;
    if let Some(destination) = destination {
        let reply = reply.unwrap_or_default();
        let one = OutcomeReport {
            time: None,
            destination,
            host: None,
            source,
            stream,
            pid,
            handed: false,
            connecting: None,
            local_port,
            reply,
            complaint,
        };
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
    sum.sources.extend(more.sources);
}

/// What was read of a log.
#[derive(Default, Serialize)]
struct Read {
    lines: u64,
    /// Attempts of which no receiver said anything.
    no_reply: u64,
    /// Lines whose fields could be a stranger's.
    ambiguous_lines: u64,
    #[serde(flatten)]
    taken: OutcomesTaken,
}

/// One delivery as `--json` shows it.
#[derive(Serialize)]
struct Row<'a> {
    destination: IpAddr,
    reply: &'a str,
    /// The source that it was counted for; empty: for none.
    source: &'a str,
}

/// Reads an MTA's log until its end, however long that takes, and tells the agent what receivers said. Nothing waits longer
/// than a second.
pub(super) async fn follow(client: &mut Client, mta: Mta, json: bool) -> Result<u8> {
    let zone = TimeZone::system();
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let mut sessions = Sessions::default();
    let (mut read, mut waiting, mut since) = (Read::default(), vec![], None::<Instant>);
    loop {
        let patience = since.map_or(LATEST, |since| LATEST.saturating_sub(since.elapsed()));
        let next = tokio::time::timeout(patience, lines.next_segment()).await;
        let ended = match next {
            Ok(line) => match line.context("cannot read standard input")? {
                Some(line) => {
                    let line = sessions.complete(log::read(mta, &line, &zone, Timestamp::now()));
                    read.line(&line, &mut waiting);
                    false
                }
                None => true,
            },
            Err(_elapsed) => false,
        };
        since = if waiting.is_empty() { None } else { since.or_else(|| Some(Instant::now())) };
        let due = ended || waiting.len() >= AT_ONCE || since.is_some_and(|since| since.elapsed() >= LATEST);
        if due && !waiting.is_empty() {
            tell(client, &mut read, std::mem::take(&mut waiting), json).await?;
            since = None;
        }
        if ended {
            break;
        }
    }
    read.taken.sources.clear();
    if json {
        put(&(serde_json::to_string(&read)? + "\n"))?;
    } else {
        let Read { lines, no_reply, ambiguous_lines, taken } = &read;
        put(&format!(
            "{lines} lines read: {no_reply} attempts without a reply, {ambiguous_lines} that could be forged\n{}",
            shown(taken)
        ))?;
    }
    Ok(u8::from(!read.taken.refused.is_empty()))
}

/// A delivery to more recipients is counted as one to so many.
const RECIPIENTS: u32 = 100;

impl Read {
    fn line(&mut self, line: &Line, waiting: &mut Vec<OutcomeReport>) {
        self.lines += 1;
        match line {
            Line::Delivery(one) => {
                let report = OutcomeReport {
                    time: one.at,
                    destination: one.destination,
                    host: one.host.clone(),
                    source: None,
                    stream: None,
                    pid: one.pid,
                    handed: one.handed,
                    connecting: one.connecting,
                    local_port: one.local_port,
                    reply: one.reply.clone(),
                    complaint: false,
                };
                let times = one.recipients.clamp(1, RECIPIENTS) as usize;
                waiting.extend(std::iter::repeat_n(report, times));
            }
            Line::NoReply => self.no_reply += 1,
            Line::Ambiguous => self.ambiguous_lines += 1,
            Line::Other | Line::Connecting { .. } | Line::Over { .. } => {}
        }
    }
}

async fn tell(client: &mut Client, read: &mut Read, reports: Vec<OutcomeReport>, json: bool) -> Result<()> {
    let taken = client.report_outcomes(reports.clone()).await?;
    if json {
        for (report, source) in reports.iter().zip(&taken.sources) {
            let row = Row { destination: report.destination, reply: &report.reply, source };
            put(&(serde_json::to_string(&row)? + "\n"))?;
        }
    }
    add(&mut read.taken, taken);
    Ok(())
}

/// As people read it.
pub(super) fn shown(taken: &OutcomesTaken) -> String {
    let OutcomesTaken { joined, ambiguous, unknown, refused, .. } = taken;
    let mut out = format!(
        "{joined} counted for a source, {ambiguous} could be several's, {unknown} of no steered connection, {} refused\n",
        refused.len()
    );
    for why in refused {
        let _ = writeln!(out, "  {why}");
    }
    out
}
