//! Debian's OpenSMTPD, in the foreground: there it can log to a file.
//!
//! Owns: which packages it takes, its config, its life, its log and queue. Must not: know how an instance is mounted.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instance::{Files, Instance};
use super::{HOSTNAME, MAIL_LOG, Mta, SUBMIT, TAGS};
use crate::lab::Lab;
use crate::{exec, packages, poll, recipes};

/// OpenSMTPD, and what it links to that a bare Debian may lack.
const PACKAGES: [&str; 3] = ["opensmtpd", "libevent-2.1-7", "libssl3"];
/// The user, and its group, that owns the queue.
const QUEUE: (&str, u32) = ("opensmtpq", 20_122);
const LOG: &str = "var/log/smtpd.log";

/// A running OpenSMTPD.
#[derive(Debug)]
pub struct OpenSmtpd {
    instance: Instance,
    child: Child,
    log: &'static str,
}

impl Mta for OpenSmtpd {
    const NAME: &'static str = "OpenSMTPD";
    const UID: u32 = 20_121;

    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self> {
        Self::run(lab, files(lab, &by_recipient(marketing))?, false)
    }

    fn start_by_recipe(lab: &Lab) -> Result<Self> {
        Self::run(lab, files(lab, &recipes::config("/etc/smtpd.conf")?)?, false)
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn queue(&self) -> Result<Vec<String>> {
        Ok(self.smtpctl(&["show", "queue"])?.lines().map(str::to_owned).collect())
    }

    fn run_queue(&self) -> Result<()> {
        self.smtpctl(&["schedule", "all"]).map(drop)
    }

    fn log(&self) -> Result<String> {
        self.instance.read(self.log)
    }

    fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        poll::until(Duration::from_secs(20), "the end of smtpd", || Ok(self.child.try_wait()?)).map(drop)
    }
}

impl OpenSmtpd {
    /// With rsyslog, as its package has it.
    ///
    /// # Errors
    /// As [`Mta::start`].
    pub fn start_with_syslog(lab: &Lab) -> Result<Self> {
        Self::run(lab, files(lab, &by_recipient(&[]))?.log_by_syslog()?, true)
    }

    /// Its package's script gives smtpctl this group and the bit that makes it take it.
    fn smtpctl(&self, args: &[&str]) -> Result<String> {
        exec::output(self.instance.command(&[&["smtpctl"], args].concat())?.gid(QUEUE.1))
    }

    fn run(lab: &Lab, files: Files, by_syslog: bool) -> Result<Self> {
        let log = File::create(files.path(LOG))?;
        let instance = files.mount(lab)?;
        let mut command = instance.command(&["smtpd", if by_syslog { "-F" } else { "-d" }])?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start smtpd")?;
        let started = Self { child, instance, log: if by_syslog { MAIL_LOG } else { LOG } };
        let ready = started.instance.wait_ready(Duration::from_secs(20));
        let said = || started.instance.read(LOG).unwrap_or_default() + &started.log().unwrap_or_default();
        ready.map_err(|e| e.context(said()))?;
        Ok(started)
    }
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where its unpacked files are.
pub(super) fn unpack() -> Result<PathBuf> {
    packages::unpack("opensmtpd", &PACKAGES)
}

/// What the package's script would make, the lab's names, and these actions and matches.
fn files(lab: &Lab, config: &str) -> Result<Files> {
    let packages = unpack()?;
    let files = Files::new(lab, "opensmtpd", &packages, &[("opensmtpd", OpenSmtpd::UID), QUEUE], &[])?;
    files.make("var/lib/opensmtpd/empty")?;
    files.write("etc/mailname", &format!("{HOSTNAME}\n"))?;
    files.write("etc/aliases", "postmaster: root\n")?;
    let listen = SUBMIT.replace(':', " port ");
    files.write("etc/smtpd.conf", &format!("listen on {listen}\n{config}"))?;
    Ok(files)
}

/// Marketing is what goes to these domains.
fn by_recipient(marketing: &[&str]) -> String {
    let quoted =
        |names: &[&str]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    // A tag of each family has an action of its own. Over a list of both, smtpd goes by turns whatever it delivers to:
    // it defers a message that twice in a row gets the family that its receiver has not (`mta_on_source`, 6.8.0).
    let (six, four): (Vec<&str>, Vec<&str>) = marketing.iter().partition(|name| name.contains("v6"));
    let [tag4, tag6] = TAGS;
    let mut config = "action \"relay\" relay\n".to_owned();
    for (family, tag, domains) in [(4, tag4, four), (6, tag6, six)].iter().filter(|one| !one.2.is_empty()) {
        config += &format!(
            "action \"marketing{family}\" relay src {tag}\nmatch from local for domain {{ {} }} action \"marketing{family}\"\n",
            quoted(domains)
        );
    }
    config + "match from local for any action \"relay\"\n"
}
