//! How fast a failing source loses its traffic: the fault, and the first connection that leaves from another address.
//!
//! Owns: the faults, and one trial of each. Must not: judge; a test and `cargo xtask bench failover` do.
//!
//! The pool is sticky, so that it is known which receivers the failing source serves: the first connection that one of them gets
//! from another source ends the trial. Half of the load goes to those, so that one is due every 40 ms.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::lab::Lab;
use crate::load::{Load, Report};
use crate::poll;
use crate::receiver::{Behaviour, Receiver, Whom};
use crate::scene::MAIL;
use crate::topology::{Options, receiver4, uplinks};

/// Connections a second while the fault happens.
pub const RATE: u32 = 50;
/// Receivers of each half of the load.
const HALF: usize = 12;
/// How long before the fault, so that receivers and siblings are known: two rounds.
const BEFORE: Duration = Duration::from_millis(1_200);
/// How long after the flip, so that what hung has come to an end.
const AFTER: Duration = Duration::from_millis(1_500);
/// Longer, and there was none.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sources that nobody is to fail; 128.66.0.0/16 is nobody's.
const NETWORK: Ipv4Addr = Ipv4Addr::new(128, 66, 0, 0);

/// Receivers of the large size: 128.67.0.0/16 is nobody's either.
const RECEIVERS: Ipv4Addr = Ipv4Addr::new(128, 67, 0, 0);

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Somebody takes the source's address off the host.
    AddressRemoved,
    /// The source's link goes down.
    LinkDown,
    /// Every receiver refuses the source.
    Refused,
    /// Somewhere beyond the uplink the source's packets are dropped.
    Silent,
    /// The receivers of a provider greet the source with 554.
    Greeting,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::AddressRemoved, Self::LinkDown, Self::Refused, Self::Silent, Self::Greeting];

    /// A fact, which the host itself tells.
    const fn is_fact(self) -> bool {
        matches!(self, Self::AddressRemoved | Self::LinkDown)
    }
}

/// What one trial came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Milliseconds from the fault to the first connection from another address.
    pub flip_ms: f64,
    /// Connections of the whole trial that came to nothing: the MTA defers them.
    pub deferred: u64,
    /// Connections that waited for an answer while the source failed, and came through from another one.
    pub carried_over: u64,
    /// Connections of the whole trial.
    pub connections: u64,
}

/// A mail host whose sources are to fail.
pub struct Place {
    agent: Agent,
    receiver: Receiver,
    /// Receivers that the victim serves, then as many that others do.
    to: Vec<IpAddr>,
    lab: Lab,
}

/// So many that two dozen stick to the victim: each source has an equal share. With few sources the lab's own do.
fn receivers(more: u32) -> Vec<IpAddr> {
    if more == 0 {
        return (1..=250).map(receiver4).collect();
    }
    (1..=24 * more).map(|n| Ipv4Addr::from(u32::from(RECEIVERS) + n).into()).collect()
}

fn victim() -> IpAddr {
    uplinks()[1].source4(0)
}

fn others(more: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..=more).map(|n| Ipv4Addr::from(u32::from(NETWORK) + n))
}

fn config(others_too: u32) -> String {
    let more: String = others(others_too)
        .last()
        .map_or_else(String::new, |last| format!(", \"{}-{last}\"", Ipv4Addr::from(u32::from(NETWORK) + 1)));
    let lanes: String = (2..=if others_too == 0 { 1 } else { 64 })
        .map(|n| format!("[stream.s{n}]\nuid = {}\npool = \"main\"\n", MAIL + n))
        .collect();
    format!(
        "mode = \"enforce\"\n[host]\naddresses = \"adopt\"\n[safety]\nflips_per_day = 1000\n\
         [uplink.a]\ninterface = \"upa\"\ngateway = \"192.0.2.1\"\nprefix = [\"192.0.2.0/24\", \"128.66.0.0/20\"]\n\
         [uplink.b]\ninterface = \"upb\"\ngateway = \"198.51.100.1\"\nprefix = \"198.51.100.0/24\"\n\
         [pool.main]\naddresses = [\"192.0.2.11-192.0.2.12\", \"198.51.100.21-198.51.100.22\"{more}]\n\
         balance = \"sticky\"\n\
         [stream.mail]\nuid = {MAIL}\npool = \"main\"\n{lanes}"
    )
}

impl Place {
    /// With four sources, two on each uplink, and `more` besides that nobody is to fail; then with 64 lanes.
    ///
    /// # Errors
    /// When lab or agent cannot be had.
    pub fn new(more: u32) -> Result<Self> {
        let lab = Lab::new(Options { uplinks: 2, ipv6: false, ..Options::default() })?;
        for uplink in uplinks() {
            for n in 0..2 {
                let (source, interface) = (uplink.source4(n), uplink.interface);
                lab.mail.sh(&format!("ip addr replace {source}/32 dev {interface}"))?;
            }
        }
        let receiver = Receiver::start(&lab.world, 25)?;
        receiver.script(Whom::All, Behaviour::BannerClose);
        let addresses: String = others(more).map(|one| format!("addr add {one}/32 dev upa\n")).collect();
        crate::exec::output_of(lab.mail.command("ip").args(["-batch", "-"]), &addresses)?;
        lab.world.sh(&format!("ip route replace {NETWORK}/20 via {}", uplinks()[0].own4))?;
        lab.world.sh(&format!("ip route add local {RECEIVERS}/16 dev lo"))?;
        let agent = Agent::start(&lab, &config(more))?;
        let mut place = Self { agent, receiver, to: Vec::new(), lab };
        place.find_receivers(more)?;
        Ok(place)
    }

    /// Which receivers stick to the victim.
    fn find_receivers(&mut self, more: u32) -> Result<()> {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        // As many as one command line holds.
        for part in receivers(more).chunks(2_000) {
            let load = Load { rate: 2_000, count: part.len() as u64, to: part.to_vec(), ..self.load()? };
            load.run(&self.lab.mail)?;
            for one in self.receiver.connections() {
                (if one.peer.ip() == victim() { &mut own } else { &mut others }).push(one.to);
            }
            self.receiver.forget();
            if own.len() >= HALF && others.len() >= HALF {
                break;
            }
        }
        if own.len() < HALF || others.len() < HALF {
            bail!("{} receivers of the victim's and {} others", own.len(), others.len());
        }
        own.truncate(HALF);
        // In turn, so that connections of the victim's are evenly spaced.
        self.to = own.into_iter().zip(others).flat_map(<[IpAddr; 2]>::from).collect();
        Ok(())
    }

    fn load(&self) -> Result<Load> {
        Ok(Load {
            rate: RATE,
            count: 0,
            uid: self.lab.mail.uid(MAIL),
            gid: self.lab.mail.uid(MAIL),
            to: self.to.clone(),
            cgroup: Some(self.lab.cgroup()?.to_owned()),
            ..Load::default()
        })
    }

    /// One fault, from a host that is well to one that is well again.
    ///
    /// # Errors
    /// When there was no flip, or it could not be undone.
    pub fn trial(&mut self, fault: Fault) -> Result<Trial> {
        self.receiver.forget();
        let running = self.load()?.start(&self.lab.mail)?;
        poll::until(PATIENCE, "two rounds", || {
            let first = self.receiver.connections().first().map(|one| one.at);
            Ok(first.filter(|at| at.elapsed() > BEFORE))
        })?;
        let began = Instant::now();
        self.inject(fault)?;
        let flipped = poll::until(PATIENCE, "a connection from another address", || Ok(self.flipped(began)));
        let flipped = match flipped {
            Ok(flipped) => flipped,
            Err(error) => {
                let events = self.agent.cli(&["events", "-n", "30"])?;
                bail!("{fault:?}: {error}: {}", String::from_utf8_lossy(&events.stdout))
            }
        };
        poll::until(PATIENCE, "what hung", || Ok((began.elapsed() > flipped + AFTER).then_some(())))?;
        let report: Report = running.stop()?;
        self.mend(fault)?;
        Ok(Trial {
            flip_ms: flipped.as_secs_f64() * 1e3,
            deferred: report.failed.values().sum(),
            carried_over: report.late,
            connections: report.attempts,
        })
    }

    /// How long after the fault a receiver of the victim's was first served by another source.
    fn flipped(&self, began: Instant) -> Option<Duration> {
        let own = |to: IpAddr| self.to.iter().step_by(2).any(|one| *one == to);
        let connections = self.receiver.connections();
        let mut moved =
            connections.iter().filter(|one| one.at > began && own(one.to) && one.peer.ip() != victim());
        moved.next().map(|one| one.at - began)
    }

    fn inject(&self, fault: Fault) -> Result<()> {
        let victim = victim();
        let reject = |what: &str| {
            self.lab.world.nft(&format!(
                "table inet fault {{ chain in {{ type filter hook input priority 0
                     ip saddr {victim} tcp dport 25 {what}
                 }}
                 }}"
            ))
        };
        match fault {
            Fault::AddressRemoved => self.lab.mail.sh(&format!("ip addr del {victim}/32 dev upb")).map(drop),
            Fault::LinkDown => self.lab.mail.sh("ip link set upb down").map(drop),
            Fault::Refused => reject("reject with tcp reset"),
            Fault::Silent => reject("drop"),
            Fault::Greeting => {
                self.receiver.script(Whom::Peer(victim), Behaviour::Refuse("554 5.7.1 listed".into()));
                Ok(())
            }
        }
    }

    /// Undoes the fault, and lets the victim serve again.
    fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::AddressRemoved => {
                self.lab.mail.sh(&format!("ip addr add {}/32 dev upb", victim()))?;
            }
            Fault::LinkDown => {
                self.lab.mail.sh("ip link set upb up")?;
            }
            Fault::Refused | Fault::Silent => {
                self.lab.world.sh("nft delete table inet fault")?;
            }
            Fault::Greeting => {
                self.receiver.script(Whom::Peer(victim()), Behaviour::BannerClose);
            }
        }
        if fault.is_fact() {
            // An agent that remembers how often the source was lost would let it wait.
            self.agent.restart()?;
        } else {
            self.agent.cli(&["resume", &victim().to_string(), "--reason", "the trial is over"])?;
        }
        self.await_victim()
    }

    fn await_victim(&self) -> Result<()> {
        poll::until(PATIENCE, "the victim serves again", || {
            let sources = self.agent.json(&["sources"])?;
            let rows = sources.as_array().cloned().unwrap_or_default();
            let is = |row: &serde_json::Value| {
                row["local"] == victim().to_string().as_str() && row["state"] == "healthy"
            };
            Ok(rows.iter().any(is).then_some(()))
        })
    }

    /// Ends it; the error lists what stayed behind.
    ///
    /// # Errors
    /// When anything did.
    pub fn close(self) -> Result<()> {
        let Self { agent, receiver, lab, .. } = self;
        drop(agent);
        receiver.stop()?;
        lab.close()
    }
}
