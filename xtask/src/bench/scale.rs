//! `cargo xtask bench scale`: what 4, 64, 1,024 and 4,079 sources cost.
//!
//! Owns: which sizes, how often, and the table. Must not: measure; the program `lab-scale` of the tests' package does,
//! one run a process. Sizes take turns, so that what the machine does meanwhile falls on all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{document, run};

/// `cargo xtask bench scale ...`
#[derive(clap::Args)]
pub(super) struct Args {
    /// Writes every figure of every run to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table to docs/performance.md.
    #[arg(long)]
    write: bool,
    /// How often each size is measured.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// For how many seconds the idle agent is watched, in the last run of each size.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
}

/// 4,096 sources do not fit: the mark has room for 4,079.
const SIZES: [u32; 4] = [4, 64, 1024, 4079];

/// Names of the figures, as `lab-scale` has them, and what they are called.
const ROWS: [(&str, &str); 8] = [
    ("start_s", "start until the first connection leaves from a source, s"),
    ("reload_s", "reload with one more stream, s"),
    ("suspend_one_s", "flip of one source (`suspend`), s"),
    ("uplink_down_s", "flip of half of them (an uplink loses its carrier), s"),
    ("rss_mib", "memory (RSS), MiB"),
    ("pss_mib", "memory (PSS), MiB"),
    ("bpf_maps_mib", "eBPF maps, MiB"),
    ("idle_cpu_percent", "idle CPU, % of a core"),
];

/// Everything that was measured, for `--json`.
#[derive(Serialize)]
struct Measured {
    machine: String,
    /// Figures of each run by the number of sources.
    runs: BTreeMap<u32, Vec<BTreeMap<String, f64>>>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<()> {
    super::prepare("bench scale", args.yes, false)?;
    let measured = measure(args)?;
    let table = measured.table();
    super::tell("bench scale", &table, &measured, args.json.as_deref(), args.write)
}

fn measure(scale: &Args) -> Result<Measured> {
    let mut runs: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for repeat in 1..=scale.repeats {
        let idle = if repeat == scale.repeats { scale.idle } else { 0 };
        for size in SIZES {
            println!("run {repeat} of {}: {size} sources", scale.repeats);
            let mut command = Command::new(run::built("lab-scale"));
            command.env("MAILSTEER_BIN", run::released("mailsteer"));
            // However long something takes, that is the figure.
            command.env("MAILSTEER_TEST_PATIENCE", "10");
            let output = command.args([size.to_string(), idle.to_string()]).output()?;
            if !output.status.success() {
                bail!("{size} sources: {}", String::from_utf8_lossy(&output.stderr));
            }
            runs.entry(size).or_default().push(serde_json::from_slice(&output.stdout)?);
        }
    }
    Ok(Measured { machine: document::machine()?, runs })
}

impl Measured {
    fn table(&self) -> String {
        let mut text = format!("{}.\n\n| sources |", self.machine);
        text.extend(self.runs.keys().map(|size| format!(" {size} |")));
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(self.runs.len())));
        for (name, called) in ROWS {
            let cells = self.runs.values().map(|runs| {
                format!(" {} |", spread(runs.iter().filter_map(|run| run.get(name).copied()).collect()))
            });
            text.push_str(&format!("| {called} |{}\n", cells.collect::<String>()));
        }
        text
    }
}

/// Median, and the least and the most where there are several.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let digits = |value: &f64| format!("{value:.3}");
    match &values[..] {
        [] => "not measured".to_owned(),
        [one] => digits(one),
        [first, .., last] => {
            format!("{} ({}-{})", digits(&values[values.len() / 2]), digits(first), digits(last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_spread_is_the_median_and_both_ends() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "2.000 (1.000-3.000)");
        assert_eq!(spread(vec![0.25]), "0.250");
        assert_eq!(spread(vec![]), "not measured");
    }
}
