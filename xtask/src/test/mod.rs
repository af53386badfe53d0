//! `cargo xtask test`: every check and every test, one after the other, and one line at the end that sums up.
//!
//! Owns: which steps there are, what each needs, the sum. Must not: pass over anything in silence: what cannot run
//! here is listed with its reason, and in CI that is an error.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::programs::{self, Built, Kind};
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
    /// There, the tests with real MTAs in place of the others: their programs are emulated, and take ten minutes.
    #[arg(long, requires = "kernel")]
    mtas: bool,
    /// Only steps whose name contains one of these.
    filters: Vec<String>,
}

/// Where the workspace's packages are.
const PACKAGES: [(&str, &str); 6] = [
    ("agent/core", "mailsteer-core"),
    ("agent", "mailsteer"),
    ("agent-ebpf", "mailsteer-ebpf"),
    ("xtask", "xtask"),
    ("tests/fuzz", "mailsteer-fuzz"),
    ("tests", "mailsteer-tests"),
];

/// Integration tests that need no root; every other one is about the kernel and does.
const ROOTLESS: [&str; 3] = ["workspace", "architecture", "systemd"];

/// The test of the eBPF programs: they stand as tcx links here, and as filters where the kernel is older.
const BY_BOTH_HOOKS: &str = "bpf";

/// Tests that wait for minutes while nothing happens, for what is asked twice has to be asked some minutes apart. They run side
/// by side, when nobody measures time.
const PATIENT: [&str; 5] = ["compliance", "feeds", "lists", "logs", "preflight"];

/// The oldest kernel that is supported: Debian 12's own.
const OLDEST: &str = "6.1";

/// One check or one test program.
struct Step {
    name: String,
    /// Why it cannot run here.
    obstacle: Option<String>,
    /// Whether it counts tests; if not, it is one check.
    counts: bool,
    /// Whether it runs beside others of its kind.
    patient: bool,
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
        return kernel::run(series, args.mtas);
    }
    let mut sum = Sum::default();
    // Before anything is built: with the workspace cargo puts another of us in our place, and where that is we cannot ask then.
    let kernels = [Step::kernel(OLDEST, false)?, Step::kernel(OLDEST, true)?];
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    for step in checks()?.into_iter().filter(|step| wanted(&step.name)) {
        sum.run(step)?;
    }
    let (patient, others): (Vec<_>, Vec<_>) = tests(&wanted)?.into_iter().partition(|step| step.patient);
    for step in others {
        sum.run(step)?;
    }
    sum.run_together(patient)?;
    for kernel in kernels.into_iter().filter(|step| wanted(&step.name)) {
        sum.run(kernel)?;
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

/// What needs none of our programs.
fn checks() -> Result<Vec<Step>> {
    let cargo = |args: &[&str]| {
        let mut command = run::cargo();
        command.args(args);
        command
    };
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let deny = ["deny", "--all-features", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    let mut verify = Command::new(std::env::current_exe()?);
    verify.args(["ebpf", "verify"]).current_dir(run::root());
    Ok(vec![
        Step::program("format", "cargo-fmt", cargo(&["fmt", "--all", "--check"])),
        Step::program("clippy", "cargo-clippy", cargo(&clippy)),
        Step::program("deny: licenses bans sources", "cargo-deny", cargo(&deny)),
        Step::program("ebpf verify", "bpf-linker", verify),
        Step::plain("doc tests", cargo(&["test", "--locked", "--workspace", "--no-fail-fast", "--doc"])),
    ])
}

/// The wanted tests, built first. Rootless ones come first: what is cheap to know should be known early.
fn tests(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Step>> {
    let Some(choice) = choice(wanted)? else { return Ok(Vec::new()) };
    println!("\n==== build");
    let began = Instant::now();
    let built = programs::build(&choice)?;
    println!("==== build: {} programs, {:.1} s", built.len(), began.elapsed().as_secs_f64());
    let agent = programs::agent(&built)?;
    let mut steps = Vec::new();
    for one in built.iter().filter(|one| one.kind != Kind::Program) {
        let package = package(&one.home)?;
        let needs_root = needs_root(package, one);
        let patient = needs_root && PATIENT.contains(&one.name.as_str());
        for step in steps_of(one, package, agent).into_iter().filter(|step| wanted(&step.name)) {
            let step = if needs_root { step.rooted() } else { step };
            steps.push((needs_root, Step { patient, ..step }));
        }
    }
    steps.sort_by(|(root, one), (other_root, other)| (root, &one.name).cmp(&(other_root, &other.name)));
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

/// The files of tests to build: none named where everything is to be built, `None` where nothing is.
fn choice(wanted: &dyn Fn(&str) -> bool) -> Result<Option<Vec<String>>> {
    let mut files = Vec::new();
    for (home, package) in PACKAGES {
        if wanted(&unit_tests(package)) {
            return Ok(Some(Vec::new()));
        }
        for target in targets(&run::root().join(home).join("tests"))? {
            let name = format!("{package}: {target}");
            if wanted(&name) || target == BY_BOTH_HOOKS && wanted(&by_clsact(&name)) {
                files.push(target);
            }
        }
    }
    Ok((!files.is_empty()).then_some(files))
}

fn steps_of(one: &Built, package: &str, agent: &Path) -> Vec<Step> {
    let command = || {
        let mut command = Command::new(&one.path);
        command.current_dir(&one.home).env("CARGO_MANIFEST_DIR", &one.home).env("MAILSTEER_BIN", agent);
        command
    };
    if one.kind == Kind::Unit {
        return vec![Step::plain(&unit_tests(package), command())];
    }
    // One at a time: they share the machine's kernel, and some measure time.
    let alone = || {
        let mut command = command();
        // Shares and times are printed, also where all is well.
        command.args(["--test-threads=1", "--show-output"]);
        command
    };
    let name = format!("{package}: {}", one.name);
    let mut steps = vec![Step::plain(&name, alone())];
    if one.name == BY_BOTH_HOOKS {
        let mut command = alone();
        command.env("MAILSTEER_BPF_HOOK", "clsact");
        steps.push(Step::plain(&by_clsact(&name), command));
    }
    steps
}

fn unit_tests(package: &str) -> String {
    format!("{package}: unit tests")
}

fn by_clsact(name: &str) -> String {
    format!("{name} by clsact")
}

fn needs_root(package: &str, one: &Built) -> bool {
    let pure = ["mailsteer-core", "mailsteer-fuzz"].contains(&package);
    one.kind == Kind::Integration && !pure && !ROOTLESS.contains(&one.name.as_str())
}

fn package(home: &Path) -> Result<&'static str> {
    let known = PACKAGES.iter().find(|(known, _)| run::root().join(known) == home);
    known.map(|(_, name)| *name).with_context(|| format!("{} is not among xtask's packages", home.display()))
}

/// Names of the files of tests in a directory; none where there is no such directory.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file() {
            names.push(path.file_stem().context("a test without a name")?.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

impl Step {
    fn plain(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), obstacle: None, counts: true, patient: false, command }
    }

    fn program(name: &str, needs: &str, command: Command) -> Self {
        let obstacle = setup::find(needs)
            .is_none()
            .then(|| format!("{needs} is not installed: cargo xtask setup installs it"));
        Self { obstacle, counts: false, ..Self::plain(name, command) }
    }

    /// The tests that are run on another kernel.
    fn kernel(series: &str, mtas: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["test", "--kernel", series]).current_dir(run::root());
        let mut name = format!("kernel {series}");
        if mtas {
            command.arg("--mtas");
            name += " with MTAs";
        }
        Ok(Self { obstacle: kernel::obstacle(), ..Self::plain(&name, command) })
    }

    fn rooted(mut self) -> Self {
        if !run::is_root() {
            self.obstacle = Some(format!("needs root: {}", run::how_to_be_root("test")));
        }
        self
    }
}

/// What a step said so far.
#[derive(Default)]
struct Heard {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    ignored: Vec<String>,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        if let Some((passed, failed)) = counts(line) {
            self.passed += passed;
            self.failed += failed;
        }
        let Some(test) = line.strip_prefix("test ") else { return };
        if let Some(name) = test.strip_suffix(" ... FAILED") {
            self.failures.push(name.to_owned());
        }
        if let Some((name, why)) = test.split_once(" ... ignored") {
            self.ignored.push(format!("{name}: ignored{why}"));
        }
    }
}

impl Sum {
    fn run(&mut self, step: Step) -> Result<()> {
        let Some(mut step) = self.unless_skipped(step) else { return Ok(()) };
        println!("\n==== {}", step.name);
        let (began, mut heard) = (Instant::now(), Heard::default());
        let ended_well = run::follow(&mut step.command, |line| heard.hear(line))?;
        self.add(&step, heard, ended_well, began.elapsed());
        Ok(())
    }

    /// Each says what it has to say when it is done.
    fn run_together(&mut self, steps: Vec<Step>) -> Result<()> {
        let steps: Vec<_> = steps.into_iter().filter_map(|step| self.unless_skipped(step)).collect();
        let running: Vec<_> =
            steps.into_iter().map(|step| std::thread::spawn(move || gather(step))).collect();
        for one in running {
            let Ok(done) = one.join() else { bail!("a step that ran beside others panicked") };
            let (step, lines, ended_well, took) = done?;
            println!("\n==== {}", step.name);
            let mut heard = Heard::default();
            for line in &lines {
                println!("{line}");
                heard.hear(line);
            }
            self.add(&step, heard, ended_well, took);
        }
        Ok(())
    }

    fn unless_skipped(&mut self, step: Step) -> Option<Step> {
        let Some(obstacle) = &step.obstacle else { return Some(step) };
        println!("\n==== SKIPPED {}: {obstacle}", step.name);
        self.skipped.push(format!("{}: {obstacle}", step.name));
        None
    }

    fn add(&mut self, step: &Step, heard: Heard, ended_well: bool, took: Duration) {
        let Heard { mut passed, mut failed, failures, ignored } = heard;
        // A check counts as one; so does a test program that died before it could count.
        match (ended_well, step.counts) {
            (true, false) => passed = 1,
            (false, _) => failed = failed.max(1),
            (true, true) => {}
        }
        println!("==== {}: {passed} passed, {failed} failed, {:.1} s", step.name, took.as_secs_f64());
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(ignored.iter().map(|test| format!("{}: {test}", step.name)));
        if failed > 0 {
            self.failures.push(format!("{}: {}", step.name, failures.join(", ")));
        }
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

/// Runs a step to its end: what it printed, whether it ended well, and how long it took.
fn gather(mut step: Step) -> Result<(Step, Vec<String>, bool, Duration)> {
    let began = Instant::now();
    let output = step.command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {:?}", step.command))?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    Ok((step, lines, output.status.success(), began.elapsed()))
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
