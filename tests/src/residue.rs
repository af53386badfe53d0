//! What a lab could leave behind, and whether it did.
//!
//! Owns: finding and, for labs whose process is dead, removing. Must not: end a process that is in no namespace of
//! a lab of this process.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{self, Cgroup};

/// Every directory and cgroup of a lab begins with this, then the process id that made it.
pub const PREFIX: &str = "mailsteer-lab-";

/// By what a lab's leftovers would be known, when the lab itself is gone.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Inodes of its network namespaces.
    pub namespaces: BTreeSet<u64>,
    /// Its directory.
    pub dir: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

impl Identity {
    /// Everything that is still there, one line each; empty: nothing.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (pid, name) in processes(&self.namespaces)? {
            found.push(format!("process {pid} ({name}) in a namespace of the lab"));
        }
        for fd in fs::read_dir("/proc/self/fd")?.filter_map(Result::ok) {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            if self.namespaces.iter().any(|inode| target == Path::new(&format!("net:[{inode}]"))) {
                found.push(format!("namespace {} held open by this process", target.display()));
            }
        }
        found.extend(mounts_below(&self.dir)?.into_iter().map(|m| format!("mount {}", m.display())));
        for dir in [&self.dir, &self.cgroup] {
            if dir.exists() {
                found.push(format!("directory {}", dir.display()));
            }
        }
        Ok(found)
    }

    /// Ends every process inside the lab's namespaces and waits until they are gone.
    ///
    /// # Errors
    /// When they do not go.
    pub fn end_processes(&self) -> Result<()> {
        crate::poll::until(std::time::Duration::from_secs(10), "the lab's processes to end", || {
            let left = processes(&self.namespaces)?;
            for (pid, _) in &left {
                // It may have ended by itself meanwhile, which is as good.
                kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
            }
            Ok(left.is_empty().then_some(()))
        })
    }
}

/// Other processes (never this one) inside any of these network namespaces; zombies are gone already.
fn processes(namespaces: &BTreeSet<u64>) -> Result<Vec<(i32, String)>> {
    let own = i32::try_from(std::process::id())?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(ns) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if pid != own && namespaces.contains(&ns.ino()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((pid, name.trim().to_owned()));
        }
    }
    Ok(found)
}

/// Mount points at or below a directory, the deepest first.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(found)
}

/// Unmounts everything below a directory and removes it.
///
/// # Errors
/// When something there is in use.
pub fn remove_dir(dir: &Path) -> Result<()> {
    for point in mounts_below(dir)? {
        umount2(&point, MntFlags::MNT_DETACH)?;
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

/// Removes what labs of dead processes left: a test that was killed could not.
///
/// # Errors
/// When a leftover cannot be removed.
pub fn sweep() -> Result<()> {
    for entry in
        fs::read_dir(std::env::temp_dir())?.filter_map(Result::ok).filter(|e| is_stale(&e.file_name()))
    {
        remove_dir(&entry.path())?;
    }
    for entry in fs::read_dir(cgroup::root()?)?.filter_map(Result::ok).filter(|e| is_stale(&e.file_name())) {
        Cgroup::remove(&entry.path())?;
    }
    Ok(())
}

fn is_stale(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}
