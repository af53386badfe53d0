//! `cargo xtask endure`: a million connections while everything that can happen happens at random, and the account.
//!
//! Owns: how many, from which seed, and where the account is written. Must not: make or judge connections; the program
//! `lab-endure` of the tests' package does.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{fs, time};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{document, run, setup};

/// `cargo xtask endure ...`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many connections.
    #[arg(long, default_value_t = 1_000_000)]
    connections: u64,
    /// What happens when comes from it; without it, from the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the whole account to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the account to docs/performance.md.
    #[arg(long)]
    write: bool,
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
}

/// What `lab-endure` answers with.
#[derive(Serialize, Deserialize)]
struct Account {
    seed: u64,
    made: u64,
    received: u64,
    counted: [u64; 2],
    held: u64,
    seconds: f64,
    slowest_ms: f64,
    events: std::collections::BTreeMap<String, u64>,
    stragglers: u64,
    samples: Vec<Sample>,
    broken: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Sample {
    connections: u64,
    seconds: f64,
    pid: u32,
    rss_kib: u64,
    descriptors: u64,
    followed: u64,
    counters: u64,
    conntrack: u64,
    elements: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !run::is_root() {
        bail!("it needs root, for network namespaces. Run:\n  {}", run::how_to_be_root("endure"));
    }
    setup::install(&setup::Missing::for_demo(), args.yes)?;
    run::show(run::cargo().args(["build", "--locked", "--release", "-p", "mailsteer"]))?;
    run::show(run::cargo().args(["build", "--locked", "-p", "mailsteer-tests", "--bins"]))?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => time::SystemTime::now().duration_since(time::UNIX_EPOCH)?.as_secs(),
    };
    println!("{} connections, seed {seed}", args.connections);
    let mut command = Command::new(run::built("lab-endure"));
    command.env("MAILSTEER_BIN", run::released("mailsteer")).env("MAILSTEER_TEST_PATIENCE", "10");
    command.args([args.connections.to_string(), seed.to_string()]).stderr(Stdio::inherit());
    let output = command.output().context("lab-endure cannot be started")?;
    if !output.status.success() {
        bail!("lab-endure: {}", output.status);
    }
    let account: Account = serde_json::from_slice(&output.stdout)?;
    let text = account.text()?;
    println!("\n{text}");
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&account)? + "\n";
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.write {
        document::write("endure", &text)?;
    }
    if account.broken.is_empty() { Ok(()) } else { bail!("{}", account.broken.join("\n")) }
}

impl Account {
    fn text(&self) -> Result<String> {
        let [attempts, established] = self.counted;
        let events: Vec<String> = self.events.iter().map(|(what, n)| format!("{n} x {what}")).collect();
        let mut text = format!(
            "{}, seed {}.\n\n{} connections in {:.0} s ({:.0} a second), the slowest {:.1} s. Meanwhile: {}. {} packets were \
             held in gaps.\n\n| | connections |\n|---|---|\n| made | {} |\n| received | {} |\n| counted as begun | \
             {attempts} |\n| counted as answered | {established} |\n\n",
            document::machine()?,
            self.seed,
            self.made,
            self.seconds,
            self.made as f64 / self.seconds,
            self.slowest_ms / 1000.0,
            events.join(", "),
            self.held,
            self.made,
            self.received,
        );
        text.push_str(
            "| connections so far | agent's process | RSS, MiB | open files | followed | pairs counted | conntrack | \
             elements |\n|---|---|---|---|---|---|---|---|\n",
        );
        self.samples.iter().for_each(|sample| text.push_str(&sample.row()));
        text.push_str(&match self.broken.as_slice() {
            [] => "\nReceivers, wire and counts agree, source by source; nothing grew.\n".to_owned(),
            broken => format!("\n**Not as it should be:**\n\n- {}\n", broken.join("\n- ")),
        });
        Ok(text)
    }
}

impl Sample {
    fn row(&self) -> String {
        let rss = self.rss_kib as f64 / 1024.0;
        format!(
            "| {} | {} | {rss:.1} | {} | {} | {} | {} | {} |\n",
            self.connections,
            self.pid,
            self.descriptors,
            self.followed,
            self.counters,
            self.conntrack,
            self.elements
        )
    }
}
