//! The common scene of end-to-end tests: two uplinks, sources of both families on each, receivers, an agent.
//!
//! Owns: its config, what may be on the wire under it, and how its counters are asked. Must not: judge; tests do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::Agent;
use crate::capture::{Capture, WireReport};
use crate::lab::Lab;
use crate::load::Load;
use crate::poll;
use crate::receiver::Receiver;
use crate::topology::{Options, receiver4, receiver6, uplinks};

/// Whose mail is steered.
pub const MAIL: u32 = 1001;
/// Whose mail is steered to a pool that has one IPv4 source and none of IPv6.
pub const LONE: u32 = 1002;
/// Where the metrics are, inside the mail host.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9925);
/// How long counters may take to show what happened: they are read every two seconds.
pub const SHOWN: Duration = Duration::from_secs(10);

/// Two uplinks with two sources of each family on both, for uid [`MAIL`] and for containers; a pool of one for uid
/// [`LONE`].
pub const CONFIG: &str = r#"
mode = "enforce"
[uplink.a]
interface = "upa"
gateway = ["192.0.2.1", "2001:db8:a::1"]
prefix = ["192.0.2.0/24", "2001:db8:a::/64"]
[uplink.b]
interface = "upb"
gateway = ["198.51.100.1", "2001:db8:b::1"]
prefix = ["198.51.100.0/24", "2001:db8:b::/64"]
[pool.main]
addresses = [
    "192.0.2.11-192.0.2.12", "198.51.100.21-198.51.100.22",
    "2001:db8:a::11-2001:db8:a::12", "2001:db8:b::21-2001:db8:b::22",
]
[pool.lone]
addresses = ["192.0.2.15"]
[stream.mail]
uid = 1001
pool = "main"
[stream.lone]
uid = 1002
pool = "lone"
[stream.containers]
subnet = ["172.22.1.0/24", "fd4d:6169:6c63:6f77::/64"]
pool = "main"
"#;

/// A running scene.
#[derive(Debug)]
pub struct Scene {
    /// The agent under test.
    pub agent: Agent,
    /// Takes every connection.
    pub receiver: Receiver,
    /// Everything else.
    pub lab: Lab,
}

impl Scene {
    /// Sets it up with [`CONFIG`] and `more` behind it.
    ///
    /// # Errors
    /// When the lab, the receivers or the agent cannot be had.
    pub fn new(options: Options, more: &str) -> Result<Self> {
        let lab = Lab::new(Options { uplinks: 2, ..options })?;
        let receiver = Receiver::start(&lab.world, 25)?;
        let agent = Agent::start(&lab, &format!("{CONFIG}\n{more}"))?;
        Ok(Self { agent, receiver, lab })
    }

    /// Load of a steered user, to receivers of both families in turn.
    ///
    /// # Errors
    /// After the lab was closed.
    pub fn load(&self, rate: u32, count: u64) -> Result<Load> {
        Ok(Load {
            rate,
            count,
            uid: self.lab.mail.uid(MAIL),
            gid: self.lab.mail.uid(MAIL),
            to: (1..=10).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect(),
            cgroup: Some(self.lab.cgroup()?.to_owned()),
            ..Load::default()
        })
    }

    /// Captures what leaves by both uplinks.
    ///
    /// # Errors
    /// When a packet socket cannot be had.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.lab.world, &["wa", "wb"], 25)
    }

    /// The sum of a metric over the series that bear these labels, read afresh.
    ///
    /// # Errors
    /// When the metrics are not served.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        // `status` reads the counters anew, which a scrape does only every two seconds.
        self.agent.cli(&["status", "--json"])?;
        self.agent.metric(METRICS, name, labels)
    }

    /// Connections by outcome since the start, over all streams and sources.
    ///
    /// # Errors
    /// When the metrics are not served.
    pub fn outcomes(&self) -> Result<BTreeMap<String, u64>> {
        self.agent.cli(&["status", "--json"])?;
        let text = self.agent.metrics(METRICS)?;
        let words =
            ["attempted", "established", "refused", "unreachable", "reset", "unanswered", "local", "policy"];
        let mut sums: BTreeMap<String, u64> = words.iter().map(|&word| (word.to_owned(), 0)).collect();
        for line in text.lines().filter(|line| line.starts_with("mailsteer_connections_total{")) {
            let outcome = line.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next());
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            let (Some(outcome), Some(value)) = (outcome, value) else { continue };
            *sums.entry(outcome.to_owned()).or_insert(0) += value as u64;
        }
        Ok(sums)
    }

    /// The last `n` rows of `mailsteer connections --json`.
    ///
    /// # Errors
    /// When the answer is no list.
    pub fn rows(&self, n: usize) -> Result<Vec<Value>> {
        let answer = self.agent.cli(&["connections", "-n", &n.to_string(), "--json"])?;
        let text = String::from_utf8_lossy(&answer.stdout);
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The events so far, as text, one per line.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn events(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.agent.cli(&["events", "-n", "1000"])?.stdout).into_owned())
    }

    /// What `status` says, as people read it.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.agent.cli(&["status"])?.stdout).into_owned())
    }

    /// Open connections over all sources, as `sources` has them.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn open(&self) -> Result<u64> {
        let rows = self.agent.json(&["sources"])?;
        let open = |row: &Value| row["counters"]["open"].as_u64();
        rows.as_array().context("no list of sources")?.iter().map(|row| open(row).context("no count")).sum()
    }

    /// Waits until a metric is at least `least`, and returns it.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn await_metric(&self, name: &str, labels: &[&str], least: f64) -> Result<f64> {
        poll::until(SHOWN, &format!("{name} {labels:?} of at least {least}"), || {
            let value = self.metric(name, labels)?;
            Ok((value >= least).then_some(value))
        })
    }

    /// Ends it; the error lists what stayed behind.
    ///
    /// # Errors
    /// When anything did.
    pub fn close(self) -> Result<()> {
        let Self { agent, receiver, lab } = self;
        drop(agent);
        receiver.stop()?;
        lab.close()
    }
}

/// Every source of the pool `main`, with the world's interface at which it must come in.
#[must_use]
pub fn eligible() -> BTreeMap<IpAddr, &'static str> {
    let of = |uplink: &crate::topology::Uplink| {
        let far = uplink.far;
        [uplink.source4(0), uplink.source4(1), uplink.source6(0), uplink.source6(1)]
            .map(|source| (source, far))
    };
    uplinks().iter().flat_map(of).collect()
}

/// What a capture saw that must not be: another address than an eligible one, or one on another's uplink. A capture
/// that lost packets proves nothing, and says so here.
#[must_use]
pub fn offences(wire: &WireReport) -> Vec<String> {
    let eligible = eligible();
    let wrong = wire
        .by_source
        .iter()
        .filter(|((interface, source), _)| eligible.get(source).is_none_or(|far| far != interface));
    let mut found: Vec<String> =
        wrong.map(|((interface, source), seen)| format!("{source} on {interface}: {seen:?}")).collect();
    if wire.lost > 0 {
        found.push(format!("the capture lost {} packets", wire.lost));
    }
    found
}
