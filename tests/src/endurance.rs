//! A great many connections, as fast as all cores make them, while everything that can happen to a mail host happens at
//! random: flushes, kills, reloads, flips.
//!
//! Owns: what happens when (from a seed), and the account: receivers, wire and agent, connection by connection, and what
//! grew meanwhile. Must not: be part of the tests, which are to be quick; `cargo xtask endure` runs it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::agent::Agent;
use crate::lab::Lab;
use crate::load::Load;
use crate::ordeal::{Ordeal, Phase, config, steered};
use crate::receiver::{Connection, Receiver};
use crate::topology::{receiver4, receiver6};
use crate::{pinned, poll, strangers};

/// Processes that connect, and connections of each at a time: enough to keep two cores busy.
const LOADS: usize = 2;
const PARALLEL: u32 = 24;
/// Receivers of each family: a tuple of ports must not come twice while a receiver still remembers it (60 s).
const RECEIVERS: u8 = 60;
/// How long one connection may take: several gaps in a row hold its SYN, which comes again after 1, 3, 7 and 15 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// A flush, kill or flip comes after so many milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 100..900;
/// For how long a source is suspended.
const SUSPENDED_MS: std::ops::Range<u64> = 2000..12_000;
/// A SYN that was sent before a flip keeps its source, also where a gap holds it until it comes again.
const STRAGGLERS: Duration = Duration::from_secs(8);
/// Of the connections, those in which the agent is killed too; the rest are one process's, whose growth shows.
const KILLED: f64 = 0.6;
/// How often is looked at what grows.
const SAMPLES: usize = 20;
/// conntrack forgets a closed connection after 10 s, and one that was reset or abandoned after 35 s.
const FORGOTTEN: Duration = Duration::from_secs(90);

/// What can grow, at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Connections that were received so far.
    pub connections: usize,
    /// Seconds since the beginning.
    pub seconds: f64,
    /// The agent's process: it is another after a kill.
    pub pid: u32,
    /// Its resident memory, KiB, mapped eBPF maps included.
    pub rss_kib: u64,
    /// Its open files.
    pub descriptors: usize,
    /// Connections that the eBPF programs follow.
    pub followed: u64,
    /// Pairs of lane and source that have counters.
    pub counters: u64,
    /// Entries of the mail host's conntrack.
    pub conntrack: u64,
    /// Elements of the table's sets and maps.
    pub elements: usize,
}

/// The account.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// What everything that happened came from.
    pub seed: u64,
    /// Connections that were made, each with its banner.
    pub made: u64,
    /// Those that receivers accepted.
    pub received: u64,
    /// Those that the agent counted as begun, and as answered.
    pub counted: [u64; 2],
    /// Packets that were held in gaps.
    pub held: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Milliseconds until connected, the slowest.
    pub slowest_ms: f64,
    /// What happened how often.
    pub events: BTreeMap<&'static str, u64>,
    /// Connections from a suspended source, of SYNs from before its flip.
    pub stragglers: usize,
    /// Before, meanwhile, and after all had settled.
    pub samples: Vec<Sample>,
    /// Everything that is not as it should be; empty where all is.
    pub broken: Vec<String>,
}

/// Makes so many connections.
///
/// # Errors
/// When the lab, an event or an instrument fails; what is wrong with the connections is in the account.
pub fn run(connections: usize, seed: u64) -> Result<Account> {
    let mut ordeal = Ordeal::begin("never")?;
    let load = Load {
        parallel: PARALLEL,
        count: 0,
        to: (1..=RECEIVERS).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect(),
        timeout_ms: u64::try_from(PATIENCE.as_millis())?,
        ..steered(&ordeal.lab)?
    };
    let began = Instant::now();
    let before = sample(&ordeal.lab, &ordeal.agent, 0, began)?;
    let mut run = Run::new(&ordeal.agent, connections, seed, began)?;
    run.samples.push(before.clone());
    let phase =
        ordeal.phase_under(&vec![load; LOADS], |lab, agent, receiver| run.drive(lab, agent, receiver))?;
    let seconds = began.elapsed().as_secs_f64();
    run.settle(&ordeal, &before)?;
    let mut broken = phase.broken(PATIENCE);
    broken.extend(run.growth(&before));
    broken.extend(differences(&ordeal.agent, ordeal.receiver())?);
    let (late, stragglers) = run.late(&ordeal.receiver().connections());
    broken.extend(late);
    ordeal.end()?;
    Ok(run.account(&phase, seconds, stragglers, broken))
}

/// A source, out of service for a time.
struct Suspension {
    name: String,
    address: IpAddr,
    from: Instant,
    until: Instant,
}

/// What happens, and when.
struct Run {
    random: fastrand::Rng,
    seed: u64,
    connections: usize,
    began: Instant,
    sources: Vec<(String, IpAddr)>,
    suspended: Option<Suspension>,
    over: Vec<Suspension>,
    other: bool,
    events: BTreeMap<&'static str, u64>,
    samples: Vec<Sample>,
}

impl Run {
    fn new(agent: &Agent, connections: usize, seed: u64, began: Instant) -> Result<Self> {
        let sources = by_source(agent)?.into_iter().map(|(address, (name, _))| (name, address)).collect();
        Ok(Self {
            random: fastrand::Rng::with_seed(seed),
            seed,
            connections,
            began,
            sources,
            suspended: None,
            over: Vec::new(),
            other: false,
            events: BTreeMap::new(),
            samples: Vec::new(),
        })
    }

    /// Lets things happen until there were enough connections.
    fn drive(&mut self, lab: &Lab, agent: &mut Agent, receiver: &Receiver) -> Result<()> {
        while receiver.count() < self.connections {
            let (asked, pause) = (Instant::now(), Duration::from_millis(self.random.u64(PAUSE_MS)));
            poll::until_true(pause * 2, "the next event's time", || asked.elapsed() >= pause)?;
            let done = receiver.count();
            self.event(lab, agent, done as f64 / self.connections as f64 > KILLED)?;
            if done * SAMPLES >= self.connections * self.samples.len() {
                let sample = sample(lab, agent, done, self.began)?;
                eprintln!("{sample:?}");
                self.samples.push(sample);
            }
        }
        self.resume(agent)?;
        // What stands after all is to be compared with what stood before.
        agent.reload(&config("never", false))
    }

    fn event(&mut self, lab: &Lab, agent: &mut Agent, spare: bool) -> Result<()> {
        let due = self.suspended.as_ref().is_some_and(|one| Instant::now() >= one.until);
        let what = match self.random.u8(0..100) {
            _ if due => {
                self.resume(agent)?;
                "resume"
            }
            0..40 => {
                strangers::flush(&lab.mail)?;
                "flush"
            }
            40..50 if !spare => {
                agent.restart()?;
                "kill"
            }
            40..65 => {
                self.other = !self.other;
                agent.reload(&config("never", self.other))?;
                "reload"
            }
            _ if self.suspended.is_none() => {
                self.suspend(agent)?;
                "suspend"
            }
            _ => return Ok(()),
        };
        *self.events.entry(what).or_default() += 1;
        Ok(())
    }

    fn suspend(&mut self, agent: &Agent) -> Result<()> {
        let (name, address) = self.sources[self.random.usize(0..self.sources.len())].clone();
        say(agent, &["suspend", &name, "--reason", "endurance"])?;
        let from = Instant::now();
        let until = from + Duration::from_millis(self.random.u64(SUSPENDED_MS));
        self.suspended = Some(Suspension { name, address, from, until });
        Ok(())
    }

    fn resume(&mut self, agent: &Agent) -> Result<()> {
        let Some(mut one) = self.suspended.take() else { return Ok(()) };
        one.until = Instant::now();
        say(agent, &["resume", &one.name, "--reason", "endurance"])?;
        self.over.push(one);
        Ok(())
    }

    /// Waits until the kernel has forgotten the load, and looks once more.
    fn settle(&mut self, ordeal: &Ordeal, before: &Sample) -> Result<()> {
        let forgotten = || Ok((conntrack(&ordeal.lab)? <= before.conntrack).then_some(()));
        // What stays too long is in the account, by the last sample.
        let _late = poll::until(FORGOTTEN, "conntrack to forget", forgotten);
        let done = ordeal.receiver().count();
        self.samples.push(sample(&ordeal.lab, &ordeal.agent, done, self.began)?);
        Ok(())
    }

    /// What is more than it was.
    fn growth(&self, before: &Sample) -> Vec<String> {
        let Some(last) = self.samples.last() else { return vec!["nothing was looked at".to_owned()] };
        let mut grew = Vec::new();
        let mut must = |what: &str, is: u64, was: u64| {
            if is > was {
                grew.push(format!("{what}: {is}, and {was} before"));
            }
        };
        must("followed connections", last.followed, before.followed);
        must("conntrack entries", last.conntrack, before.conntrack);
        must("elements", last.elements as u64, before.elements as u64);
        // Two configs give two lanes, and every source may have served both.
        must("pairs with counters", last.counters, 2 * self.sources.len() as u64);
        let same: Vec<&Sample> = self.samples.iter().filter(|sample| sample.pid == last.pid).collect();
        let at = |part: usize| same.get(same.len() / part).copied().unwrap_or(last);
        must("open files", last.descriptors as u64, at(2).descriptors as u64);
        // Its last connections and events fill up at first; a MiB is what the allocator keeps or not.
        must("resident KiB", last.rss_kib, at(2).rss_kib + 1024);
        grew
    }

    /// Connections from a source while it was suspended: those that began too late, and how many stragglers.
    fn late(&self, connections: &[Connection]) -> (Vec<String>, usize) {
        let (mut late, mut stragglers) = (Vec::new(), 0);
        for one in &self.over {
            let from_it = connections
                .iter()
                .filter(|seen| seen.peer.ip() == one.address && seen.at >= one.from && seen.at < one.until);
            for seen in from_it {
                let after = seen.at - one.from;
                if after > STRAGGLERS {
                    late.push(format!("{} sent {after:.1?} after it was suspended", one.name));
                } else {
                    stragglers += 1;
                }
            }
        }
        (late, stragglers)
    }

    fn account(self, phase: &Phase, seconds: f64, stragglers: usize, broken: Vec<String>) -> Account {
        Account {
            seed: self.seed,
            made: phase.load.ok,
            received: phase.received,
            counted: [phase.counted.attempts, phase.counted.established],
            held: phase.counted.held,
            seconds,
            slowest_ms: phase.load.max_ms,
            events: self.events,
            stragglers,
            samples: self.samples,
            broken,
        }
    }
}

fn say(agent: &Agent, words: &[&str]) -> Result<()> {
    let answer = agent.cli(words)?;
    if !answer.status.success() {
        bail!("{words:?}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    Ok(())
}

/// Name, and connections that were answered, of each source.
fn by_source(agent: &Agent) -> Result<BTreeMap<IpAddr, (String, u64)>> {
    let rows = agent.json(&["sources"])?;
    let row = |row: &serde_json::Value| -> Result<_> {
        let text = |key: &str| row[key].as_str().with_context(|| format!("no {key} in {row}"));
        let count = row["counters"]["established"].as_u64().context("no count")?;
        Ok((text("public")?.parse()?, (text("name")?.to_owned(), count)))
    };
    rows.as_array().context("no sources")?.iter().map(row).collect()
}

/// Receivers' logs against the agent's counts, source by source, from the very first connection on.
fn differences(agent: &Agent, receiver: &Receiver) -> Result<Vec<String>> {
    let (counted, received) = (by_source(agent)?, receiver.by_peer());
    let mut differ: Vec<String> = received
        .keys()
        .filter(|peer| !counted.contains_key(peer))
        .map(|peer| format!("received from {peer}, which is no source"))
        .collect();
    for (address, (name, count)) in counted {
        let seen = received.get(&address).copied().unwrap_or_default();
        if seen != count {
            differ.push(format!("{name} ({address}): {count} counted, {seen} received"));
        }
    }
    Ok(differ)
}

fn sample(lab: &Lab, agent: &Agent, connections: usize, began: Instant) -> Result<Sample> {
    let pid = agent.pid().context("no agent runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let maps = pinned::dir(&lab.bpffs())?;
    let listing = lab.mail.sh("nft -j list table inet mailsteer")?;
    let listing: serde_json::Value = serde_json::from_str(&listing)?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let sets = objects.filter_map(|object| object.get("map").or_else(|| object.get("set")));
    Ok(Sample {
        connections,
        seconds: began.elapsed().as_secs_f64(),
        pid,
        rss_kib: rss.trim().trim_end_matches(" kB").parse()?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        followed: pinned::entries(&maps.join("CONNS"))?,
        counters: pinned::entries(&maps.join("COUNTERS"))?,
        conntrack: conntrack(lab)?,
        elements: sets.map(|set| set["elem"].as_array().map_or(0, Vec::len)).sum(),
    })
}

fn conntrack(lab: &Lab) -> Result<u64> {
    let count = lab.mail.run(|| fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack"))?;
    // The first column of every row is the number of entries, in hex.
    let text = count.context("no conntrack")?;
    let row = text.lines().nth(1).and_then(|line| line.split_whitespace().next()).context("no row")?;
    Ok(u64::from_str_radix(row, 16)?)
}
