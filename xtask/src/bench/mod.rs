//! `cargo xtask bench ...`: figures, side by side.
//!
//! Owns: which there are, and what all of them need. Must not: measure; programs of the tests' package do.

mod connect;
mod failover;
mod scale;
mod spread;

use anyhow::{Result, bail};

use crate::{run, setup};

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
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Scale(args) => scale::run(args),
        What::Connect(args) => connect::run(args),
        What::Failover(args) => failover::run(args),
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
