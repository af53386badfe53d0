//! A stranger flushes nftables under load: once where the kernel protects the table, then where it does not.
//!
//! Owns: doing it and measuring what it did. Must not: call a held connection lost, or a lost one held.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::claims::Claims;
use super::screen::Screen;
use super::stage::{self, Stage};
use super::{interrupt, mail};
use crate::{poll, strangers};

/// Connections a second in each of the two streams.
const RATE: u32 = 150;
/// Load before, between and after the flushes.
const PAUSE: Duration = Duration::from_millis(1300);
/// Flushes of the table that anybody may flush.
const FLUSHES: usize = 3;
/// How late a connection may be: the kernel sends a SYN again after a second.
const LATEST: f64 = 1500.0;
/// How long a repair may take before the demo gives up.
const REPAIRED: Duration = Duration::from_secs(10);

/// What the agent counted so far.
struct Counts {
    held: u64,
    repairs: u64,
    owned: bool,
}

/// Both kinds of table.
pub(super) fn show(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    screen.step("A stranger flushes nftables under load");
    if counts(stage)?.owned {
        protected(stage, screen, claims)?;
    } else {
        screen.say("(This kernel cannot protect a table: Linux 6.9 or later can.)");
    }
    unprotected(stage, screen, claims)
}

fn protected(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    screen.say(&format!(
        "As a firewall's reload does it. Beside the mail now {} connections a second.\n\
         mailsteer owns its table, so the kernel keeps others' hands off it.",
        2 * RATE
    ));
    screen.command("nft flush ruleset");
    let before = counts(stage)?;
    let ((), traffic) = mail::with_traffic(stage, RATE, || {
        interrupt::pause(PAUSE)?;
        strangers::flush(&stage.lab.mail)?;
        interrupt::pause(PAUSE)
    })?;
    let after = counts(stage)?;
    let (held, repairs) = (after.held - before.held, after.repairs - before.repairs);
    screen.say(&format!("{}.\n{held} packets held, {repairs} repairs: the table stood.", traffic.text()));
    claims.add("flush, table owned: failed", "0", traffic.failures(), |n| *n == 0);
    claims.add("flush, table owned: repairs", "0", repairs, |n| *n == 0);
    Ok(())
}

fn unprotected(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    stage.agent.reload(&stage::config("never"))?;
    if counts(stage)?.owned {
        bail!("the table is still owned after a reload with own_table = \"never\"");
    }
    screen.say(&format!(
        "\nThe same {FLUSHES} times with own_table = \"never\", as on kernels before 6.9: now it\n\
         takes the table away, and mail would leave from the host's own address. The\n\
         second lock, the eBPF guard at the uplink, drops that until it is back.",
    ));
    screen.command("nft flush ruleset");
    let before = counts(stage)?;
    let (repairs, traffic) = mail::with_traffic(stage, RATE, || {
        interrupt::pause(PAUSE)?;
        (0..FLUSHES)
            .map(|_| {
                let repair = flush(stage)?;
                interrupt::pause(PAUSE)?;
                Ok(repair)
            })
            .collect::<Result<Vec<Repair>>>()
    })?;
    let held = counts(stage)?.held - before.held;
    let spans: Vec<String> = repairs.iter().map(|r| format!("{:.0}", r.ms)).collect();
    screen.say(&format!(
        "Table back after {} ms; the guard held {held} packets meanwhile.\n{}.\n\
         The kernel sends a held SYN again after 1 s: late, but right, and no error.",
        spans.join(", "),
        traffic.text()
    ));
    screen.command("mailsteer events");
    repairs.iter().for_each(|repair| screen.say(&format!("  {}", repair.text)));
    let slowest = format!("{:.0} ms", traffic.slowest_ms);
    claims.add("flush, guard alone: repaired", &FLUSHES.to_string(), repairs.len(), |n| *n == FLUSHES);
    claims.add("flush, guard alone: failed", "0", traffic.failures(), |n| *n == 0);
    claims.add("flush, guard alone: slowest", "at most 1500 ms", slowest, |_| traffic.slowest_ms <= LATEST);
    Ok(())
}

/// A repair, as the agent's event tells it.
struct Repair {
    ms: f64,
    text: String,
}

/// Flushes, and waits for the agent to say that it has put the table right.
fn flush(stage: &Stage) -> Result<Repair> {
    let done = counts(stage)?.repairs;
    let at = Timestamp::now();
    strangers::flush(&stage.lab.mail)?;
    poll::until(REPAIRED, "the table to be repaired", || {
        interrupt::check()?;
        Ok((counts(stage)?.repairs > done).then_some(()))
    })?;
    let said = stage.agent.cli(&["events", "--json"])?.stdout;
    let repair = String::from_utf8_lossy(&said)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .rfind(|event| event["kind"] == "table-repaired")
        .context("no event tells of the repair")?;
    let time: Timestamp = repair["time"].as_str().context("an event without a time")?.parse()?;
    let text = repair["text"].as_str().unwrap_or_default().to_owned();
    Ok(Repair { ms: time.duration_since(at).as_secs_f64() * 1000.0, text })
}

fn counts(stage: &Stage) -> Result<Counts> {
    let status = stage.agent.json(&["status"])?;
    let number = |value: &Value, name: &str| value.as_u64().with_context(|| format!("status has no {name}"));
    Ok(Counts {
        held: number(&status["totals"]["held"], "count of held packets")?,
        repairs: number(&status["table_repairs"], "count of repairs")?,
        owned: status["locks"]["table_owned"].as_bool().context("status has no owner")?,
    })
}
