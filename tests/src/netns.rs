//! A network namespace held by an open file: no name under /run/netns, so it ends with the process that made it. It may
//! belong to a user namespace of its own, whose root is nobody outside, as in a container of unprivileged hosting.
//!
//! Owns: entering it, on a thread or in a child. Must not: change any other namespace. Only the network is
//! entered: `ip netns exec` would also mount a new /sys, which hides the cgroup and bpf file systems.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::exec;

/// A network namespace of ours.
#[derive(Clone, Debug)]
pub struct NetNs {
    name: String,
    file: Arc<File>,
    inode: u64,
    /// The user namespace that owns it, where that is not the machine's.
    owner: Option<Arc<File>>,
}

/// The machine's number of the user that an own user namespace calls root; the others follow it, as LXC has them.
pub const OUTSIDE: u32 = 100_000;

impl NetNs {
    /// Makes one, with `lo` up. The name serves messages only.
    ///
    /// # Errors
    /// Without the right to (root), or when `ip` fails.
    pub fn new(name: &str) -> Result<Self> {
        let file = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<File> {
                    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
                    Ok(File::open("/proc/thread-self/ns/net")?)
                })
                .join()
                .map_err(|_| anyhow!("the thread that makes namespace {name} panicked"))?
        })?;
        let inode = file.metadata()?.ino();
        let ns = Self { name: name.to_owned(), file: Arc::new(file), inode, owner: None };
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// Makes one that a user namespace of its own owns: whoever is root in there has every right over this network, and
    /// none over the machine.
    ///
    /// # Errors
    /// Where the machine has no user namespaces, or without the right to (root).
    pub fn unprivileged(name: &str) -> Result<Self> {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                let own = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
                unshare(own).map_err(std::io::Error::from)
            });
        }
        // It waits for the end of its input, and with that holds both namespaces until they are opened here.
        let mut holder = command.spawn().context("a user namespace (sysctl user.max_user_namespaces)")?;
        let proc = PathBuf::from(format!("/proc/{}", holder.id()));
        let opened = || -> Result<(File, File)> {
            for map in ["uid_map", "gid_map"] {
                std::fs::write(proc.join(map), format!("0 {OUTSIDE} 65536"))?;
            }
            Ok((File::open(proc.join("ns/net"))?, File::open(proc.join("ns/user"))?))
        };
        let opened = opened();
        drop(holder.stdin.take());
        holder.wait()?;
        let (file, owner) = opened.context("a user namespace of its own")?;
        let inode = file.metadata()?.ino();
        let ns = Self { name: name.to_owned(), file: Arc::new(file), inode, owner: Some(Arc::new(owner)) };
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// Whether its root is nobody outside.
    #[must_use]
    pub const fn is_unprivileged(&self) -> bool {
        self.owner.is_some()
    }

    /// The machine's number of a user of this namespace.
    #[must_use]
    pub const fn uid(&self, inside: u32) -> u32 {
        if self.owner.is_some() { OUTSIDE + inside } else { inside }
    }

    /// Lets a command of this namespace run as its root: as nobody else than before where the machine owns it. To be
    /// called when everything else that the command does before its start has been said.
    pub fn as_its_root(&self, command: &mut Command) {
        let Some(owner) = self.owner.clone() else { return };
        // SAFETY: between fork and exec the closure makes system calls only and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                setns(&*owner, CloneFlags::CLONE_NEWUSER)?;
                setgroups(&[])?;
                setgid(Gid::from_raw(0))?;
                Ok(setuid(Uid::from_raw(0))?)
            });
        }
    }

    /// The name that messages use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's inode number: its identity in /proc.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// A path that names it while this process lives, as `ip link ... netns PATH` takes it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` inside, on a thread of its own, and returns its answer.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| -> Result<T> {
                    setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("work inside namespace {} panicked", self.name))?
        })
    }

    /// Starts a thread inside that outlives this call.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let ns = Arc::clone(&self.file);
        Ok(thread::Builder::new().name(name.to_owned()).spawn(move || {
            setns(&*ns, CloneFlags::CLONE_NEWNET)?;
            work()
        })?)
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let ns = Arc::clone(&self.file);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(&*ns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from));
        }
        command
    }

    /// Runs lines of shell inside, stopping at the first that fails, and returns what they printed.
    ///
    /// # Errors
    /// When a line fails; the error holds what it said.
    pub fn sh(&self, lines: &str) -> Result<String> {
        exec::output(self.command("/bin/sh").args(["-ec", lines]))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Loads nft commands inside.
    ///
    /// # Errors
    /// When nft does not take them.
    pub fn nft(&self, commands: &str) -> Result<()> {
        exec::output_of(self.command("nft").args(["-f", "-"]), commands)
            .with_context(|| format!("in namespace {}", self.name))
            .map(drop)
    }

    /// Sets a kernel parameter inside, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))?.with_context(|| format!("{key} = {value}"))
    }
}
