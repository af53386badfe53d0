//! `cargo xtask bench ...`: figures, side by side.
//!
//! Owns: which there are, and what all of them need. Must not: measure; programs of the tests' package do.

mod connect;
mod failover;
mod logs;
mod scale;
mod spread;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{document, run, setup};

/// `cargo xtask bench ...`
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Times, memory and idle CPU by the number of sources.
    Scale(scale::Args),
    /// What steering costs a connection, beside rules by hand and no steering.
    Connect(connect::Args),
    /// From a fault to the first connection from another address.
    Failover(failover::Args),
    /// How fast a log is followed.
    Logs(logs::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Scale(args) => scale::run(args),
        What::Connect(args) => connect::run(args),
        What::Failover(args) => failover::run(args),
        What::Logs(args) => logs::run(args),
    }
}

/// Builds the agent as it is released, and the programs that measure; those too where their own time is in the figures.
fn prepare(command: &str, yes: bool, release: bool) -> Result<()> {
    if !run::is_root() {
        bail!("a bench needs root, for network namespaces. Run:\n  {}", run::how_to_be_root(command));
    }
    setup::install(&setup::Missing::for_demo(), yes)?;
    run::show(run::cargo().args(["build", "--locked", "--release", "-p", "mailsteer"]))?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    run::show(run::cargo().args(["build", "--locked", "-p", "mailsteer-tests", "--bins"]).args(profile))
}

/// What a program of the tests' package, as released, answers of the agent, as released.
fn ask<T: DeserializeOwned>(program: &str, args: &[String]) -> Result<T> {
    let mut command = Command::new(run::released(program));
    // However long something takes, that is the figure.
    command.env("MAILSTEER_BIN", run::released("mailsteer")).env("MAILSTEER_TEST_PATIENCE", "10");
    let output = command.args(args).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{program}'s answer"))
}

/// Shows the tables, and writes figures and tables where that was asked for.
fn tell(
    command: &str,
    text: &str,
    measured: &impl Serialize,
    json: Option<&Path>,
    write: bool,
) -> Result<()> {
    println!("\n{text}");
    if let Some(file) = json {
        let json = serde_json::to_string_pretty(measured)? + "\n";
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if write { document::write(command, text) } else { Ok(()) }
}
