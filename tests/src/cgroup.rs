//! The cgroup that stands for the mail host, and where cgroup2 is mounted.
//!
//! Owns: making and removing one cgroup below the machine's root. Must not: move any process that the lab did not
//! start.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where cgroup2 is mounted: found, since hybrid machines have it elsewhere than /sys/fs/cgroup.
///
/// # Errors
/// When it is not mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("cgroup2 is mounted nowhere")
}

/// A cgroup that is removed with this value.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup below the root.
    ///
    /// # Errors
    /// Without the right to.
    pub fn new(name: &str) -> Result<Self> {
        let path = root()?.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets a command start inside it.
    ///
    /// # Errors
    /// When its `cgroup.procs` cannot be opened.
    pub fn enter(path: &Path, command: &mut Command) -> Result<()> {
        use std::io::Write as _;
        let procs = fs::OpenOptions::new().write(true).open(path.join("cgroup.procs"))?;
        // SAFETY: between fork and exec the closure makes one write and allocates nothing.
        unsafe {
            command.pre_exec(move || (&procs).write_all(b"0"));
        }
        Ok(())
    }

    /// Removes it and what lies below, deepest first.
    ///
    /// # Errors
    /// While processes are in it.
    pub fn remove(path: &Path) -> Result<()> {
        for child in fs::read_dir(path)?.filter_map(Result::ok).filter(|c| c.path().is_dir()) {
            Self::remove(&child.path())?;
        }
        fs::remove_dir(path).with_context(|| format!("cannot remove cgroup {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just killed stays in its cgroup for a moment.
        let gone = crate::poll::until_true(std::time::Duration::from_secs(5), "an empty cgroup", || {
            !self.path.exists() || Self::remove(&self.path).is_ok()
        });
        if let Err(e) = gone {
            eprintln!("lab: {}: {e:#}", self.path.display());
        }
    }
}
