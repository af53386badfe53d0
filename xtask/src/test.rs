//! `cargo xtask test`: every check and every test, one after the other, and one line at the end that sums up.
//!
//! Owns: which steps there are, what each needs, the sum. Must not: pass over anything in silence: what cannot run
//! here is listed with its reason, and in CI that is an error.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{kernel, run, setup};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Only the tests of other kernels, on the newest Debian kernel of this series: 6.1.
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
    /// Only steps whose name contains one of these.
    filters: Vec<String>,
}

/// Integration tests that need no root; every other one is about the kernel and does.
const ROOTLESS: [&str; 3] = ["workspace", "architecture", "systemd"];

/// The test of the eBPF programs: they stand as tcx links here, and as filters where the kernel is older.
const BY_BOTH_HOOKS: &str = "bpf";

/// The oldest kernel that is supported: Debian 12's own.
const OLDEST: &str = "6.1";

/// One check or one test program.
struct Step {
    name: String,
    /// Why it cannot run here.
    obstacle: Option<String>,
    /// Whether it counts tests; if not, it is one check.
    counts: bool,
    command: Command,
}

#[derive(Default)]
struct Sum {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    failures: Vec<String>,
}

/// Runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    prepare(args)?;
    if let Some(series) = &args.kernel {
        return kernel::run(series);
    }
    let mut sum = Sum::default();
    for step in steps()? {
        if args.filters.is_empty() || args.filters.iter().any(|filter| step.name.contains(filter.as_str())) {
            sum.run(step)?;
        }
    }
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

fn steps() -> Result<Vec<Step>> {
    let cargo = |args: &[&str]| {
        let mut command = run::cargo();
        command.args(args);
        command
    };
    let tests = ["test", "--locked", "--workspace", "--no-fail-fast"];
    // Its program is a fuzzer's, and no test: `--bins` would run it as one.
    let units = ["--lib", "--bins", "--exclude", "mailsteer-fuzz"];
    let mut steps = vec![
        Step::program("format", "cargo-fmt", cargo(&["fmt", "--all", "--check"])),
        Step::program(
            "clippy",
            "cargo-clippy",
            cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ),
        Step::program(
            "deny: licenses bans sources",
            "cargo-deny",
            cargo(&[
                "deny",
                "--all-features",
                "check",
                "--hide-inclusion-graph",
                "licenses",
                "bans",
                "sources",
            ]),
        ),
        Step::plain("unit tests", cargo(&[&tests[..], &units].concat())),
        Step::plain("doc tests", cargo(&[&tests[..], &["--doc"]].concat())),
    ];
    let mut verify = Command::new(std::env::current_exe()?);
    verify.args(["ebpf", "verify"]).current_dir(run::root());
    steps.push(Step::program("ebpf verify", "bpf-linker", verify));
    // Rootless ones first: what is cheap to know should be known early.
    let mut rooted = Vec::new();
    for (package, dir) in [
        ("mailsteer-core", "agent/core/tests"),
        ("mailsteer", "agent/tests"),
        ("mailsteer-fuzz", "tests/fuzz/tests"),
        ("mailsteer-tests", "tests/tests"),
    ] {
        let test = |target: &str| {
            let mut command = cargo(&["test", "--locked", "-p", package, "--test", target]);
            // One at a time: they share the machine's kernel, and some measure time.
            command.args(["--", "--test-threads=1"]).env("MAILSTEER_BIN", run::built("mailsteer"));
            command
        };
        for target in targets(&run::root().join(dir))? {
            let step = Step::plain(&format!("{package}: {target}"), test(&target));
            let rootless = ["mailsteer-core", "mailsteer-fuzz"].contains(&package)
                || ROOTLESS.contains(&target.as_str());
            if rootless {
                steps.push(step);
            } else {
                rooted.push(step.rooted());
            }
            if target == BY_BOTH_HOOKS {
                let mut command = test(&target);
                command.env("MAILSTEER_BPF_HOOK", "clsact");
                rooted.push(Step::plain(&format!("{package}: {target} by clsact"), command).rooted());
            }
        }
    }
    // Never the binary of yesterday.
    steps.push(Step::check("build the agent", cargo(&["build", "--locked", "-p", "mailsteer"])));
    steps.extend(rooted);
    steps.push(Step::kernel(OLDEST)?);
    Ok(steps)
}

/// Names of the integration tests in a directory, sorted; none where there is no such directory.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file() {
            names.push(path.file_stem().context("a test without a name")?.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

impl Step {
    fn plain(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), obstacle: None, counts: true, command }
    }

    fn check(name: &str, command: Command) -> Self {
        Self { counts: false, ..Self::plain(name, command) }
    }

    fn program(name: &str, needs: &str, command: Command) -> Self {
        let obstacle = setup::find(needs)
            .is_none()
            .then(|| format!("{needs} is not installed: cargo xtask setup installs it"));
        Self { name: name.to_owned(), obstacle, counts: false, command }
    }

    /// The tests that are run on another kernel.
    fn kernel(series: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["test", "--kernel", series]).current_dir(run::root());
        Ok(Self { obstacle: kernel::obstacle(), ..Self::plain(&format!("kernel {series}"), command) })
    }

    fn rooted(mut self) -> Self {
        if !run::is_root() {
            self.obstacle = Some(format!("needs root: {}", run::how_to_be_root("test")));
        }
        self
    }
}

impl Sum {
    fn run(&mut self, mut step: Step) -> Result<()> {
        if let Some(obstacle) = step.obstacle {
            println!("\n==== SKIPPED {}: {obstacle}", step.name);
            self.skipped.push(format!("{}: {obstacle}", step.name));
            return Ok(());
        }
        println!("\n==== {}", step.name);
        let began = Instant::now();
        let (mut passed, mut failed, mut names) = (0, 0, Vec::new());
        let ended_well = run::follow(&mut step.command, |line| {
            if let Some((p, f)) = counts(line) {
                passed += p;
                failed += f;
            }
            if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
                names.push(name.to_owned());
            }
            if let Some((name, why)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ignored")) {
                self.skipped.push(format!("{}: {name}: ignored{why}", step.name));
            }
        })?;
        // A check counts as one; so does a test program that died before it could count.
        match (ended_well, step.counts) {
            (true, false) => passed = 1,
            (false, _) => failed = failed.max(1),
            (true, true) => {}
        }
        println!(
            "==== {}: {passed} passed, {failed} failed, {:.1} s",
            step.name,
            began.elapsed().as_secs_f64()
        );
        self.passed += passed;
        self.failed += failed;
        if failed > 0 {
            self.failures.push(format!("{}: {}", step.name, names.join(", ")));
        }
        Ok(())
    }

    fn tell(self) -> Result<()> {
        println!();
        for failure in &self.failures {
            println!("FAILED  {failure}");
        }
        for skipped in &self.skipped {
            println!("SKIPPED {skipped}");
        }
        let skips =
            if self.skipped.is_empty() { String::new() } else { format!(", {} skipped", self.skipped.len()) };
        println!("{} passed, {} failed{skips}", self.passed, self.failed);
        if self.failed > 0 {
            bail!("tests failed");
        }
        if run::is_ci() && !self.skipped.is_empty() {
            bail!("CI may skip nothing");
        }
        Ok(())
    }
}

/// The counts in a line such as `test result: ok. 5 passed; 0 failed; 0 ignored; ...`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut numbers = rest.split("; ").map(|part| part.split(' ').next().and_then(|n| n.parse().ok()));
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn counts_are_read_from_the_line_that_cargo_prints() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(counts(line), Some((12, 3)));
        assert_eq!(counts("test result of another kind"), None);
    }
}
