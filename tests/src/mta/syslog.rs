//! Debian's rsyslog, listening where an instance's /dev/log leads.
//!
//! Owns: that process and the two files that it writes: as Debian 12 has them, to the microsecond, and as releases before it (and
//! `RSYSLOG_TraditionalFileFormat`) do, in whole seconds. Must not: know who logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{packages, poll};

/// rsyslog, and what it links to that a bare Debian may lack.
const PACKAGES: [&str; 4] = ["rsyslog", "libestr0", "libfastjson4", "liblognorm5"];
/// Where an instance's /dev/log leads, without the first slash.
pub(super) const SOCKET: &str = "run/log-socket";
/// The log as Debian 12 has it.
pub const MAIL_LOG: &str = "var/log/mail.log";
/// The same in whole seconds.
pub const MAIL_LOG_SECONDS: &str = "var/log/mail.seconds.log";

/// Where its unpacked files are.
pub(super) fn unpack() -> Result<PathBuf> {
    packages::unpack("rsyslog", &PACKAGES)
}

/// The running daemon; dropping it ends it.
#[derive(Debug)]
pub(super) struct Syslog(Child);

impl Syslog {
    /// Starts it for the instance in this directory, and waits until it listens.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let root = unpack()?;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let (work, config) = (dir.join("rsyslog"), dir.join("rsyslog.conf"));
        fs::create_dir_all(&work)?;
        fs::write(&config, self::config(dir, &work))?;
        let mut command = Command::new(root.join("usr/sbin/rsyslogd"));
        command.env("LD_LIBRARY_PATH", &libraries).args(["-n", "-i"]).arg(work.join("pid"));
        command.arg("-M").arg(libraries.join("rsyslog")).arg("-f").arg(&config).stdin(Stdio::null());
        let child = command.spawn().context("cannot start rsyslogd")?;
        let started = Self(child);
        let socket: PathBuf = dir.join(SOCKET);
        poll::until_true(Duration::from_secs(20), "rsyslog's socket", || socket.exists())?;
        Ok(started)
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What Debian's own config has for mail; its other inputs and files would be the machine's.
fn config(dir: &Path, work: &Path) -> String {
    let at = |inside: &str| dir.join(inside).display().to_string();
    format!(
        "global(workDirectory=\"{}\")
module(load=\"imuxsock\" SysSock.Use=\"off\")
input(type=\"imuxsock\" Socket=\"{}\")
mail.* action(type=\"omfile\" file=\"{}\")
mail.* action(type=\"omfile\" file=\"{}\" template=\"RSYSLOG_TraditionalFileFormat\")
",
        work.display(),
        at(SOCKET),
        at(MAIL_LOG),
        at(MAIL_LOG_SECONDS)
    )
}
