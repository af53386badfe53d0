//! `cargo xtask man`: man pages and shell completions.
//!
//! Owns: where they go. Must not: know the command line; `agent/examples/cli-docs.rs` has it from its definition, in a
//! program of its own, so that this one need not be linked with the agent.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run;

/// What writes them.
pub(crate) const EXAMPLE: &str = "cli-docs";

/// Where to.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder; target/man by default.
    folder: Option<PathBuf>,
}

/// Writes them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = args.folder.clone().unwrap_or_else(|| run::root().join("target/man"));
    write(&folder)?;
    println!("man pages and completions: {}", folder.display());
    Ok(())
}

/// Writes them to a folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let example = ["run", "--quiet", "--locked", "--package", "mailsteer", "--example", EXAMPLE, "--"];
    run::show(run::cargo().args(example).arg(folder))
}

/// The same with what was built before.
pub(crate) fn write_by_built(folder: &Path) -> Result<()> {
    run::show(Command::new(run::built("examples").join(EXAMPLE)).arg(folder))
}
