//! A bare Debian in a folder, and our package to install in it.
//!
//! Owns: making both, and entering the one in a lab's network. Must not: install anything on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::cgroup::Cgroup;
use crate::exec;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::poll;
use crate::unit::Unit;

/// What the package depends on is in it, so that dpkg needs no network.
const INCLUDED: &str = "--include=nftables,adduser";
/// How long the agent may take until mail leaves as it should.
const READY: Duration = Duration::from_secs(20);
/// Where the agent that a test starts writes what systemd would give to the journal.
const LOG: &str = "/var/log/mailsteer-test.log";

/// A root of its own below the lab's folder: it goes with the lab.
#[derive(Debug)]
pub struct Debian {
    network: NetNs,
    cgroup: PathBuf,
    root: PathBuf,
}

impl Debian {
    /// A fresh one, with what a host has at /proc and /sys: of the lab are the network, the bpf file system, the cgroup.
    ///
    /// # Errors
    /// When debootstrap fails, or a mount does.
    pub fn new(lab: &Lab) -> Result<Self> {
        let root = lab.dir().join("root");
        exec::output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(bootstrapped()?).arg(&root))?;
        mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), None::<&str>)?;
        // The network of the namespace in which it is mounted shows in it.
        let sys = root.join("sys");
        lab.mail.run(|| mount(Some("sysfs"), &sys, Some("sysfs"), MsFlags::MS_RDONLY, None::<&str>))??;
        for (from, to) in [(lab.bpffs(), "sys/fs/bpf"), (lab.cgroup()?.to_owned(), "sys/fs/cgroup")] {
            let to = root.join(to);
            mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot mount {}", to.display()))?;
        }
        Ok(Self { network: lab.mail.clone(), cgroup: lab.cgroup()?.to_owned(), root })
    }

    /// A path inside, as it is outside.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A command inside, in the mail host's network.
    ///
    /// # Errors
    /// When the lab's cgroup is gone.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.network.command("chroot");
        Cgroup::enter(&self.cgroup, &mut command)?;
        command.arg(&self.root).arg(program).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a program of it to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        Ok(self.command(program)?.args(args).output()?)
    }

    /// dpkg, and what it and the maintainer scripts said.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn dpkg(&self, args: &[&str]) -> Result<String> {
        let output = self.run("dpkg", args)?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("dpkg {args:?}: {}: {said}", output.status);
        }
        Ok(said)
    }

    /// Installs a package file.
    ///
    /// # Errors
    /// As [`Debian::dpkg`].
    pub fn install(&self, package: &Path) -> Result<String> {
        fs::copy(package, self.path("/root/package.deb"))?;
        let said = self.dpkg(&["--install", "/root/package.deb"]);
        fs::remove_file(self.path("/root/package.deb"))?;
        said
    }

    /// Starts the agent as the unit would: the folders that it needs, its user, its capabilities.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&self) -> Result<Child> {
        let folders = ["/sys/fs/bpf/mailsteer", "/var/lib/mailsteer", "/run/mailsteer"];
        let made =
            self.run("install", &[&["-d", "-o", "mailsteer", "-g", "mailsteer"], &folders[..]].concat())?;
        if !made.status.success() {
            bail!("install: {}", String::from_utf8_lossy(&made.stderr));
        }
        let unit = Unit::read("mailsteer.service")?;
        let capabilities = unit.words("AmbientCapabilities");
        let names = capabilities.iter().map(|word| word.trim_start_matches("CAP_").to_ascii_lowercase());
        let only = names.fold("-all".to_owned(), |all, one| format!("{all},+{one}"));
        let mut command = self.command("setpriv")?;
        command.envs(unit.values("Environment").filter_map(|setting| setting.split_once('=')));
        command.args(["--reuid=mailsteer", "--regid=mailsteer", "--init-groups", "--no-new-privs"]);
        command.args(["--inh-caps", "--ambient-caps", "--bounding-set"].map(|set| format!("{set}={only}")));
        command.args(["mailsteer", "agent", "--config", "/etc/mailsteer/mailsteer.toml"]);
        let log = fs::File::options().create(true).append(true).open(self.path(LOG))?;
        Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// Starts the agent and waits, as its unit does, until mail leaves as it should.
    ///
    /// # Errors
    /// When it ends or is not ready in time: the error holds what it wrote.
    pub fn started_agent(&self) -> Result<Child> {
        let mut agent = self.start_agent()?;
        let ready = poll::until(READY, "mail to leave as it should", || {
            if let Some(status) = agent.try_wait()? {
                bail!("the agent ended: {status}");
            }
            let well = self.run("mailsteer", &["status"])?.status.code().is_some_and(|code| code < 2);
            Ok(well.then_some(()))
        });
        ready.map_err(|e| e.context(self.log().unwrap_or_default()))?;
        Ok(agent)
    }

    /// What the agents have written so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path(LOG))?)
    }

    /// Removes what this test put there beside the package.
    ///
    /// # Errors
    /// When no agent was started.
    pub fn remove_log(&self) -> Result<()> {
        Ok(fs::remove_file(self.path(LOG))?)
    }
}

/// The bare root, made once below `target`.
fn bootstrapped() -> Result<PathBuf> {
    let cache = workspace().join("target/debootstrap");
    let root = cache.join("bookworm");
    if root.is_dir() {
        return Ok(root);
    }
    fs::create_dir_all(&cache)?;
    let fresh = tempfile::tempdir_in(&cache)?;
    let made = fresh.path().join("root");
    exec::output(Command::new("debootstrap").args(["--variant=minbase", INCLUDED, "bookworm"]).arg(&made))
        .context("cannot make a bare Debian: `cargo xtask setup` installs debootstrap")?;
    // Complete or not there.
    fs::rename(&made, &root)?;
    Ok(root)
}

/// Our package with this version, from the debug build.
///
/// # Errors
/// When `cargo xtask deb` fails; the error holds what it said.
pub fn package(version: &str) -> Result<PathBuf> {
    let recipe = ["run", "--quiet", "--locked", "--package", "xtask", "--", "deb", "--debug-build"];
    let mut command = Command::new(std::env::var_os("CARGO").context("run it with cargo")?);
    let said =
        exec::output(command.args(recipe).args(["--package-version", version]).current_dir(workspace()))?;
    let path = said.lines().last().map(PathBuf::from).context("xtask deb said nothing")?;
    if !path.is_file() {
        bail!("xtask deb said {said:?}");
    }
    Ok(path)
}

pub(crate) fn workspace() -> PathBuf {
    Unit::folder().join("..")
}
