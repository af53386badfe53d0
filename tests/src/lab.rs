//! The lab itself: makes the namespaces, and takes everything away again, also when a test panics.
//!
//! Owns: life and end of all that a test makes. Must not: know what is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::residue::{self, Identity, PREFIX};
use crate::topology::{self, Options, Tunnels, Uplink};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A small internet. Dropping it removes everything; [`Lab::close`] does so too and says what stayed behind.
#[derive(Debug)]
pub struct Lab {
    /// The mail host.
    pub mail: NetNs,
    /// Routers and receivers.
    pub world: NetNs,
    /// Containers behind the mail host's bridge.
    pub containers: Vec<NetNs>,
    /// What was asked for.
    pub options: Options,
    tunnels: Mutex<Tunnels>,
    dir: PathBuf,
    cgroup: Option<Cgroup>,
}

impl Lab {
    /// Builds one.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks something.
    pub fn new(options: Options) -> Result<Self> {
        residue::sweep()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // From here on Drop cleans up, whatever fails.
        let lab = Self {
            mail: if options.unprivileged { NetNs::unprivileged("mail")? } else { NetNs::new("mail")? },
            world: NetNs::new("world")?,
            containers: (0..options.containers)
                .map(|n| {
                    let name = format!("container{n}");
                    let remapped = n + options.remapped >= options.containers;
                    if remapped { NetNs::unprivileged(&name) } else { NetNs::new(&name) }
                })
                .collect::<Result<_>>()?,
            options,
            tunnels: Mutex::default(),
            dir,
            cgroup: Some(Cgroup::new(&name)?),
        };
        fs::create_dir(lab.bpffs())?;
        mount(Some("mailsteer-lab"), &lab.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpf file system")?;
        *lab.tunnels() = topology::connect(&lab.mail, &lab.world, &options)?;
        topology::contain(&lab.mail, &lab.containers, options.ipv6)?;
        Ok(lab)
    }

    /// A directory of the lab's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its private bpf file system.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The cgroup that stands for the mail host's root cgroup.
    ///
    /// # Errors
    /// After the lab was closed.
    pub fn cgroup(&self) -> Result<&Path> {
        self.cgroup.as_ref().map(Cgroup::path).context("the lab is closed")
    }

    /// A command on the mail host: in its network and its cgroup.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn mail_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = self.mail.command(program);
        Cgroup::enter(self.cgroup()?, &mut command)?;
        Ok(command)
    }

    /// Lets `work` have container `n` for the mail host: what it starts there runs in the container.
    pub fn inside<T>(&mut self, n: usize, work: impl FnOnce(&Self) -> T) -> T {
        std::mem::swap(&mut self.mail, &mut self.containers[n]);
        let done = work(self);
        std::mem::swap(&mut self.mail, &mut self.containers[n]);
        done
    }

    /// Hangs up a point-to-point uplink: its interface is gone, at both ends.
    pub fn hang_up(&self, uplink: &Uplink) {
        drop(self.tunnels().remove(uplink.interface));
    }

    /// Dials it again: an interface of the same name and another number, which is down and has nothing yet.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn dial(&self, uplink: &Uplink) -> Result<()> {
        let tunnel = topology::dial(&self.mail, &self.world, uplink, &self.options)?;
        self.tunnels().insert(uplink.interface, tunnel);
        Ok(())
    }

    fn tunnels(&self) -> MutexGuard<'_, Tunnels> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By what leftovers would be known.
    ///
    /// # Errors
    /// After the lab was closed.
    pub fn identity(&self) -> Result<Identity> {
        let namespaces: BTreeSet<u64> =
            [&self.mail, &self.world].into_iter().chain(&self.containers).map(NetNs::inode).collect();
        Ok(Identity { namespaces, dir: self.dir.clone(), cgroup: self.cgroup()?.to_owned() })
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When anything stays behind: the error lists it.
    pub fn close(self) -> Result<()> {
        let identity = self.identity()?;
        drop(self);
        let left = identity.leftovers()?;
        if !left.is_empty() {
            bail!("left behind:\n  {}", left.join("\n  "));
        }
        Ok(())
    }

    fn tear_down(&mut self) -> Result<()> {
        if self.cgroup.is_some() {
            self.identity()?.end_processes()?;
        }
        // Pins go with their file system, and with them every program that is attached by a pinned link.
        residue::remove_dir(&self.dir)?;
        self.cgroup = None;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(e) = self.tear_down() {
            eprintln!("lab: cannot tear down: {e:#}");
        }
    }
}
