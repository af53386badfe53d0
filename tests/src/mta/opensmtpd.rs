//! Debian's OpenSMTPD, in the foreground, since it logs to a file only there.
//!
//! Owns: which packages it takes, its config, its life, its log and queue. Must not: know how an instance is mounted.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instance::{Files, Instance};
use super::{HOSTNAME, Mta, SUBMIT, TAGS};
use crate::lab::Lab;
use crate::{packages, poll, recipes};

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
}

impl Mta for OpenSmtpd {
    const NAME: &'static str = "OpenSMTPD";
    const UID: u32 = 20_121;

    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self> {
        Self::run(lab, files(lab, &by_recipient(marketing))?)
    }

    fn start_by_recipe(lab: &Lab) -> Result<Self> {
        Self::run(lab, files(lab, &recipes::config("/etc/smtpd.conf")?)?)
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn queue(&self) -> Result<Vec<String>> {
        // Its package's script gives smtpctl this group and the bit that makes it take it.
        let group = format!("--regid={}", QUEUE.0);
        let listing =
            self.instance.tool(&["setpriv", &group, "--clear-groups", "smtpctl", "show", "queue"])?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    fn log(&self) -> Result<String> {
        self.instance.read(LOG)
    }

    fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        poll::until(Duration::from_secs(20), "the end of smtpd", || Ok(self.child.try_wait()?)).map(drop)
    }
}

impl OpenSmtpd {
    fn run(lab: &Lab, files: Files) -> Result<Self> {
        let log = File::create(files.path(LOG))?;
        let instance = files.mount(lab)?;
        let mut command = instance.command(&["smtpd", "-d"])?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Self { child: command.spawn().context("cannot start smtpd")?, instance };
        let ready = started.instance.wait_ready(Duration::from_secs(20));
        ready.map_err(|e| e.context(started.log().unwrap_or_default()))?;
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

/// What the package's script would make, the lab's names, and these actions and matches.
fn files(lab: &Lab, config: &str) -> Result<Files> {
    let packages = packages::unpack("opensmtpd", &PACKAGES)?;
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
    format!(
        "action \"relay\" relay
action \"marketing4\" relay src {tag4}
action \"marketing6\" relay src {tag6}
match from local for domain {{ {} }} action \"marketing4\"
match from local for domain {{ {} }} action \"marketing6\"
match from local for any action \"relay\"
",
        quoted(&four),
        quoted(&six),
    )
}
