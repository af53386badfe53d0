//! Debian's sendmail: two daemons, as it binds one address of a family for all that it sends.
//!
//! Owns: which packages it takes, its configs, its life, its logs and queues. Must not: know how an instance is mounted.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use super::instance::{Files, Instance};
use super::{HOSTNAME, MAIL_LOG, MARKETING_NAME, Mta, SUBMIT};
use crate::lab::Lab;
use crate::{exec, packages, recipes};

/// sendmail, what makes its config, and what it links to that a bare Debian may lack.
const PACKAGES: [&str; 12] = [
    "sendmail-bin",
    "sendmail-base",
    "sendmail-cf",
    "m4",
    "libdb5.3",
    "libldap-2.5-0",
    "libnsl2",
    "libsasl2-2",
    "libsigsegv2",
    "libssl3",
    "libtirpc3",
    "libwrap0",
];
/// Its users, and their groups.
const USERS: [(&str, u32); 2] = [("smmta", 20_131), ("smmsp", 20_132)];
/// Where the package has it; what is in /usr/sbin is made by its script.
const PROGRAM: &str = "/usr/libexec/sendmail/sendmail";
/// The daemons: that of all mail, and that of marketing, by the names of their files.
const DAEMONS: [&str; 2] = ["sendmail", "marketing"];
/// Where the first hands marketing on to the second.
const HANDED_ON: &str = "127.0.0.1:2526";
/// What a queue run ends with where all of it was tried, and a receiver had something against the last message: no such user
/// or host, not now, not so (EX_DATAERR to EX_UNAVAILABLE, EX_TEMPFAIL and EX_PROTOCOL; sysexits.h).
const TRIED: [i32; 7] = [65, 66, 67, 68, 69, 75, 76];
/// Load averages at which it would defer and refuse: the machine may be busy with other things.
const BUSY: &str = "define(`confQUEUE_LA', `1000')dnl\ndefine(`confREFUSE_LA', `1000')dnl\n";
/// Where the second daemon's own lines begin, and the first's recipe goes.
const MAILERS: &str = "MAILER_DEFINITIONS\n";

/// The first daemon's config, without the first slash.
const CONFIG: &str = "etc/mail/sendmail.mc";

/// What its package's script takes in, unless told otherwise.
const NO_HOST_STATUS: &str = "undefine(`confHOST_STATUS_DIRECTORY')dnl";

/// A running sendmail.
#[derive(Debug)]
pub struct Sendmail {
    instance: Instance,
    /// Whether it logs to syslog, and not to files.
    by_syslog: bool,
}

impl Mta for Sendmail {
    const NAME: &'static str = "sendmail";
    /// Its daemons connect as root.
    const UID: u32 = 0;
    const EHLO: [&'static str; 2] = [HOSTNAME, MARKETING_NAME];

    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self> {
        Self::up(Self { instance: files(lab, marketing)?.mount(lab)?, by_syslog: false })
    }

    fn start_by_recipe(lab: &Lab) -> Result<Self> {
        Self::start(lab, &[])
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn queue(&self) -> Result<Vec<String>> {
        let mut queued = Vec::new();
        for daemon in DAEMONS {
            let listing = self.run(daemon, &["-bp"])?;
            // A message's own line begins with its id; all others with a blank, a slash or a dash.
            let ids = listing.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()));
            queued.extend(ids.map(str::to_owned));
        }
        Ok(queued)
    }

    /// One process sends it all, and keeps connections.
    fn run_queue(&self) -> Result<()> {
        let ended = self.command(DAEMONS[0], &["-qf"])?.stdin(Stdio::null()).output()?;
        if !ended.status.success() && !ended.status.code().is_some_and(|code| TRIED.contains(&code)) {
            bail!("sendmail -qf: {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    }

    fn log(&self) -> Result<String> {
        if self.by_syslog {
            return self.instance.read(MAIL_LOG);
        }
        DAEMONS.iter().map(|daemon| self.instance.read(&log(daemon))).collect()
    }

    fn stop(self) -> Result<()> {
        let [all, marketing] = DAEMONS.map(|daemon| format!("run/sendmail/mta/{daemon}.pid"));
        self.instance.tell_to_end(&marketing)?;
        self.instance.terminate(&all)
    }
}

impl Sendmail {
    /// With rsyslog, as its package has it.
    ///
    /// # Errors
    /// As [`Mta::start`].
    pub fn start_with_syslog(lab: &Lab) -> Result<Self> {
        Self::up(Self { instance: files(lab, &[])?.log_by_syslog()?.mount(lab)?, by_syslog: true })
    }

    /// The same, and it delivers nothing before it is told to run its queue.
    ///
    /// # Errors
    /// As [`Mta::start`].
    pub fn start_queueing(lab: &Lab) -> Result<Self> {
        let files = files(lab, &[])?;
        let config = fs::read_to_string(files.path(CONFIG))?;
        let queueing = "define(`confDELIVERY_MODE', `queueonly')dnl\n";
        files.write(CONFIG, &config.replacen(MAILERS, &format!("{queueing}{MAILERS}"), 1))?;
        Self::up(Self { instance: files.log_by_syslog()?.mount(lab)?, by_syslog: true })
    }

    fn up(sendmail: Self) -> Result<Self> {
        // makemap reads the config.
        for daemon in DAEMONS {
            let make = format!("m4 /etc/mail/{daemon}.mc >/etc/mail/{daemon}.cf");
            sendmail.instance.tool(&["sh", "-c", &make])?;
        }
        for map in ["access", "mailertable"] {
            let make = format!("makemap hash /etc/mail/{map} </etc/mail/{map}");
            sendmail.instance.tool(&["sh", "-c", &make])?;
        }
        for daemon in DAEMONS {
            let started = sendmail.run(daemon, &["-bd", "-q30m"]);
            started.map_err(|e| e.context(sendmail.log().unwrap_or_default()))?;
        }
        for at in [SUBMIT, HANDED_ON] {
            let ready = sendmail.instance.wait_ready_at(at, Duration::from_secs(20));
            ready.map_err(|e| e.context(sendmail.log().unwrap_or_default()))?;
        }
        Ok(sendmail)
    }

    /// Runs one of the daemons' program with its config.
    fn run(&self, daemon: &str, args: &[&str]) -> Result<String> {
        exec::output(&mut self.command(daemon, args)?)
    }

    /// The same, not run yet. Where there is no syslog, what would go there goes to a file.
    fn command(&self, daemon: &str, args: &[&str]) -> Result<Command> {
        let (config, log) = (format!("-C/etc/mail/{daemon}.cf"), format!("/{}", log(daemon)));
        let own: &[&str] = if self.by_syslog { &[] } else { &["-D", &log, "-d89.8"] };
        self.instance.command(&[&[PROGRAM], own, &[&config], args].concat())
    }
}

fn log(daemon: &str) -> String {
    format!("var/log/{daemon}.log")
}

/// Where its unpacked files are.
pub(super) fn unpack() -> Result<PathBuf> {
    packages::unpack("sendmail", &PACKAGES)
}

/// What the packages' scripts would make, and the lab's names and routes.
fn files(lab: &Lab, marketing: &[&str]) -> Result<Files> {
    let packages = unpack()?;
    let files = Files::new(lab, "sendmail", &packages, &USERS, &[])?;
    files.copy_etc("mail")?;
    let [(_, mta), _] = USERS;
    for made in ["run/sendmail/mta", "var/spool/mqueue", "var/spool/mqueue-marketing", "var/lib/sendmail"] {
        files.make_for(made, mta)?;
    }
    for empty in
        ["m4/dialup.m4", "m4/provider.m4", "local-host-names", "relay-domains", "trusted-users", "aliases"]
    {
        files.write(&format!("etc/mail/{empty}"), "")?;
    }
    let access = packages.join("usr/share/sendmail/examples/db/access");
    files.write("etc/mail/access", &fs::read_to_string(access)?)?;
    let routes: String = marketing.iter().map(|name| format!("{name}\trelay:[127.0.0.1]\n")).collect();
    files.write("etc/mail/mailertable", &routes)?;
    let stock = fs::read_to_string(packages.join("usr/share/sendmail/cf/debian/sendmail.mc"))?;
    let (_, port) = SUBMIT.split_once(':').unwrap_or_default();
    let main = stock.replace(&format!("dnl {NO_HOST_STATUS}"), NO_HOST_STATUS);
    let main = main.replace("Name=MTA-v4, Port=smtp", &format!("Name=MTA-v4, Port={port}"));
    files.write(
        CONFIG,
        &main.replacen(MAILERS, &format!("{BUSY}{}{MAILERS}", recipes::config("/etc/mail/sendmail.mc")?), 1),
    )?;
    files.write(
        "etc/mail/marketing.mc",
        &recipes::config("/etc/mail/marketing.mc")?.replacen(MAILERS, &format!("{BUSY}{MAILERS}"), 1),
    )?;
    Ok(files)
}
