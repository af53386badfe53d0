//! Which checks and tests there are, what each needs, and what may run beside it.
//!
//! Owns: the list. Must not: run them.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::programs::{self, Built, Kind};
use crate::{kernel, run, setup};

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

/// Tests that wait for minutes while nothing happens, for what is asked twice has to be asked some minutes apart. They run all at
/// once, beside the machine of another kernel.
const PATIENT: [&str; 4] = ["compliance", "feeds", "lists", "preflight"];

/// Tests that take a while, look at nothing but their own lab, and assert times with room for one more that works: two lanes.
const TIMED: [&str; 7] = ["l3", "containers", "without_ebpf", "following", "mta_flip", "clock", "uplinks"];

/// The same where no time is asserted that a busy machine makes longer: three lanes, for they wait for half of their time. Those that
/// take longest first.
const BUSY: [&str; 21] = [
    "logs",
    "mtas",
    "strangers",
    "postfix",
    "killed",
    "life",
    "steering",
    "state",
    "kernels",
    "streams",
    "bpf",
    "bpf by clsact",
    "package",
    "troubles",
    "metrics",
    "outcomes",
    "unprivileged",
    "beliefs",
    "examples",
    "fuse",
    "providers",
];

/// Beside what a step runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Nothing: it measures time, fills the machine, or looks at all of it.
    None,
    /// One more that works.
    Timed,
    /// Two more that work.
    Busy,
    /// Whatever mostly waits.
    Patient,
    /// Whatever mostly waits, and no other of its kind: it is a machine that is emulated.
    Machine,
}

impl Company {
    fn of(test: &str) -> Self {
        if PATIENT.contains(&test) {
            Self::Patient
        } else if TIMED.contains(&test) {
            Self::Timed
        } else if BUSY.contains(&test) {
            Self::Busy
        } else {
            Self::None
        }
    }
}

/// One check or one test program.
pub(super) struct Step {
    pub(super) name: String,
    /// Why it cannot run here.
    pub(super) obstacle: Option<String>,
    /// Whether it counts tests; if not, it is one check.
    pub(super) counts: bool,
    /// Beside what it runs.
    pub(super) company: Company,
    pub(super) command: Command,
}

/// What needs none of our programs.
pub(super) fn checks() -> Result<Vec<Step>> {
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
pub(super) fn tests(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Step>> {
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
        let company = if needs_root { Company::of(&one.name) } else { Company::None };
        for step in steps_of(one, package, agent).into_iter().filter(|step| wanted(&step.name)) {
            let step = if needs_root { step.rooted() } else { step };
            steps.push((needs_root, Step { company, ..step }));
        }
    }
    let order = |(root, step): &(bool, Step)| (*root, place(&step.name), step.name.clone());
    steps.sort_by_cached_key(order);
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

/// The place of a step among those that run in lanes; all others are behind them.
fn place(name: &str) -> usize {
    let test = name.rsplit(": ").next().unwrap_or_default();
    TIMED.iter().chain(&BUSY).position(|one| *one == test).unwrap_or(usize::MAX)
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
        Self { name: name.to_owned(), obstacle: None, counts: true, company: Company::None, command }
    }

    fn program(name: &str, needs: &str, command: Command) -> Self {
        let obstacle = setup::find(needs)
            .is_none()
            .then(|| format!("{needs} is not installed: cargo xtask setup installs it"));
        Self { obstacle, counts: false, ..Self::plain(name, command) }
    }

    /// The tests that are run on another kernel.
    pub(super) fn kernel(series: &str, mtas: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["test", "--kernel", series]).current_dir(run::root());
        let mut name = format!("kernel {series}");
        if mtas {
            command.arg("--mtas");
            name += " with MTAs";
        }
        Ok(Self { obstacle: kernel::obstacle(), company: Company::Machine, ..Self::plain(&name, command) })
    }

    fn rooted(mut self) -> Self {
        if !run::is_root() {
            self.obstacle = Some(format!("needs root: {}", run::how_to_be_root("test")));
        }
        self
    }
}
