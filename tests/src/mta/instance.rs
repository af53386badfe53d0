//! One instance: its /etc and /var as layers over the machine's, its own /run, in a mount namespace of its own.
//!
//! Owns: those files and that namespace, and running commands in it. Must not: know which MTA it is.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::submit::{self, Envelope, Pace, Submitting};
use super::syslog::{SOCKET, Syslog};
use super::{HOSTNAME, SUBMIT};
use crate::cgroup::Cgroup;
use crate::exec;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::poll;
use crate::topology::DNS;

/// Where a host's resolver looks.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n";

/// The files of an instance that is not mounted yet.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    packages: PathBuf,
    syslog: Option<Syslog>,
}

/// An instance that commands can be run in.
#[derive(Debug)]
pub struct Instance {
    ns: NetNs,
    dir: PathBuf,
    mounts: File,
    cgroup: PathBuf,
    /// Ends with the instance.
    _syslog: Option<Syslog>,
}

impl Files {
    /// Those of an instance of this name, over what is unpacked at `packages`, with these users and groups.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn new(
        lab: &Lab,
        name: &str,
        packages: &Path,
        users: &[(&str, u32)],
        groups: &[(&str, u32)],
    ) -> Result<Self> {
        let files = Self { dir: lab.dir().join(name), packages: packages.to_owned(), syslog: None };
        for made in ["etc", "etc.work", "var/log", "var.work", "run", "dev", "dev.work"] {
            files.make(made)?;
        }
        // The lab's directory is in the way of the MTA's own user.
        for open in [&*files.dir, lab.dir()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        let passwd =
            users.iter().map(|(name, id)| format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"));
        files.write("etc/passwd", &(fs::read_to_string("/etc/passwd")? + &passwd.collect::<String>()))?;
        let group = users.iter().chain(groups).map(|(name, id)| format!("{name}:x:{id}:\n"));
        files.write("etc/group", &(fs::read_to_string("/etc/group")? + &group.collect::<String>()))?;
        files.resolver("etc")?;
        symlink(Path::new("/").join(SOCKET), files.path("dev/log"))?;
        Ok(files)
    }

    /// What is needed to find names, in this directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn resolver(&self, etc: &str) -> Result<()> {
        let services = fs::read_to_string("/etc/services")
            .unwrap_or_else(|_| "smtp 25/tcp\nsubmission 587/tcp\ndomain 53/udp\n".into());
        self.write(&format!("{etc}/services"), &services)?;
        self.write(&format!("{etc}/resolv.conf"), &format!("nameserver {DNS}\noptions timeout:2\n"))?;
        self.write(&format!("{etc}/nsswitch.conf"), NSSWITCH)?;
        // As Debian's installer writes it: without its host's own full name, sendmail sleeps for a minute.
        let own = fs::read_to_string("/proc/sys/kernel/hostname")?;
        self.write(
            &format!("{etc}/hosts"),
            &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {HOSTNAME} {own}"),
        )
    }

    /// A path of the instance's, without the first slash, as it is outside.
    #[must_use]
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.join(inside)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn make(&self, inside: &str) -> Result<()> {
        Ok(fs::create_dir_all(self.path(inside))?)
    }

    /// Makes a directory that belongs to a user and its group.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn make_for(&self, inside: &str, id: u32) -> Result<()> {
        self.make(inside)?;
        Ok(chown(self.path(inside), Some(id), Some(id))?)
    }

    /// Writes a file, and its directory where that is not there.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn write(&self, inside: &str, text: &str) -> Result<()> {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds to a file's end.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn add(&self, inside: &str, text: &str) -> Result<()> {
        self.write(inside, &(fs::read_to_string(self.path(inside))? + text))
    }

    /// Copies a directory of the packages' /etc.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn copy_etc(&self, name: &str) -> Result<()> {
        let from = self.packages.join("etc").join(name);
        exec::output(Command::new("cp").arg("-a").arg(from).arg(self.path("etc"))).map(drop)
    }

    /// Starts rsyslog, and lets what is said to /dev/log come to it.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn log_by_syslog(mut self) -> Result<Self> {
        self.syslog = Some(Syslog::start(&self.dir)?);
        Ok(self)
    }

    /// A mount namespace that shows the files at their stock places.
    ///
    /// One for all commands: two overlays over the same files would not see each other's locks.
    ///
    /// # Errors
    /// When a layer cannot be mounted.
    pub(crate) fn mount(self, lab: &Lab) -> Result<Instance> {
        let layers = [
            ("/usr", format!("lowerdir={}:/usr", self.packages.join("usr").display())),
            ("/etc", self.layer("etc")),
            ("/var", self.layer("var")),
            ("/dev", self.layer("dev")),
        ];
        let run = self.path("run");
        let mounts = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<File> {
                    // Takes this thread's view of the file system apart from the process's.
                    unshare(CloneFlags::CLONE_NEWNS)?;
                    let none = None::<&str>;
                    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
                    for (at, options) in &layers {
                        mount(
                            Some("overlay"),
                            *at,
                            Some("overlay"),
                            MsFlags::empty(),
                            Some(options.as_str()),
                        )
                        .with_context(|| format!("an overlay over {at}"))?;
                    }
                    mount(Some(&run), "/run", none, MsFlags::MS_BIND, none).context("an own /run")?;
                    Ok(File::open("/proc/thread-self/ns/mnt")?)
                })
                .join()
                .map_err(|_| anyhow!("the thread that mounts panicked"))?
        })?;
        Ok(Instance {
            ns: lab.mail.clone(),
            dir: self.dir,
            mounts,
            cgroup: lab.cgroup()?.to_owned(),
            _syslog: self.syslog,
        })
    }

    fn layer(&self, name: &str) -> String {
        let upper = self.path(name);
        format!("lowerdir=/{name},upperdir={},workdir={}.work", upper.display(), upper.display())
    }
}

impl Instance {
    /// A command in it: on the mail host's network, in its cgroup.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        self.command_in("", args)
    }

    /// The same in a cgroup below that of the mail host, such as a unit's, which is made where it is not there.
    ///
    /// # Errors
    /// When the cgroup is gone, or cannot be made.
    pub fn command_in(&self, cgroup: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.ns.command("/usr/bin/env");
        command.args(args);
        let cgroup = self.cgroup.join(cgroup);
        fs::create_dir_all(&cgroup)?;
        Cgroup::enter(&cgroup, &mut command)?;
        let mounts = self.mounts.try_clone()?;
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(&mounts, CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from));
        }
        Ok(command)
    }

    /// Runs one of its programs as its administrator would.
    ///
    /// # Errors
    /// When it fails.
    pub fn tool(&self, args: &[&str]) -> Result<String> {
        exec::output(&mut self.command(args)?)
    }

    /// A file that it wrote, without the first slash.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, inside: &str) -> Result<String> {
        let path = self.dir.join(inside);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Hands in `count` messages over one connection, message `n` to the recipient `to(n)`.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn submit(&self, count: usize, to: impl Fn(usize) -> String + Sync) -> Result<()> {
        self.submit_to(SUBMIT, count, |n| to(n).into())
    }

    /// The same at another address, with a sender for each message.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn submit_to(
        &self,
        at: &str,
        count: usize,
        envelope: impl Fn(usize) -> Envelope + Sync,
    ) -> Result<()> {
        submit::at_once(&self.ns, at, count, envelope)
    }

    /// Starts to hand in messages at a pace, message `n` to the recipient `to(n)`.
    ///
    /// # Errors
    /// When a session's thread cannot be started.
    pub fn submit_at(
        &self,
        pace: Pace,
        to: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Result<Submitting> {
        submit::at(&self.ns, pace, to)
    }

    /// Waits until it takes messages.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        self.wait_ready_at(SUBMIT, within)
    }

    /// The same at another address.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready_at(&self, at: &str, within: Duration) -> Result<()> {
        let ready = || self.submit_to(at, 0, |_| String::new().into()).is_ok();
        poll::until_true(within, &format!("the MTA to answer at {at}"), ready)
    }

    /// Tells the daemon whose process id is in this file, without the first slash, to end, as its init script does.
    ///
    /// # Errors
    /// When it had ended.
    pub(crate) fn tell_to_end(&self, pid_file: &str) -> Result<()> {
        let pid = self.read(pid_file)?;
        // What follows in the file's other lines is the command.
        let pid = pid.lines().next().unwrap_or_default().trim().parse()?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("the MTA had ended already")
    }

    /// The same, for the daemon that takes messages, and waits until it takes no more.
    ///
    /// # Errors
    /// When it goes on.
    pub(crate) fn terminate(&self, pid_file: &str) -> Result<()> {
        self.tell_to_end(pid_file)?;
        poll::until_true(Duration::from_secs(20), "the MTA's end", || {
            self.submit(0, |_| String::new()).is_err()
        })
    }
}
