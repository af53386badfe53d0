//! A program under the limits of its unit: user, capabilities, no new privileges, system calls, kinds of sockets.
//!
//! Owns: putting those limits on without a systemd, from the unit file itself. Must not: loosen any. What it cannot
//! put on are the unit's file system views, memory rules and address lists: for those a running systemd is needed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::exec;
use crate::load::tool;
use crate::unit::Unit;

/// A user and group of nobody's, as sysusers would make one.
const USER: u32 = 64_901;

/// What `lab-seccomp` lets through; all else fails with EPERM.
#[derive(Serialize, Deserialize, Debug)]
pub struct Filter {
    /// Numbers of system calls.
    pub calls: BTreeSet<i64>,
    /// Kinds of sockets: AF_...
    pub families: BTreeSet<u64>,
}

/// The limits of one unit.
#[derive(Clone, Debug)]
pub struct Confinement {
    capabilities: BTreeSet<String>,
    filter: PathBuf,
}

impl Confinement {
    /// Reads the unit and leaves what the program needs to know in `dir`.
    ///
    /// # Errors
    /// When the unit or systemd's sets of system calls cannot be read.
    pub fn of(unit: &Unit, dir: &Path) -> Result<Self> {
        let numbers = numbers()?;
        let calls = unit.system_calls()?;
        // A name without a number is another architecture's.
        let calls = numbers.into_iter().filter(|(name, _)| calls.contains(name)).map(|(_, n)| n).collect();
        let families =
            unit.words("RestrictAddressFamilies").into_iter().map(family).collect::<Result<_>>()?;
        let filter = dir.join("seccomp.json");
        fs::write(&filter, serde_json::to_vec(&Filter { calls, families })?)?;
        let capabilities = unit.words("AmbientCapabilities").into_iter().map(short).collect();
        Ok(Self { capabilities, filter })
    }

    /// The same without one capability, such as `CAP_BPF`.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Self {
        self.capabilities.remove(&short(capability));
        self
    }

    /// The command line, without the program, that runs one under these limits.
    ///
    /// # Errors
    /// When `lab-seccomp` is not built.
    pub fn words(&self) -> Result<Vec<OsString>> {
        let each = self.capabilities.iter().map(|name| format!(",+{name}"));
        let only = each.fold("-all".to_owned(), |all, one| all + &one);
        let mut words: Vec<OsString> =
            ["setpriv", "--clear-groups", "--no-new-privs"].map(OsString::from).into();
        words.extend([format!("--reuid={USER}"), format!("--regid={USER}")].map(OsString::from));
        let sets = ["--bounding-set", "--inh-caps", "--ambient-caps"];
        words.extend(sets.map(|set| format!("{set}={only}").into()));
        words.extend([tool("lab-seccomp")?.into_os_string(), self.filter.clone().into_os_string()]);
        Ok(words)
    }

    /// Gives a directory and all in it to the user, as systemd does with a unit's state directory.
    ///
    /// # Errors
    /// Without the right to.
    pub fn give(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        let now = fs::symlink_metadata(path)?;
        // Where nothing can be written, what is theirs already stays theirs.
        if (now.uid(), now.gid()) == (USER, USER) {
            return Ok(());
        }
        lchown(path, Some(USER), Some(USER)).with_context(|| format!("cannot give {} away", path.display()))
    }

    /// Whether a process bears these limits, as the kernel has them; what differs, one line each.
    ///
    /// # Errors
    /// When it is gone.
    pub fn differences(&self, pid: u32) -> Result<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.map(|value| value.split_whitespace().next().unwrap_or_default().to_owned())
        };
        let set = self.capabilities.iter().map(|name| bit(name)).collect::<Result<Vec<_>>>()?;
        let set = format!("{:016x}", set.into_iter().fold(0_u64, |all, bit| all | 1 << bit));
        let mut wanted: Vec<(&str, String)> =
            ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|key| (key, set.clone())).into();
        wanted.extend([("Uid", USER.to_string()), ("Gid", USER.to_string())]);
        wanted.extend([("NoNewPrivs", "1".to_owned()), ("Seccomp", "2".to_owned())]);
        let differs = wanted.into_iter().filter(|(key, value)| of(key).as_ref() != Some(value));
        Ok(differs.map(|(key, value)| format!("{key}: {:?}, wanted {value}", of(key))).collect())
    }
}

/// `CAP_NET_ADMIN` as setpriv writes it: `net_admin`.
fn short(capability: &str) -> String {
    capability.trim_start_matches("CAP_").to_ascii_lowercase()
}

/// Number of a capability, of those that a unit of ours may name.
fn bit(name: &str) -> Result<u32> {
    let numbers = [("net_admin", 12), ("net_raw", 13), ("sys_admin", 21), ("perfmon", 38), ("bpf", 39)];
    let found = numbers.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, bit)| bit).with_context(|| format!("number of capability {name}: <linux/capability.h>"))
}

fn family(name: &str) -> Result<u64> {
    let number = match name {
        "AF_UNIX" => libc::AF_UNIX,
        "AF_INET" => libc::AF_INET,
        "AF_INET6" => libc::AF_INET6,
        "AF_NETLINK" => libc::AF_NETLINK,
        "AF_PACKET" => libc::AF_PACKET,
        _ => anyhow::bail!("number of {name}: <sys/socket.h>"),
    };
    Ok(u64::try_from(number)?)
}

/// Names and numbers of this machine's system calls, from the kernel's own header.
fn numbers() -> Result<Vec<(String, i64)>> {
    let mut compiler = Command::new("cc");
    let text = exec::output_of(compiler.args(["-dM", "-E", "-"]), "#include <asm/unistd.h>\n")?;
    let of = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    Ok(text.lines().filter_map(of).collect())
}
