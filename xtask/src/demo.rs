//! `cargo xtask demo`: what mailsteer does, on a small internet of its own.
//!
//! Owns: what the demo needs of the machine, and building it. Must not: show anything; the program `demo` of the
//! tests' package does, in our place, so that Ctrl-C reaches nobody else.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{run, setup};

/// Whether to ask.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
}

/// The oldest kernel that mailsteer is tested on: Debian 12's.
const KERNEL: (u32, u32) = (6, 1);

/// Checks, installs, builds, and becomes the demo.
pub(crate) fn run(args: &Args) -> Result<()> {
    let lacks = lacks();
    if !lacks.is_empty() {
        bail!("this kernel cannot run the demo:\n  {}", lacks.join("\n  "));
    }
    if !run::is_root() {
        bail!(
            "the demo needs root, for network namespaces, nftables and eBPF (this machine's own network is not \
             touched). Run:\n  {}",
            run::how_to_be_root("demo")
        );
    }
    setup::install(&setup::Missing::for_demo(), args.yes)?;
    fetchable(args.yes)?;
    println!("Building mailsteer and the demo: minutes the first time, seconds afterwards.");
    let packages = ["-p", "mailsteer", "-p", "mailsteer-tests", "--bins"];
    run::show(run::cargo().args(["build", "--quiet", "--locked"]).args(packages))?;
    println!();
    let mut demo = Command::new(run::built("demo"));
    Err(demo.env("MAILSTEER_BIN", run::built("mailsteer")).exec().into())
}

/// What the kernel lacks, in words.
fn lacks() -> Vec<String> {
    let mut lacks = Vec::new();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_none_or(|version| version < KERNEL) {
        lacks.push(format!(
            "it is Linux {}; {}.{} or newer is needed (Debian 12: package linux-image-amd64 of \
             bookworm-backports)",
            release.trim(),
            KERNEL.0,
            KERNEL.1
        ));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        lacks.push("it describes no types: CONFIG_DEBUG_INFO_BTF is off (no /sys/kernel/btf/vmlinux)".into());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        lacks.push("cgroup2 is mounted nowhere: mount -t cgroup2 none /sys/fs/cgroup".into());
    }
    lacks
}

/// Major and minor of a release such as `6.12.9+bpo-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Postfix is unpacked from its package, not installed; apt has to know where to get it.
fn fetchable(yes: bool) -> Result<()> {
    if run::root().join("target/debs/root").is_dir() {
        return Ok(());
    }
    println!("Postfix is downloaded from Debian and unpacked below target/debs; it is not installed.");
    if run::ask(Command::new("apt-cache").args(["show", "postfix"])).is_some_and(|text| !text.is_empty()) {
        return Ok(());
    }
    println!("apt has no package lists yet: `apt-get update` gets them.");
    if !setup::agreed("Run it?", yes)? {
        bail!("Postfix cannot be downloaded without package lists");
    }
    run::show(Command::new("apt-get").arg("update"))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(version("6.12.9+bpo-amd64\n"), Some((6, 12)));
        assert_eq!(version("6.6\n"), Some((6, 6)));
        assert_eq!(version("unknown"), None);
        assert!(version("6.18.0").is_some_and(|v| v >= super::KERNEL));
        assert!(version("6.1.0-44-amd64").is_some_and(|v| v >= super::KERNEL));
        assert!(version("5.10.0-30-amd64").is_some_and(|v| v < super::KERNEL));
    }
}
