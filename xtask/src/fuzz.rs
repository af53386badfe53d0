//! `cargo xtask fuzz`: hostile input for every parser of foreign bytes and text, as long as wished.
//!
//! Owns: building the targets with the instruments that libFuzzer takes (by stable Rust: `cargo fuzz` asks for a
//! nightly), where inputs are kept, and the table of what came of it. Must not: know the targets; `tests/fuzz` does, and
//! every run of the tests goes once through the inputs that are kept there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::{document, run};

const DOCUMENT: &str = "docs/fuzzing.md";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// libFuzzer reads from these how far an input came, and what it was compared with.
const INSTRUMENTS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these targets; without any, all.
    targets: Vec<String>,
    /// For how many minutes each.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Says which targets there are.
    #[arg(long)]
    list: bool,
    /// Puts what came of it into the table of docs/fuzzing.md.
    #[arg(long)]
    write: bool,
}

/// What came of a run.
struct Ran {
    target: String,
    minutes: f64,
    executions: u64,
    coverage: u64,
    /// The input that it ended at.
    found: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let known = known()?;
    if args.list {
        println!("{}", known.join("\n"));
        return Ok(());
    }
    let unknown: Vec<&String> = args.targets.iter().filter(|name| !known.contains(name)).collect();
    if !unknown.is_empty() {
        bail!("no such target: {unknown:?}; there are: {}", known.join(", "));
    }
    let program = build()?;
    let todo = Mutex::new(if args.targets.is_empty() { known } else { args.targets.clone() });
    let ran = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some(target) = todo.lock().ok().and_then(|mut todo| todo.pop()) {
            let one = fuzz(&program, &target, args.minutes)?;
            println!("{}", one.row());
            ran.lock().map_err(|_| anyhow::anyhow!("another run has panicked"))?.push(one);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a run has panicked"))?)
    })?;
    let ran = ran.into_inner()?;
    if args.write {
        write(&ran)?;
    }
    let found: Vec<&str> = ran.iter().filter_map(|one| one.found.as_deref()).collect();
    if !found.is_empty() {
        bail!("found:\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// The targets, each of which has a directory of inputs; the tests see to it.
fn known() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(seeds())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn seeds() -> PathBuf {
    run::root().join("tests/fuzz/seeds")
}

/// Builds all targets into a folder of their own: instruments are no part of other builds. A target is named, so that
/// build scripts get none.
fn build() -> Result<PathBuf> {
    let place = run::root().join("target/fuzz");
    run::show(
        run::cargo()
            .args([
                "build",
                "--locked",
                "--package",
                "mailsteer-fuzz",
                "--profile",
                "fuzz",
                "--target",
                TARGET,
            ])
            .arg("--target-dir")
            .arg(&place)
            .env("RUSTFLAGS", INSTRUMENTS.join(" ")),
    )?;
    Ok(place.join(TARGET).join("fuzz/mailsteer-fuzz"))
}

fn fuzz(program: &Path, target: &str, minutes: f64) -> Result<Ran> {
    let place = run::root().join("target/fuzz");
    let (corpus, found) = (place.join("corpus").join(target), place.join("found").join(target));
    for dir in [&corpus, &found] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut command = Command::new(program);
    command
        .env("MAILSTEER_FUZZ", target)
        .arg(format!("-max_total_time={:.0}", minutes * 60.0))
        // A second is for ever, for input of this size; a host that is busy gets ten.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([corpus, seeds().join(target)]);
    if target == "config" {
        command.arg(run::root().join("config"));
    }
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let log = place.join(format!("{target}.log"));
    fs::write(&log, said.as_bytes())?;
    let Some(mut ran) = Ran::read(target, minutes, &said) else {
        bail!("{target} has not run: see {}", log.display());
    };
    if !output.status.success() && ran.found.is_none() {
        ran.found = Some(format!("see {}", log.display()));
    }
    Ok(ran)
}

impl Ran {
    /// Out of what libFuzzer says, which is for people and stays the same all the same.
    fn read(target: &str, minutes: f64, said: &str) -> Option<Self> {
        let executions = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let coverage = said.lines().rev().find_map(|line| line.split_once("cov: ")?.1.split(' ').next());
        let found = said.lines().find_map(|line| line.split_once("Test unit written to "));
        Some(Self {
            target: target.to_owned(),
            minutes,
            executions: executions?.trim().parse().ok()?,
            coverage: coverage?.parse().ok()?,
            found: found.map(|(_, path)| path.to_owned()),
        })
    }

    fn row(&self) -> String {
        let found = if self.found.is_some() { "**yes**" } else { "nothing" };
        let Self { target, minutes, executions, coverage, .. } = self;
        format!("| {target} | {minutes:.0} | {executions} | {coverage} | {found} |")
    }
}

/// Puts the rows into the table, instead of older ones of the same targets.
fn write(ran: &[Ran]) -> Result<()> {
    document::rewrite(DOCUMENT, "fuzz", |table| merged(table, ran))
}

fn merged(table: &str, ran: &[Ran]) -> String {
    let mut lines = table.lines();
    let head: Vec<&str> = lines.by_ref().take(2).collect();
    let again = |line: &str| ran.iter().any(|one| line.starts_with(&format!("| {} |", one.target)));
    let mut rows: Vec<String> = lines.filter(|line| !again(line)).map(str::to_owned).collect();
    rows.extend(ran.iter().map(Ran::row));
    rows.sort();
    format!("{}\n{}\n", head.join("\n"), rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_take_the_place_of_older_ones() {
        let said = "#7\tINITED cov: 3 ft: 4\n#80\tDONE   cov: 995 ft: 1924 corp: 25/16Kb\n\
                    stat::number_of_executed_units: 80\n";
        let one = Ran::read("rpc", 10.0, said).expect("figures");
        assert_eq!(one.row(), "| rpc | 10 | 80 | 995 | nothing |");
        let found = format!("{said}artifact_prefix='x/'; Test unit written to x/crash-1\n");
        let found = Ran::read("rpc", 10.0, &found).expect("figures");
        assert_eq!(found.found.as_deref(), Some("x/crash-1"));
        let table = "| t | m |\n|---|---|\n| state | 1 |\n| rpc | 1 |\n";
        assert_eq!(
            merged(table, &[one]),
            "| t | m |\n|---|---|\n| rpc | 10 | 80 | 995 | nothing |\n| state | 1 |\n"
        );
        assert!(Ran::read("rpc", 10.0, "no such file").is_none());
    }
}
