//! Load through a series of events, and the account of it: who connected, what was on the wire, what was counted.
//!
//! Owns: the mail host under test (two uplinks, both families, one pool), the pace of events, the sums that have to
//! agree. Must not: judge a phase; tests do, from [`Phase`].

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::agent::Agent;
use crate::capture::{Capture, Seen, WireReport};
use crate::lab::Lab;
use crate::load::{Load, Report, Running};
use crate::poll;
use crate::receiver::{Behaviour, Receiver, Whom};
use crate::tcx;
use crate::topology::{Options, receiver4, receiver6, uplinks};

/// User whose mail is steered.
const UID: u32 = 1001;
/// Sources of each family at each uplink.
const SOURCES: u8 = 2;
/// Connections a second: the issue asks for 500, and a busy machine starts late.
const RATE: u32 = 530;
/// Between two events. A SYN that one event holds comes again after 1 s, in the middle between two others: what is
/// measured is one gap, never the chance of two.
const SPACING: Duration = Duration::from_millis(650);
/// Connections that live through everything, with data.
const LIVE: u32 = 100;
/// Receivers of each family that load goes to: enough that no tuple of ports comes twice.
const RECEIVERS: u8 = 8;
/// The receiver of each family that sends back what it gets.
const ECHO: u8 = 99;
/// How soon every count must have arrived once the load has ended.
const SETTLE: Duration = Duration::from_secs(10);

/// Two loads beside each other would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// A mail host that steers, with live connections, all of it captured.
#[derive(Debug)]
pub struct Ordeal<A = Agent> {
    /// The network.
    pub lab: Lab,
    /// The agent.
    pub agent: A,
    receiver: Receiver,
    live: Running,
    _alone: MutexGuard<'static, ()>,
}

/// An agent, however it is run.
pub trait Steering {
    /// What `status --json` says.
    ///
    /// # Errors
    /// When it does not answer.
    fn status(&self) -> Result<serde_json::Value>;
}

impl Steering for Agent {
    fn status(&self) -> Result<serde_json::Value> {
        self.json(&["status"])
    }
}

/// What the agent has counted so far, over all streams and sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Connections whose SYN left.
    pub attempts: u64,
    /// Connections that were answered.
    pub established: u64,
    /// Packets that left with a wrong address.
    pub wrong: u64,
    /// Packets that a lock held.
    pub held: u64,
    /// Connections refused by decision.
    pub refused: u64,
    /// Repairs of the table since the agent started.
    pub repairs: u64,
}

/// One series of events under load.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What the load met.
    pub load: Report,
    /// Connections that the receivers accepted meanwhile.
    pub received: u64,
    /// What was counted meanwhile; `repairs` counts from the agent's last start.
    pub counted: Counted,
    /// What left meanwhile.
    pub wire: WireReport,
}

impl Ordeal {
    /// Builds a lab, starts an agent with `[nft] own_table` as given, and the live connections.
    ///
    /// # Errors
    /// When anything of it does not start.
    pub fn begin(own_table: &str) -> Result<Self> {
        Self::begin_with(Options::default(), |lab| Agent::start(lab, &config(own_table, false)))
    }
}

impl<A: Steering> Ordeal<A> {
    /// Builds such a lab, starts an agent in it that has a [`config`] or one like it, and the live connections.
    ///
    /// # Errors
    /// When anything of it does not start.
    pub fn begin_with(options: Options, start: impl FnOnce(&Lab) -> Result<A>) -> Result<Self> {
        // A test that failed has left nothing behind that the next one could mind.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new(options)?;
        let receiver = Receiver::start(&lab.world, 25)?;
        receiver.script(Whom::All, Behaviour::BannerClose);
        for echo in [receiver4(ECHO), receiver6(ECHO.into())] {
            receiver.script(Whom::To(echo), Behaviour::Echo);
        }
        let agent = start(&lab)?;
        let to = vec![receiver4(ECHO), receiver6(ECHO.into())];
        let live = Load { live: LIVE, to, ..steered(&lab)? }.start(&lab.mail)?;
        poll::until_true(SETTLE, "the live connections", || receiver.count() >= LIVE as usize)?;
        Ok(Self { lab, agent, receiver, live, _alone: alone })
    }

    /// Runs `events` of them, evenly spaced, under load, and waits until everything is counted.
    ///
    /// # Errors
    /// When an event or an instrument fails; not when a lock does.
    pub fn phase(
        &mut self,
        events: usize,
        mut event: impl FnMut(&Lab, &mut A, usize) -> Result<()>,
    ) -> Result<Phase> {
        let load = Load { rate: RATE, count: 0, to: receivers(), ..steered(&self.lab)? };
        self.phase_under(&[load], |lab, agent, _| {
            let began = Instant::now();
            let mut due = SPACING;
            for n in 0..events {
                await_time(began, due)?;
                event(lab, agent, n).with_context(|| format!("event {n}"))?;
                due += SPACING;
            }
            // The last event's held SYNs come again within the phase.
            await_time(began, began.elapsed() + SPACING * 2)
        })
    }

    /// Does `work` under these loads, and waits until everything is counted.
    ///
    /// # Errors
    /// When the work or an instrument fails; not when a lock does.
    pub fn phase_under(
        &mut self,
        loads: &[Load],
        work: impl FnOnce(&Lab, &mut A, &Receiver) -> Result<()>,
    ) -> Result<Phase> {
        let (before, accepted) = (self.counted()?, self.receiver.count());
        let capture = Capture::start(&self.lab.world, &uplinks().map(|uplink| uplink.far), 25)?;
        let running = loads.iter().map(|load| load.start(&self.lab.mail)).collect::<Result<Vec<_>>>()?;
        work(&self.lab, &mut self.agent, &self.receiver)?;
        let mut load = Report::default();
        for one in running {
            load.add(one.stop()?);
        }
        self.settle(before.attempts + load.ok)?;
        let after = self.counted()?;
        let received = u64::try_from(self.receiver.count() - accepted)?;
        Ok(Phase { load, received, counted: after.since(before), wire: capture.stop()? })
    }

    /// The receivers.
    #[must_use]
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Ends the live connections and takes everything down.
    ///
    /// # Errors
    /// When anything stays behind.
    pub fn end(self) -> Result<Report> {
        self.end_with(|_, agent| {
            drop(agent);
            Ok(())
        })
    }

    /// As [`Ordeal::end`]; what is done last, without any load, is given.
    ///
    /// # Errors
    /// When that fails, or anything stays behind.
    pub fn end_with(self, last: impl FnOnce(&Lab, A) -> Result<()>) -> Result<Report> {
        let Self { lab, agent, receiver, live, _alone } = self;
        let report = live.stop()?;
        last(&lab, agent)?;
        receiver.stop()?;
        lab.close()?;
        Ok(report)
    }

    /// Takes everything down without asking after the live connections, which may hang where a lock was open.
    ///
    /// # Errors
    /// When anything stays behind.
    pub fn abandon(self) -> Result<()> {
        let Self { lab, agent, receiver, live, _alone } = self;
        drop((live, agent));
        receiver.stop()?;
        lab.close()
    }

    /// What the agent says it has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counted(&self) -> Result<Counted> {
        let status = self.agent.status()?;
        let number = |at: &str| status.pointer(at).and_then(serde_json::Value::as_u64).context(at.to_owned());
        Ok(Counted {
            attempts: number("/totals/attempts")?,
            established: number("/totals/established")?,
            wrong: number("/totals/wrong")?,
            held: number("/totals/held")?,
            refused: number("/totals/refused")?,
            repairs: number("/table_repairs")?,
        })
    }

    /// Counts come by the wire, and the last of them after the load has ended. That they stay too few is for the
    /// test to say.
    fn settle(&self, attempts: u64) -> Result<()> {
        let within = Instant::now() + SETTLE;
        poll::until(SETTLE * 2, "the counters", || {
            let counted = self.counted()?;
            let all = counted.attempts >= attempts && counted.established >= attempts;
            Ok((all || Instant::now() > within).then_some(()))
        })
    }
}

impl Counted {
    fn since(self, before: Self) -> Self {
        Self {
            attempts: self.attempts - before.attempts,
            established: self.established - before.established,
            wrong: self.wrong - before.wrong,
            held: self.held - before.held,
            refused: self.refused - before.refused,
            repairs: self.repairs,
        }
    }
}

impl Phase {
    /// What left from another address than the sources of the uplink it left by: one line for each.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let right = |interface: &str, source: IpAddr| {
            let sources = |uplink: &crate::topology::Uplink| {
                (0..SOURCES).any(|n| source == uplink.source4(n) || source == uplink.source6(n))
            };
            uplinks().iter().any(|uplink| uplink.far == interface && sources(uplink))
        };
        let wrong = self.wire.by_source.iter().filter(|((interface, source), _)| !right(interface, *source));
        let line = |((interface, source), seen): (&(String, IpAddr), &Seen)| {
            let Seen { packets, syns, samples, .. } = seen;
            format!("{source} on {interface}: {packets} packets, {syns} of them SYNs, such as {samples:?}")
        };
        wrong.map(line).collect()
    }

    /// Every way in which the phase breaks what two locks promise; none where both held. `patience` is how long a
    /// connection may take.
    #[must_use]
    pub fn broken(&self, patience: Duration) -> Vec<String> {
        let Self { load, received, counted, wire } = self;
        let mut broken = self.leaks();
        let mut must = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        must(wire.lost == 0, format!("the capture lost {} packets", wire.lost));
        must(load.rate() >= 500.0, format!("only {:.0} connections a second", load.rate()));
        must(load.ok == load.attempts, format!("connections failed: {:?}", load.failed));
        must(
            load.max_ms < patience.as_secs_f64() * 1000.0,
            format!("the slowest connection took {:.0} ms", load.max_ms),
        );
        must(*received == load.ok, format!("{received} connections received of {}", load.ok));
        let (attempts, established) = (counted.attempts, counted.established);
        must(attempts == load.ok, format!("{attempts} attempts counted of {}", load.ok));
        must(established == load.ok, format!("{established} established counted of {}", load.ok));
        must(counted.wrong == 0, format!("{} packets counted wrong", counted.wrong));
        must(counted.refused == 0, format!("{} connections refused", counted.refused));
        broken
    }
}

/// The config under test: a pool of every source, and one stream. The `other` one has another stream before it and
/// other weights, so that going from one to the other writes every rule anew.
#[must_use]
pub fn config(own_table: &str, other: bool) -> String {
    let mut addresses = Vec::new();
    for uplink in uplinks() {
        for n in 0..SOURCES {
            addresses.push(format!("\"{}\", \"{}\"", uplink.source4(n), uplink.source6(n)));
        }
    }
    let stream = if other { "[stream.before]\nuid = 1002\npool = \"main\"\n" } else { "" };
    let weight = if other { 3 } else { 1 };
    format!(
        r#"
mode = "enforce"
[nft]
own_table = "{own_table}"
[uplink.a]
interface = "upa"
gateway = ["192.0.2.1", "2001:db8:a::1"]
prefix = ["192.0.2.0/25", "2001:db8:a::/64"]
[uplink.b]
interface = "upb"
gateway = ["198.51.100.1", "2001:db8:b::1"]
prefix = ["198.51.100.0/25", "2001:db8:b::/64"]
[pool.main]
addresses = [{}]
weights = {{ "main-1" = {weight} }}
{stream}[stream.mail]
uid = {UID}
pool = "main"
"#,
        addresses.join(", ")
    )
}

/// Load of the user whose mail is steered.
///
/// # Errors
/// When the lab's cgroup is gone.
pub fn steered(lab: &Lab) -> Result<Load> {
    let uid = lab.mail.uid(UID);
    Ok(Load { uid, gid: uid, cgroup: Some(lab.cgroup()?.to_owned()), ..Load::default() })
}

fn receivers() -> Vec<IpAddr> {
    (1..=RECEIVERS).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect()
}

/// Comes back at once where the time has passed: events that take longer follow one another.
fn await_time(began: Instant, due: Duration) -> Result<()> {
    poll::until_true(due + SPACING, "the next event's time", || began.elapsed() >= due)
}

/// Takes the guard off every interface and the cgroup, as nobody should; everything else stays.
///
/// # Errors
/// When there was none, or a pin cannot be removed.
pub fn detach_guard(lab: &Lab) -> Result<()> {
    let mut taken = 0;
    for version in std::fs::read_dir(lab.bpffs().join("mailsteer"))? {
        for pin in std::fs::read_dir(version?.path())? {
            let pin = pin?;
            if pin.file_name().to_string_lossy().starts_with("link_guard_") {
                tcx::detach(&pin.path())?;
                taken += 1;
            }
        }
    }
    if taken == 0 {
        bail!("no guard is pinned");
    }
    Ok(())
}
