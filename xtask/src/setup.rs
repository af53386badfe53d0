//! What a bare Debian 12 lacks: shown first, then installed.
//!
//! Owns: the list of needs and how each is met. Must not: install anything unasked, or ask in CI. MTAs are not
//! installed at all: the tests unpack their packages below `target`.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// What to install, and whether to ask.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Installs without asking.
    #[arg(long)]
    yes: bool,
}

impl Args {
    /// As another recipe asks.
    pub(crate) fn new(yes: bool) -> Self {
        Self { yes }
    }
}

/// Debian packages: what the agent and the demo take to build and run.
const DEMO: [&str; 4] = ["nftables", "iproute2", "gcc", "libc6-dev"];

/// Debian packages: what libFuzzer is compiled with, what tests call, then the eBPF tool chain, then what an older kernel is booted with.
const PACKAGES: [&str; 18] = [
    "g++",
    "conntrack",
    "iptables",
    "tcpdump",
    "libfaketime",
    "strace",
    "systemd",
    "debootstrap",
    "pkg-config",
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "binutils",
    "busybox-static",
    "qemu-system-x86",
];

/// Programs that cargo builds: name, and what `cargo install` is told.
const PROGRAMS: [(&str, &[&str]); 2] = [
    (
        "bpf-linker",
        &["bpf-linker", "--version", "0.13.0", "--no-default-features", "--features", "llvm-22", "--locked"],
    ),
    ("cargo-deny", &["cargo-deny", "--version", "0.20.2", "--locked"]),
];

/// Parts of the Rust tool chain: program, rustup's name.
const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// What is missing.
#[derive(Default)]
pub(crate) struct Missing {
    packages: Vec<&'static str>,
    programs: Vec<&'static (&'static str, &'static [&'static str])>,
    components: Vec<&'static str>,
}

impl Missing {
    /// Looks; takes well under a second.
    pub(crate) fn find() -> Self {
        Self {
            packages: DEMO.into_iter().chain(PACKAGES).filter(|name| !is_installed(name)).collect(),
            programs: PROGRAMS.iter().filter(|(name, _)| find(name).is_none()).collect(),
            components: COMPONENTS.iter().filter(|(p, _)| find(p).is_none()).map(|(_, name)| *name).collect(),
        }
    }

    /// The same for the demo alone, which compiles no eBPF and checks nothing.
    pub(crate) fn for_demo() -> Self {
        Self { packages: DEMO.into_iter().filter(|name| !is_installed(name)).collect(), ..Self::default() }
    }

    /// Whether all is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.programs.is_empty() && self.components.is_empty()
    }

    fn show(&self) {
        println!("To be installed:");
        for name in &self.packages {
            println!("  Debian package  {name}");
        }
        for name in removed_by(&self.packages) {
            println!("  REMOVED         {name}, which cannot stand beside them");
        }
        for name in &self.components {
            println!("  rustup part     {name}");
        }
        for (name, _) in &self.programs {
            println!("  by cargo        {name} (built from source: minutes)");
        }
    }

    fn install(&self) -> Result<()> {
        if !self.packages.is_empty() {
            if !run::is_root() {
                bail!("Debian packages need root. Run:\n  {}", run::how_to_be_root("setup"));
            }
            run::show(Command::new("apt-get").arg("update"))?;
            let mut install = Command::new("apt-get");
            install.env("DEBIAN_FRONTEND", "noninteractive").args([
                "install",
                "-y",
                "--no-install-recommends",
            ]);
            run::show(install.args(&self.packages))?;
        }
        for name in &self.components {
            run::show(Command::new("rustup").args(["component", "add", name]))?;
        }
        for (_, how) in &self.programs {
            run::show(run::cargo().arg("install").args(*how).env("LLVM_PREFIX", "/usr/lib/llvm-22"))?;
        }
        Ok(())
    }
}

/// Shows what is missing for all recipes, asks, installs it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = Missing::find();
    if missing.is_empty() {
        println!("setup: all is there");
    }
    install(&missing, args.yes)
}

/// Shows what is missing, asks, installs it.
pub(crate) fn install(missing: &Missing, yes: bool) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    missing.show();
    if !agreed("Install?", yes)? {
        bail!("nothing was installed");
    }
    missing.install()
}

/// Asks, unless the answer was given beforehand, or CI runs us.
pub(crate) fn agreed(question: &str, yes: bool) -> Result<bool> {
    if yes || run::is_ci() {
        return Ok(true);
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Packages that apt would take away for these, as far as its lists tell.
fn removed_by(packages: &[&str]) -> Vec<String> {
    if packages.is_empty() {
        return Vec::new();
    }
    let mut simulate = Command::new("apt-get");
    simulate.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
    let told = run::ask(&mut simulate).unwrap_or_default();
    told.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next().map(str::to_owned)).collect()
}

fn is_installed(package: &str) -> bool {
    run::ask(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]))
        .is_some_and(|status| status.ends_with("ok installed"))
}

/// Where a program is: on PATH, or where cargo or Debian put it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(home)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
