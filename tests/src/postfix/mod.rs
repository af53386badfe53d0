//! A real, unmodified Debian Postfix on the mail host, without installing it.
//!
//! Owns: which packages it takes, its config, its life, its log and queue. Must not: know how an instance is mounted.
//! Its daemons are chrooted as Debian has them, so what is tested is what people run.

mod instance;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::mta::{Instance, Mta, TAGS};
use crate::{packages, poll, recipes};

pub use crate::mta::{Pace, SUBMIT, Submitting};
pub use instance::UID;

/// Postfix, and what it links to that a bare Debian may lack.
const PACKAGES: [&str; 7] =
    ["postfix", "libdb5.3", "libicu72", "libnsl2", "libsasl2-2", "libssl3", "libtirpc3"];

/// Where its unpacked files are.
pub(crate) fn unpack() -> Result<PathBuf> {
    packages::unpack("root", &PACKAGES)
}

/// What is to be different from stock.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines added to main.cf.
    pub main: Vec<String>,
    /// Transports and the addresses that they bind, at most one of each family and a blank between, such as
    /// `marketing` and `198.18.0.2`.
    pub transports: BTreeMap<String, String>,
    /// Which transport a recipient domain takes.
    pub routes: BTreeMap<String, String>,
    /// Whether it logs to syslog, and not to a file of its own.
    pub by_syslog: bool,
    /// What is added to files in /etc/postfix, by name.
    pub files: BTreeMap<String, String>,
}

/// What became of a message, by its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// `postfix/smtp`, or `postfix-<transport>/smtp`.
    pub service: String,
    /// Recipient.
    pub to: String,
    /// `mx.example.org[203.0.113.1]:25`.
    pub relay: String,
    /// `sent`, `deferred` or `bounced`.
    pub status: String,
    /// What stands behind the status.
    pub said: String,
}

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    instance: Instance,
}

impl Postfix {
    /// Unpacks it where that was not done yet, starts it on the mail host, waits until it takes messages.
    ///
    /// # Errors
    /// When the packages cannot be had, or it does not start: the error holds its log.
    pub fn start(lab: &Lab, settings: &Settings) -> Result<Self> {
        let files = instance::files(lab, settings)?;
        let files = if settings.by_syslog { files.log_by_syslog()? } else { files };
        let postfix = Self { instance: files.mount(lab)? };
        postfix.tool(&["postfix", "start"]).map_err(|e| e.context(postfix.log().unwrap_or_default()))?;
        poll::until_true(Duration::from_secs(20), "Postfix to answer", || {
            postfix.submit(0, |_| String::new()).is_ok()
        })
        .map_err(|e| e.context(postfix.log().unwrap_or_default()))?;
        Ok(postfix)
    }

    /// Hands in `count` messages over one connection, message `n` to the recipient `to(n)`.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn submit(&self, count: usize, to: impl Fn(usize) -> String + Sync) -> Result<()> {
        self.instance.submit(count, to)
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
        self.instance.submit_at(pace, to)
    }

    /// Its log so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        self.instance.read("var/log/mail.log")
    }

    /// Every delivery attempt in the log, in its order.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn deliveries(&self) -> Result<Vec<Delivery>> {
        Ok(self.log()?.lines().filter_map(Delivery::parse).collect())
    }

    /// Waits until `count` messages were sent.
    ///
    /// # Errors
    /// When they were not within the time; the error holds what was deferred.
    pub fn wait_sent(&self, count: usize, within: Duration) -> Result<()> {
        poll::until(within, &format!("{count} sent messages"), || {
            let sent = self.deliveries()?.iter().filter(|d| d.status == "sent").count();
            Ok((sent >= count).then_some(()))
        })
        .with_context(|| {
            let other = self.deliveries().unwrap_or_default().into_iter().find(|d| d.status != "sent");
            format!("first message that was not sent: {other:?}")
        })
    }

    /// Queue ids of what is still queued.
    ///
    /// # Errors
    /// When `postqueue` fails.
    pub fn queue(&self) -> Result<Vec<String>> {
        let listing = self.tool(&["postqueue", "-j"])?;
        listing
            .lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line)?;
                Ok(entry["queue_id"].as_str().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// Tries all that is queued at once, as `postqueue -f` does.
    ///
    /// # Errors
    /// When `postqueue` fails.
    pub fn flush(&self) -> Result<()> {
        self.tool(&["postqueue", "-f"]).map(drop)
    }

    /// Runs one of its programs as its administrator would.
    ///
    /// # Errors
    /// When it fails.
    pub fn tool(&self, args: &[&str]) -> Result<String> {
        self.instance.tool(args)
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(self) -> Result<()> {
        self.tool(&["postfix", "stop"]).map(drop).map_err(|e| e.context(self.log().unwrap_or_default()))
    }
}

impl Mta for Postfix {
    const NAME: &'static str = "Postfix";
    const UID: u32 = UID;

    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self> {
        let settings = Settings {
            transports: BTreeMap::from([("marketing".to_owned(), TAGS.join(" "))]),
            routes: marketing.iter().map(|&domain| (domain.to_owned(), "marketing".to_owned())).collect(),
            ..Settings::default()
        };
        Self::start(lab, &settings)
    }

    fn start_by_recipe(lab: &Lab) -> Result<Self> {
        let file = |name: &str| Ok((name.to_owned(), recipes::config(&format!("/etc/postfix/{name}"))?));
        let files = ["main.cf", "master.cf", "sender_transport"].into_iter().map(file);
        Self::start(lab, &Settings { files: files.collect::<Result<_>>()?, ..Settings::default() })
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn queue(&self) -> Result<Vec<String>> {
        self.queue()
    }

    fn run_queue(&self) -> Result<()> {
        self.flush()
    }

    fn log(&self) -> Result<String> {
        self.log()
    }

    fn stop(self) -> Result<()> {
        self.stop()
    }
}

impl Delivery {
    fn parse(line: &str) -> Option<Self> {
        let (head, rest) = line.split_once(" to=<")?;
        let (to, rest) = rest.split_once('>')?;
        let (_, relay) = rest.split_once(" relay=")?;
        let (relay, rest) = relay.split_once(',')?;
        let (_, status) = rest.split_once(" status=")?;
        let (status, said) = status.split_once(' ').unwrap_or((status, ""));
        let service = head.split_whitespace().find(|word| word.contains('['))?.split('[').next()?;
        Some(Self {
            service: service.to_owned(),
            to: to.to_owned(),
            relay: relay.to_owned(),
            status: status.to_owned(),
            said: said.trim_matches(['(', ')']).to_owned(),
        })
    }
}
