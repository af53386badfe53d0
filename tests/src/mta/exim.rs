//! Debian's Exim: `exim4-daemon-light`, configured by `update-exim4.conf` as its administrator would.
//!
//! Owns: which packages it takes, its config, its life, its log and queue. Must not: know how an instance is mounted.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::instance::{Files, Instance};
use super::{HOSTNAME, Mta, SUBMIT, TAGS};
use crate::lab::Lab;
use crate::{packages, recipes};

/// Exim, and what it links to that a bare Debian may lack.
const PACKAGES: [&str; 15] = [
    "exim4-daemon-light",
    "exim4-base",
    "exim4-config",
    "libevent-2.1-7",
    "libgnutls-dane0",
    "libgssapi-krb5-2",
    "libidn12",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libnsl2",
    "libssl3",
    "libtirpc3",
    "libunbound8",
];
/// What debconf would ask, as for "internet site".
const ANSWERS: &str = "dc_eximconfig_configtype='internet'
dc_other_hostnames=''
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='false'
dc_relay_nets=''
dc_smarthost=''
CFILEMODE='644'
dc_use_split_config='true'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
";
/// Where what is not stock goes.
const MACROS: &str = "etc/exim4/conf.d/main/000_localmacros";
const ROUTER: &str = "etc/exim4/conf.d/router/190_marketing";
const TRANSPORT: &str = "etc/exim4/conf.d/transport/31_marketing";
/// Which file holds the daemon's process id.
const PID: &str = "run/exim4/exim.pid";

/// A running Exim.
#[derive(Debug)]
pub struct Exim {
    instance: Instance,
}

impl Mta for Exim {
    const NAME: &'static str = "Exim";
    const UID: u32 = 20_111;

    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self> {
        let files = files(lab)?;
        let domains = marketing.join(" : ");
        let router = format!(
            "marketing:\n  driver = dnslookup\n  domains = {domains}\n  transport = marketing_smtp\n  no_more\n"
        );
        let transport = format!("marketing_smtp:\n  driver = smtp\n  interface = <; {}\n", TAGS.join(" ; "));
        for (name, text) in [(ROUTER, router), (TRANSPORT, transport)] {
            files.write(name, &text)?;
        }
        Self::run(lab, files)
    }

    fn start_by_recipe(lab: &Lab) -> Result<Self> {
        let files = files(lab)?;
        for name in [ROUTER, TRANSPORT] {
            files.write(name, &recipes::config(&format!("/{name}"))?)?;
        }
        files.add(MACROS, &recipes::config(&format!("/{MACROS}"))?)?;
        Self::run(lab, files)
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn queue(&self) -> Result<Vec<String>> {
        let listing = self.instance.tool(&["exim4", "-bpr"])?;
        // A message's own line has its sender; those of its recipients follow.
        Ok(listing.lines().filter(|line| line.contains('<')).map(str::to_owned).collect())
    }

    /// It is looked through first, so that messages for the same receiver go over one connection; what was to wait is tried too.
    fn run_queue(&self) -> Result<()> {
        self.instance.tool(&["exim4", "-qqf"]).map(drop)
    }

    fn log(&self) -> Result<String> {
        self.instance.read("var/log/exim4/mainlog")
    }

    fn stop(self) -> Result<()> {
        self.instance.terminate(PID)
    }
}

impl Exim {
    /// By docs/mta-recipes.md, and it delivers nothing before it is told to run its queue.
    ///
    /// # Errors
    /// As [`Mta::start`].
    pub fn start_queueing(lab: &Lab) -> Result<Self> {
        let files = files(lab)?;
        files.add(MACROS, &(recipes::config(&format!("/{MACROS}"))? + "queue_only = true\n"))?;
        Self::run(lab, files)
    }

    fn run(lab: &Lab, files: Files) -> Result<Self> {
        let exim = Self { instance: files.mount(lab)? };
        exim.instance.tool(&["update-exim4.conf"])?;
        exim.instance.tool(&["exim4", "-bd", "-q30m"])?;
        exim.instance
            .wait_ready(Duration::from_secs(20))
            .map_err(|e| e.context(exim.log().unwrap_or_default()))?;
        Ok(exim)
    }
}

/// Where its unpacked files are.
pub(super) fn unpack() -> Result<PathBuf> {
    packages::unpack("exim", &PACKAGES)
}

/// What the packages' scripts would make, and the lab's names.
fn files(lab: &Lab) -> Result<Files> {
    let packages = unpack()?;
    let files = Files::new(lab, "exim", &packages, &[("Debian-exim", Exim::UID)], &[])?;
    files.copy_etc("exim4")?;
    files.make("var/lib/exim4")?;
    for made in ["run/exim4", "var/log/exim4", "var/spool/exim4"] {
        files.make_for(made, Exim::UID)?;
    }
    for made in ["db", "input", "msglog"] {
        files.make_for(&format!("var/spool/exim4/{made}"), Exim::UID)?;
    }
    files.write("etc/mailname", &format!("{HOSTNAME}\n"))?;
    let submit = SUBMIT.replace(':', ".");
    files.write("etc/exim4/update-exim4.conf.conf", &format!("{ANSWERS}dc_local_interfaces='{submit}'\n"))?;
    // A session of more than ten messages would have the rest wait for the next queue run.
    let main = format!("MAIN_HARDCODE_PRIMARY_HOSTNAME = {HOSTNAME}\nsmtp_accept_queue_per_connection = 0\n");
    files.write(MACROS, &main)?;
    Ok(files)
}
