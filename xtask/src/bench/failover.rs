//! `cargo xtask bench failover`: from a fault to the first connection from another address.
//!
//! Owns: which faults and sizes, the tables, and the marks they are held against. Must not: measure; the program `lab-failover`
//! of the tests' package does, one fault a process.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::document;

/// `cargo xtask bench failover ...`
#[derive(clap::Args)]
pub(super) struct Args {
    /// Writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables to docs/performance.md.
    #[arg(long)]
    write: bool,
    /// How often each fault is made.
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// How often with many sources and lanes.
    #[arg(long, default_value_t = 30)]
    large_runs: usize,
    /// Sources in all at the large size, which has 64 lanes.
    #[arg(long, default_value_t = 1000)]
    sources: u32,
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
}

/// Faults as `lab-failover` has them, what they are called, and within how many milliseconds a source's traffic is to move. Silence
/// takes two SYNs that nobody answers.
const FAULTS: [(&str, &str, f64); 5] = [
    ("address_removed", "address removed", 100.0),
    ("link_down", "link down", 100.0),
    ("refused", "refused", 1_000.0),
    ("silent", "dropped beyond the uplink", 2_400.0),
    ("greeting", "greeted with 554", 1_000.0),
];
/// Sources that matter; the others stand beside them.
const FEW: u32 = 4;
/// The large size may take so many times as long.
const WANTED_TIMES: f64 = 1.5;

/// What one trial came to, as `lab-failover` says.
#[derive(Clone, Serialize, Deserialize)]
struct Trial {
    flip_ms: f64,
    deferred: u64,
    carried_over: u64,
    connections: u64,
}

/// One fault, many times.
#[derive(Serialize)]
struct Measured {
    fault: &'static str,
    sources: u32,
    trials: Vec<Trial>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<()> {
    super::prepare("bench failover", args.yes, true)?;
    let mut measured = Vec::new();
    for (sources, runs) in [(FEW, args.runs), (args.sources, args.large_runs)] {
        for (fault, called, _) in FAULTS {
            if runs > 0 {
                println!("{sources} sources, {called}, {runs} times");
                let args = [fault.to_owned(), runs.to_string(), (sources - FEW).to_string()];
                measured.push(Measured { fault, sources, trials: super::ask("lab-failover", &args)? });
            }
        }
    }
    super::tell("bench failover", &text(&measured)?, &measured, args.json.as_deref(), args.write)
}

fn text(measured: &[Measured]) -> Result<String> {
    let mut text = format!("{}.\n\n", document::machine()?);
    text.push_str(
        "| sources | lanes | fault | runs | p50, ms | p99, ms | wanted | beside 4 sources | connections | put off | carried \
         over |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in measured {
        let small = measured.iter().find(|other| other.fault == one.fault && other.sources == FEW);
        text.push_str(&row(one, small));
    }
    Ok(text)
}

fn row(one: &Measured, small: Option<&Measured>) -> String {
    let (called, wanted) = FAULTS
        .into_iter()
        .find(|(fault, ..)| *fault == one.fault)
        .map_or(("", 0.0), |(_, called, wanted)| (called, wanted));
    let (half, most) = (percentile(&one.trials, 50), percentile(&one.trials, 99));
    let lanes = if one.sources == FEW { 1 } else { 64 };
    let (mark, beside) = match small.filter(|small| small.sources != one.sources) {
        None => (held(most, wanted, &format!("{wanted:.0}")), String::new()),
        Some(small) => {
            let times = half / percentile(&small.trials, 50);
            (String::new(), held(times, WANTED_TIMES, &format!("{times:.2} times")))
        }
    };
    let sum = |of: fn(&Trial) -> u64| one.trials.iter().map(of).sum::<u64>();
    format!(
        "| {} | {lanes} | {called} | {} | {half:.0} | {most:.0} | {mark} | {beside} | {} | {} | {} |\n",
        one.sources,
        one.trials.len(),
        sum(|trial| trial.connections),
        sum(|trial| trial.deferred),
        sum(|trial| trial.carried_over),
    )
}

fn held(is: f64, wanted: f64, said: &str) -> String {
    if is > wanted { format!("{said}, **missed**") } else { said.to_owned() }
}

/// By rank: of 30 the 99th is the slowest.
fn percentile(trials: &[Trial], percent: usize) -> f64 {
    let mut times: Vec<f64> = trials.iter().map(|trial| trial.flip_ms).collect();
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank_and_what_is_missed_is_said() {
        let trial = |ms: f64| Trial { flip_ms: ms, deferred: 1, carried_over: 2, connections: 10 };
        let trials: Vec<Trial> = (1..=30).rev().map(|ms| trial(f64::from(ms))).collect();
        assert_eq!((percentile(&trials, 50), percentile(&trials, 99)), (15.0, 30.0));
        let few = Measured { fault: "refused", sources: FEW, trials };
        assert_eq!(row(&few, Some(&few)), "| 4 | 1 | refused | 30 | 15 | 30 | 1000 |  | 300 | 30 | 60 |\n");
        let many = Measured { fault: "refused", sources: 1000, trials: vec![trial(1_500.0)] };
        let text = row(&many, Some(&few));
        assert!(text.contains("| 100.00 times, **missed** |"), "{text}");
        let slow = Measured { fault: "refused", sources: FEW, trials: vec![trial(1_500.0)] };
        assert!(row(&slow, Some(&slow)).contains("| 1000, **missed** |"));
    }
}
