//! `cargo xtask bench logs`: how fast a log is followed.
//!
//! Owns: how often, the table, and the marks it is held against. Must not: measure; the example `logs` of the agent does, one run
//! a process.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::{document, run};

/// `cargo xtask bench logs ...`
#[derive(clap::Args)]
pub(super) struct Args {
    /// Writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table to docs/performance.md.
    #[arg(long)]
    write: bool,
    /// How often.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Lines of the log.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u32,
}

/// Lines a second, at least.
const WANTED: f64 = 200_000.0;
/// Memory may grow by as much, in KiB: what is read at once, and what was read of it.
const GROWTH: f64 = 8_192.0;

/// What one run came to, as the example says.
#[derive(Clone, Serialize, Deserialize)]
struct Measured {
    lines: u32,
    seconds: f64,
    joined: u64,
    deliveries: u64,
    before_kib: u64,
    most_kib: u64,
    bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<()> {
    run::show(run::cargo().args(["build", "--locked", "--release", "-p", "mailsteer", "--example", "logs"]))?;
    let lines = args.lines.to_string();
    let program = "examples/logs";
    let measured: Vec<Measured> =
        (0..args.runs).map(|_| super::ask(program, std::slice::from_ref(&lines))).collect::<Result<_>>()?;
    super::tell("bench logs", &text(&measured)?, &measured, args.json.as_deref(), args.write)
}

fn text(measured: &[Measured]) -> Result<String> {
    let spread = |of: fn(&Measured) -> f64| Spread::of(measured.iter().map(of).collect()).context("no run");
    let rate = spread(|one| f64::from(one.lines) / one.seconds)?;
    let grown = spread(|one| one.most_kib.saturating_sub(one.before_kib) as f64)?;
    let one = measured.first().context("no run")?;
    let missed = |is: bool| if is { "" } else { ", **missed**" };
    Ok(format!(
        "{}.\n\n| lines | bytes | deliveries | joined | runs | lines a second, median | quartiles | median, 95 % | wanted | memory \
         grows by, KiB | wanted |\n|---|---|---|---|---|---|---|---|---|---|---|\n\
         | {} | {} | {} | {} | {} | {:.0} | {:.0} to {:.0} | {:.0} to {:.0} | {WANTED:.0}{} | {:.0} | {GROWTH:.0}{} |\n",
        document::machine()?,
        one.lines,
        one.bytes,
        one.deliveries,
        one.joined,
        measured.len(),
        rate.median,
        rate.quartiles[0],
        rate.quartiles[1],
        rate.interval[0],
        rate.interval[1],
        missed(rate.median >= WANTED),
        grown.median,
        missed(grown.median <= GROWTH),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missed_is_said() {
        let one = |seconds: f64, most_kib| Measured {
            lines: 1_000_000,
            seconds,
            joined: 1,
            deliveries: 200_000,
            before_kib: 1_000,
            most_kib,
            bytes: 1,
        };
        assert!(!text(&[one(1.0, 2_000)]).unwrap().contains("missed"));
        assert_eq!(text(&[one(10.0, 100_000)]).unwrap().matches("**missed**").count(), 2);
    }
}
