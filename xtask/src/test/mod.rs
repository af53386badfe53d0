//! `cargo xtask test`: every check and every test, and one line at the end that sums up.
//!
//! Owns: what runs when, and beside what. Must not: pass over anything in silence: what cannot run here is listed with its
//! reason, and in CI that is an error.

mod steps;
mod sum;

use anyhow::Result;

use crate::{kernel, run, setup};
use steps::{Company, Step};
use sum::Sum;

/// The oldest kernel that is supported: Debian 12's own.
const OLDEST: &str = "6.1";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Only the tests of other kernels, on the newest Debian kernel of this series: 6.1.
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
    /// There, the tests with real MTAs in place of the others: their programs are emulated, and take four minutes.
    #[arg(long, requires = "kernel")]
    mtas: bool,
    /// Only steps whose name contains one of these.
    filters: Vec<String>,
}

/// Runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    prepare(args)?;
    if let Some(series) = &args.kernel {
        return kernel::run(series, args.mtas);
    }
    let mut sum = Sum::default();
    // Before anything is built: with the workspace cargo puts another of us in our place, and where that is we cannot ask then.
    let machines = [Step::kernel(OLDEST, false)?, Step::kernel(OLDEST, true)?];
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    for step in steps::checks()?.into_iter().filter(|step| wanted(&step.name)) {
        sum.run(step)?;
    }
    let mut tests = steps::tests(&wanted)?;
    tests.extend(machines.into_iter().filter(|step| wanted(&step.name)));
    let mut of = |company| tests.extract_if(.., |step| step.company == company).collect::<Vec<_>>();
    for step in of(Company::None) {
        sum.run(step)?;
    }
    sum.run_together([(of(Company::Timed), 2)])?;
    sum.run_together([(of(Company::Busy), 3)])?;
    let patient = of(Company::Patient);
    let all = patient.len();
    // Two machines would take as long at once as one after the other.
    sum.run_together([(of(Company::Machine), 1), (patient, all)])?;
    sum.tell()
}

/// Asks for what is missing, where it can be had; what stays missing is each step's obstacle.
fn prepare(args: &Args) -> Result<()> {
    let missing = setup::Missing::find();
    if missing.is_empty() || !(run::is_root() || run::is_ci()) {
        return Ok(());
    }
    match setup::run(&setup::Args::new(args.yes)) {
        Err(e) if !run::is_ci() => println!("Going on with what is there: {e:#}"),
        other => return other,
    }
    Ok(())
}
