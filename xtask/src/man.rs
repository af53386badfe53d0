//! `cargo xtask man`: man pages and shell completions.
//!
//! Owns: where they go. Must not: know the command line; `agent/examples/cli-docs.rs` has it from its definition, in a
//! program of its own, so that this one need not be linked with the agent.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run;

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
    let example = ["run", "--quiet", "--locked", "--package", "mailsteer", "--example", "cli-docs", "--"];
    run::show(run::cargo().args(example).arg(folder))
}
