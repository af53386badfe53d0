//! What steering costs a connection: the same host four times, each with another way to choose the source, side by side.
//!
//! Owns: the hosts, and who connects when. Must not: judge; `cargo xtask bench connect` does. All hosts stand from the
//! beginning, and only one is under load at a time, for less than a second: what the machine does meanwhile falls on all of
//! them, and neighbours in time are compared.

mod burst;
mod programs;
mod sink;
mod ways;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

use burst::Worker;
pub use burst::{Ask, Burst, Done, run as run_burst};
pub use programs::Cost;
use sink::Sink;
pub use ways::Way;

use crate::agent::Agent;
use crate::lab::Lab;
use crate::topology::{Options, receiver4};

/// Milliseconds of a burst: long enough for some thousand connections, short beside what a machine's moods last.
const BURST_MS: u64 = 400;
/// Receivers: a tuple of ports must not come twice while its last connection is remembered.
const RECEIVERS: u8 = 120;
/// Bursts of each way before any counts: caches, neighbours, the first elements of every map.
const WARM: usize = 2;

/// How many connect at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crowd {
    /// One thread, one connection after the other.
    One,
    /// Two threads for each core: no core is ever idle.
    All,
}

/// What one burst came to.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Connections a second.
    pub rate: f64,
    /// Microseconds until connected, half of them.
    pub p50_us: f64,
    /// Microseconds until connected, 99 % of them.
    pub p99_us: f64,
    /// Microseconds of all cores for one connection, sink included.
    pub cpu_us: f64,
}

/// All bursts of one size: the n-th of every way were neighbours in time.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Sources.
    pub sources: u32,
    /// Figures by crowd and way.
    pub figures: BTreeMap<Crowd, BTreeMap<Way, Vec<Figure>>>,
    /// What each eBPF program costs.
    pub programs: Vec<Cost>,
    /// Ways that cannot be tried on this kernel, and why.
    pub missing: BTreeMap<Way, String>,
}

/// One mail host with its way.
struct Host {
    way: Way,
    agent: Option<Agent>,
    worker: Worker,
    sink: Sink,
    lab: Lab,
}

/// Measures one size: `pairs` bursts of every way and crowd.
///
/// # Errors
/// When a host cannot be had, or a connection fails.
pub fn measure(sources: u32, pairs: usize, seed: u64) -> Result<Measured> {
    let known = programs::loaded()?;
    let (mut hosts, mut missing) = (Vec::new(), BTreeMap::new());
    for way in Way::ALL {
        match Host::start(way, sources)? {
            Ok(host) => hosts.push(host),
            Err(why) => drop(missing.insert(way, why)),
        }
    }
    let mut figures: BTreeMap<Crowd, BTreeMap<Way, Vec<Figure>>> = BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..WARM + pairs {
        for crowd in [Crowd::One, Crowd::All] {
            random.shuffle(&mut hosts);
            for host in &mut hosts {
                let figure = host.burst(crowd)?;
                if round >= WARM {
                    figures.entry(crowd).or_default().entry(host.way).or_default().push(figure);
                }
            }
        }
    }
    let mut programs = Vec::new();
    for host in hosts.iter_mut().filter(|host| host.way == Way::Mailsteer) {
        programs = programs::costs(&host.lab, &mut host.worker, &known)?;
    }
    hosts.into_iter().try_for_each(Host::close)?;
    Ok(Measured { sources, figures, programs, missing })
}

impl Host {
    /// `Err` inside: why this kernel cannot do it that way.
    fn start(way: Way, sources: u32) -> Result<std::result::Result<Self, String>> {
        let lab = Lab::new(Options { uplinks: 1, ipv6: false, ..Options::default() })?;
        ways::prepare(&lab)?;
        let sink = Sink::start(&lab.world)?;
        let agent = match way.set_up(&lab, sources)? {
            Ok(agent) => agent,
            Err(why) => {
                sink.stop()?;
                lab.close()?;
                return Ok(Err(why));
            }
        };
        let worker = Worker::start(&lab)?;
        let mut host = Self { way, agent, worker, sink, lab };
        host.check(sources)?;
        Ok(Ok(host))
    }

    /// A way that does not do what it is measured for would be a fast one.
    fn check(&mut self, sources: u32) -> Result<()> {
        self.sink.peers();
        self.worker.burst(&Burst { threads: 1, millis: BURST_MS, to: self.receivers(), port: 25 })?;
        let peers = self.sink.peers();
        let own = peers.keys().filter(|peer| !ways::is_source(**peer)).count();
        let (used, came) = (peers.len() - own, peers.values().sum::<u64>());
        let right = match self.way {
            Way::None => used == 0 && came > 0,
            // By turns, so that all are used unless there were fewer connections than sources.
            _ => own == 0 && used as u64 >= u64::from(sources).min(came / 4),
        };
        if !right {
            bail!(
                "{:?}: {came} connections came from {used} of {sources} sources and {own} others",
                self.way
            );
        }
        Ok(())
    }

    fn receivers(&self) -> Vec<std::net::IpAddr> {
        (1..=RECEIVERS).map(receiver4).collect()
    }

    fn burst(&mut self, crowd: Crowd) -> Result<Figure> {
        let cores = std::thread::available_parallelism()?.get();
        let threads = if crowd == Crowd::One { 1 } else { 2 * cores };
        let before = busy()?;
        let done = self.worker.burst(&Burst { threads, millis: BURST_MS, to: self.receivers(), port: 25 })?;
        let cpu = busy()? - before;
        if done.failed > 0 {
            bail!("{:?}: {} of {} connections failed: {}", self.way, done.failed, done.connections, done.why);
        }
        let connections = done.connections as f64;
        Ok(Figure {
            rate: connections / done.seconds,
            p50_us: done.p50_us,
            p99_us: done.p99_us,
            cpu_us: cpu * 1e6 / connections,
        })
    }

    fn close(self) -> Result<()> {
        let Self { agent, worker, sink, lab, .. } = self;
        drop((worker, agent));
        sink.stop()?;
        lab.close()
    }
}

/// Seconds that all cores together were not idle, by the kernel's ticks of 10 ms: interrupts included, waiting not.
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map(str::parse).collect::<std::result::Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal: proc(5). What the host beneath takes away is nobody's here.
    let spent = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<f64>();
    Ok(spent / 100.0)
}
