//! `mailsteer`: the agent and the command line that speaks to it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    mailsteer::cli::run(mailsteer::cli::args::Cli::parse())
}
