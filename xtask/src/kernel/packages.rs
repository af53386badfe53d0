//! Another kernel, from Debian's archive: downloaded and unpacked below `target`, never installed.
//!
//! Owns: finding the newest package of a series, its files, and which modules the tests need. Must not: need root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::initramfs::Tree;
use crate::run;

/// Folders and files of modules that the agent or the lab asks for, with all that they depend on.
const MODULES: [&str; 9] = [
    "kernel/fs/overlayfs/overlay.ko",
    "kernel/net/netfilter/nf",
    "kernel/net/ipv4/netfilter/nf",
    "kernel/net/ipv6/netfilter/nf",
    "kernel/net/bridge/bridge.ko",
    "kernel/net/sched/sch_ingress.ko",
    "kernel/net/sched/cls_bpf.ko",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/veth.ko",
];

/// A kernel that was unpacked.
pub(super) struct Kernel {
    /// As `uname -r` tells it.
    pub(super) release: String,
    root: PathBuf,
}

impl Kernel {
    /// The newest one of a series, such as `6.1`.
    pub(super) fn fetch(series: &str) -> Result<Self> {
        let package = newest(series)?;
        let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned").to_owned();
        let root = run::root().join("target/kernels").join(&release);
        let kernel = Self { release, root };
        if !kernel.image().is_file() || !kernel.modules().join("modules.dep").is_file() {
            kernel.unpack(&package)?;
        }
        Ok(kernel)
    }

    fn unpack(&self, package: &str) -> Result<()> {
        fs::create_dir_all(&self.root)?;
        // APT's own user may not write below a home directory; what it then says is about that alone.
        run::show(
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
                .current_dir(&self.root),
        )?;
        let archive = fs::read_dir(&self.root)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded nothing")?;
        run::show(Command::new("dpkg").arg("-x").arg(&archive).arg(&self.root))?;
        run::show(Command::new("busybox").args(["depmod", "-b"]).arg(&self.root).arg(&self.release))?;
        Ok(fs::remove_file(archive)?)
    }

    /// What qemu boots.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// Puts the modules where modprobe looks for them.
    pub(super) fn install_modules(&self, tree: &mut Tree) -> Result<()> {
        let from = self.modules();
        let at = format!("lib/modules/{}", self.release);
        let depends = fs::read_to_string(from.join("modules.dep"))?;
        for path in wanted(&depends) {
            tree.file(&format!("{at}/{path}"), &from.join(path));
        }
        for index in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
            tree.file(&format!("{at}/{index}"), &from.join(index));
        }
        Ok(())
    }
}

fn newest(series: &str) -> Result<String> {
    let pattern = format!("^linux-image-{}[.+-].*-cloud-amd64-unsigned$", series.replace('.', "\\."));
    let found = run::ask(Command::new("apt-cache").args(["search", "--names-only", &pattern]));
    let names = found.unwrap_or_default();
    let names = names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    match names.max_by_key(|name| numbers(name)) {
        Some(name) => Ok(name),
        None => bail!("APT knows no kernel {series} for clouds: apt-get update, on Debian for amd64"),
    }
}

/// The numbers in a name, so that 6.1.0-9 comes before 6.1.0-10.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Modules of [`MODULES`] and what they depend on; a line of `modules.dep` names all that a module needs.
fn wanted(depends: &str) -> BTreeSet<&str> {
    let lines: BTreeMap<&str, &str> = depends.lines().filter_map(|line| line.split_once(':')).collect();
    let asked = lines.iter().filter(|(path, _)| MODULES.iter().any(|start| path.starts_with(start)));
    asked.flat_map(|(path, needs)| std::iter::once(*path).chain(needs.split_whitespace())).collect()
}

/// Whether a program of the emulation is there.
pub(super) fn is_file(path: &str) -> bool {
    Path::new(path).is_file()
}

#[cfg(test)]
mod tests {
    use super::{numbers, wanted};

    #[test]
    fn the_newest_is_found_by_number() {
        assert!(numbers("linux-image-6.1.0-10-cloud") > numbers("linux-image-6.1.0-9-cloud"));
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let depends = "kernel/net/netfilter/nf_tables.ko: kernel/net/netfilter/nfnetlink.ko kernel/lib/libcrc32c.ko\n\
                       kernel/lib/libcrc32c.ko:\nkernel/drivers/net/dummy.ko:\n";
        let found: Vec<_> = wanted(depends).into_iter().collect();
        let all = [
            "kernel/lib/libcrc32c.ko",
            "kernel/net/netfilter/nf_tables.ko",
            "kernel/net/netfilter/nfnetlink.ko",
        ];
        assert_eq!(found, all);
    }
}
