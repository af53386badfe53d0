//! The stage: mail host, receivers, DNS, Postfix, the agent, and the capture that watches them.
//!
//! Owns: who plays and where, what they are told, and their end. Must not: know the story.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::interrupt;
use super::screen::Screen;
use crate::capture::WireReport;
use crate::dns::{Dns, Records};
use crate::postfix::{Postfix, Settings, UID};
use crate::topology::{receiver4, uplinks};
use crate::{Agent, Capture, Lab, Options, Receiver};

/// Sources of each pool.
pub(super) const EACH: u8 = 4;
/// Recipient domains of each stream: enough that Postfix seldom sends two messages over one connection.
const DOMAINS: u8 = 25;
/// What the marketing transport binds.
pub(super) const TAG: &str = "198.18.0.2";
/// Receivers of the load, one for each stream.
const LOAD: [u8; 2] = [201, 202];

/// The two streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    /// All that Postfix sends otherwise.
    Transactional,
    /// What Postfix sends by the transport that binds the tag.
    Marketing,
}

impl Stream {
    /// Both.
    pub(super) const BOTH: [Self; 2] = [Self::Transactional, Self::Marketing];

    /// Its name, and its pool's.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Marketing => "marketing",
        }
    }

    /// The sources of its pool.
    pub(super) fn sources(self) -> Vec<IpAddr> {
        let first = if self == Self::Transactional { 0 } else { EACH };
        (first..first + EACH).map(|n| uplinks()[0].source4(n)).collect()
    }

    /// A recipient of its n-th message.
    pub(super) fn recipient(self, n: usize) -> String {
        format!("user{n}@{}", self.domain(u8::try_from(n % usize::from(DOMAINS)).unwrap_or_default()))
    }

    fn domain(self, n: u8) -> String {
        match self {
            Self::Transactional => format!("customer{n}.example"),
            Self::Marketing => format!("reader{n}.example"),
        }
    }

    fn receiver(self, n: u8) -> IpAddr {
        receiver4(if self == Self::Transactional { 1 + n } else { 101 + n })
    }

    /// Where its load goes.
    pub(super) fn load_to(self) -> IpAddr {
        receiver4(LOAD[usize::from(self == Self::Marketing)])
    }

    /// Whose connections come to this receiver.
    fn of(to: IpAddr) -> Self {
        let is = |stream: Self| stream.load_to() == to || (0..DOMAINS).any(|n| stream.receiver(n) == to);
        if is(Self::Marketing) { Self::Marketing } else { Self::Transactional }
    }
}

/// All sources, of both pools.
pub(super) fn sources() -> Vec<IpAddr> {
    Stream::BOTH.into_iter().flat_map(Stream::sources).collect()
}

/// Everything that plays. The order is that in which it ends.
pub(super) struct Stage {
    pub(super) postfix: Postfix,
    /// Messages that Postfix was given so far.
    pub(super) handed_in: Cell<usize>,
    pub(super) agent: Agent,
    capture: Capture,
    pub(super) receiver: Receiver,
    _dns: Dns,
    pub(super) lab: Lab,
}

impl Stage {
    /// Sets it up, and says what it is.
    pub(super) fn build(screen: &Screen) -> Result<Self> {
        screen.step("A small internet");
        screen.say(
            "mail host 192.0.2.10 --- router --- DNS, 50 mail exchangers at 203.0.113.x\n\n\
             The host has eight more addresses, .11 to .18. Mail must leave from these\n\
             only: four for what customers wait for, four for marketing.",
        );
        let plumbed = usize::from(2 * EACH);
        let lab = Lab::new(Options { uplinks: 1, ipv6: false, plumbed, ..Options::default() })?;
        let receiver = Receiver::start(&lab.world, 25)?;
        let dns = Dns::start(&lab.world, &records()?)?;
        let capture = Capture::start(&lab.world, &[uplinks()[0].far], 25)?;
        interrupt::check()?;
        let config = config("auto");
        screen.step("mailsteer, and its whole config");
        screen.say(&indented(&config));
        let agent = Agent::start(&lab, &config)?;
        screen.command("mailsteer status");
        let status = agent.cli(&["status"])?;
        screen.say(&indented(&String::from_utf8_lossy(&status.stdout)));
        interrupt::check()?;
        screen.step("A stock Postfix delivers mail in two streams");
        let postfix = Postfix::start(&lab, &settings()).context("Postfix")?;
        let handed_in = Cell::new(0);
        Ok(Self { postfix, handed_in, agent, capture, receiver, _dns: dns, lab })
    }

    /// Connections that came from the other stream's pool, or from none, by the receivers' record.
    pub(super) fn misplaced(&self) -> usize {
        let wrong = |c: &&crate::receiver::Connection| !Stream::of(c.to).sources().contains(&c.peer.ip());
        self.receiver.connections().iter().filter(wrong).count()
    }

    /// Ends everything; returns what the capture saw, and what stayed behind.
    pub(super) fn close(self) -> Result<(WireReport, Vec<String>)> {
        let Self { postfix, agent, capture, receiver, _dns: dns, lab, .. } = self;
        postfix.stop()?;
        let wire = capture.stop()?;
        drop((agent, receiver, dns));
        let identity = lab.identity()?;
        drop(lab);
        Ok((wire, identity.leftovers()?))
    }
}

/// The config, with the table owned where the kernel can (`auto`) or open to strangers (`never`).
pub(super) fn config(own_table: &str) -> String {
    format!(
        r#"mode = "enforce"
nft.own_table = "{own_table}"
host.addresses = "adopt"     # use what is on the host; add and remove none

[pool.transactional]
addresses = ["192.0.2.11-192.0.2.14"]
ehlo = "mail.example.com"

[pool.marketing]
addresses = ["192.0.2.15-192.0.2.18"]
ehlo = "news.example.com"

[stream.marketing]
tag  = "{TAG}"          # Postfix: -o smtp_bind_address={TAG}
pool = "marketing"

[stream.transactional]
uid  = {UID}                 # Postfix's user: all else that it sends
pool = "transactional"
"#
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn records() -> Result<Records> {
    let mut records = Records::default();
    for stream in Stream::BOTH {
        for n in 0..DOMAINS {
            records = records.domain(&stream.domain(n), &[stream.receiver(n)])?;
        }
    }
    Ok(records)
}

fn settings() -> Settings {
    let marketing = Stream::Marketing.name();
    Settings {
        transports: BTreeMap::from([(marketing.to_owned(), TAG.to_owned())]),
        routes: (0..DOMAINS).map(|n| (Stream::Marketing.domain(n), marketing.to_owned())).collect(),
        ..Settings::default()
    }
}
