//! Runs a world: what happens when, in the order of time.
//!
//! Owns: the clock of the world, the queue, and who sends. Must not: judge; `checks` does, as often as anything changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use mailsteer_core::decide::Observation;
use mailsteer_core::model::{Family, RefuseReason, Sign, Signal, SlotTarget};

use super::host::Agent;
use super::spec::{Spec, What};
use super::{checks, internet};

/// What happens.
enum Happening {
    Connect,
    /// By a connection from a source to a provider's receiver.
    Sign(usize, (usize, usize), Sign),
    Begins(usize),
    Ends(usize),
    /// Time alone may change something.
    Wake,
    /// The agent reads everything back, as it does every minute.
    FullPass,
}

/// How often.
const FULL_PASS: i64 = 60_000;

const HOUR: i64 = 3_600_000;
/// By then all are back: what stops a stream does so for a day; an isolation lasts half an hour, or an hour after a relapse, and
/// what comes after it is three steps of an hour at most.
const BACK: i64 = 30 * HOUR;

/// What became of all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// By source and provider.
    pub(crate) sent: BTreeMap<(usize, usize), u64>,
    /// By reason and provider.
    pub(crate) refused: BTreeMap<(RefuseReason, usize), u64>,
    pub(crate) held: u64,
}

/// A running world.
pub(crate) struct Run<'a> {
    spec: &'a Spec,
    pub(crate) agent: Agent,
    pub(crate) tally: Tally,
    rng: Rng,
    now: i64,
    queue: BinaryHeap<Reverse<(i64, u64)>>,
    what: BTreeMap<u64, Happening>,
    next: u64,
    /// Signals that the agent has not read, for it does not run.
    unread: Vec<(i64, Signal)>,
    draws: BTreeMap<(u8, Family), usize>,
    wakes: i64,
    calm: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(spec: &'a Spec) -> Result<Self, String> {
        let mut run = Self {
            spec,
            agent: Agent::new(spec)?,
            tally: Tally::default(),
            rng: Rng::with_seed(spec.seed),
            now: 0,
            queue: BinaryHeap::new(),
            what: BTreeMap::new(),
            next: 0,
            unread: Vec::new(),
            draws: BTreeMap::new(),
            wakes: i64::MAX,
            calm: false,
        };
        for (n, fault) in spec.faults.iter().enumerate() {
            run.at(fault.from, Happening::Begins(n));
            run.at(fault.until, Happening::Ends(n));
        }
        run.at(0, Happening::Connect);
        run.at(FULL_PASS, Happening::FullPass);
        Ok(run)
    }

    /// All of it.
    pub(crate) fn whole(spec: &'a Spec) -> Result<Self, String> {
        let mut run = Self::new(spec)?;
        run.until(spec.lasts)?;
        Ok(run)
    }

    fn at(&mut self, at: i64, what: Happening) {
        self.queue.push(Reverse((at, self.next)));
        self.what.insert(self.next, what);
        self.next += 1;
    }

    /// From now on little is sent: one connection in five minutes.
    const fn calm(&mut self) {
        self.calm = true;
    }

    /// Goes on in calm, hour by hour, until everybody is back; says how long that took.
    pub(crate) fn until_all_are_back(&mut self) -> Result<i64, String> {
        self.calm();
        let began = self.now;
        while let Err(error) = checks::everybody_is_back(self.spec, &self.agent) {
            if self.now - began > BACK {
                return Err(format!("long after everything ended: {error}"));
            }
            self.until(self.now + HOUR)?;
        }
        Ok(self.now - began)
    }

    /// Goes on until this time.
    pub(crate) fn until(&mut self, end: i64) -> Result<(), String> {
        while let Some(Reverse((at, n))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let Some(what) = self.what.remove(&n) else { continue };
            self.happen(what).map_err(|error| format!("at {} ms: {error}", self.now))?;
            self.wake_in_time();
        }
        self.now = end;
        Ok(())
    }

    fn is_on(&self, what: &What) -> bool {
        self.spec.faults.iter().any(|fault| fault.what == *what && fault.is_on(self.now))
    }

    /// The agent looks again when its decision says so.
    fn wake_in_time(&mut self) {
        let Some(deadline) = self.agent.deadline else { return };
        let due = self.agent.when(deadline).max(self.now + 1);
        if due < self.wakes || self.wakes <= self.now {
            self.wakes = due;
            self.at(due, Happening::Wake);
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Connect => self.connect(),
            Happening::Sign(source, to, sign) => self.see(source, to, sign),
            Happening::Begins(n) => self.fault(n, true),
            Happening::Ends(n) => self.fault(n, false),
            Happening::FullPass => {
                let rarely = if self.calm { 10 } else { 1 };
                self.at(self.now + rarely * FULL_PASS, Happening::FullPass);
                self.happen(Happening::Wake)
            }
            Happening::Wake if self.is_on(&What::Stall) => Ok(()),
            Happening::Wake => {
                self.wakes = i64::MAX;
                self.agent.apply(self.spec, Observation::Tick, self.now)?;
                self.probe()
            }
        }
    }

    /// How much is sent now, as a multiple of the rate.
    fn pace(&self) -> f64 {
        if self.calm {
            return 1.0 / (300.0 * self.spec.rate);
        }
        let none = self.spec.faults.iter().filter(|fault| fault.what == What::NoTraffic);
        let mut pace = 1.0;
        for fault in none {
            let after = fault.until..fault.until + (fault.until - fault.from);
            if fault.is_on(self.now) {
                return 0.0;
            }
            if after.contains(&self.now) {
                pace = 3.0;
            }
        }
        pace
    }

    fn connect(&mut self) -> Result<(), String> {
        let pace = self.pace();
        // As Poisson has it; looked at again where nobody sends.
        let wait = if pace > 0.0 { -(1.0 - self.rng.f64()).ln() / (self.spec.rate * pace) } else { 1.0 };
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds")]
        self.at(self.now + (wait * 1_000.0) as i64 + 1, Happening::Connect);
        if pace == 0.0 {
            return Ok(());
        }
        let stream = self.rng.usize(0..self.spec.streams);
        let to = (self.rng.usize(0..=self.spec.providers), self.rng.usize(0..self.spec.receivers));
        let Some(target) = self.draw(stream, to.0)? else { return Ok(()) };
        match target {
            SlotTarget::Source(..) => {
                let source = self.agent.source(self.spec, target).ok_or("a slot leads to no source")?;
                *self.tally.sent.entry((source, to.0)).or_default() += 1;
                let signs = internet::connect(self.spec, &mut self.rng, self.now, source, to);
                for (after, sign) in signs {
                    self.at(self.now + after, Happening::Sign(source, to, sign));
                }
            }
            SlotTarget::Refuse(reason) => *self.tally.refused.entry((reason, to.0)).or_default() += 1,
            SlotTarget::Hold => self.tally.held += 1,
            SlotTarget::Pass => return Err("a connection is let pass".into()),
        }
        Ok(())
    }

    fn draw(&mut self, stream: usize, provider: usize) -> Result<Option<SlotTarget>, String> {
        let family = self.spec.family();
        let lane = self.agent.lane(self.spec, stream, provider).ok_or("no such lane")?;
        let Some(slots) = self.agent.slots().get(&(lane, family)) else { return Ok(None) };
        let turn = self.draws.entry((lane.0, family)).or_default();
        *turn += 1;
        Ok(slots.0.get(*turn % slots.0.len().max(1)).copied())
    }

    fn see(&mut self, source: usize, (provider, receiver): (usize, usize), sign: Sign) -> Result<(), String> {
        let signal = Signal {
            at: self.agent.clock(self.now),
            source: self.spec.source(source),
            provider: self.spec.provider(provider),
            destination: self.spec.receiver(provider, receiver),
            sign,
        };
        if self.is_on(&What::Stall) {
            self.unread.push((self.now, signal));
            return Ok(());
        }
        self.agent.hear(self.spec, vec![signal], self.now)
    }

    fn probe(&mut self) -> Result<(), String> {
        for wanted in self.agent.probes(self.spec, self.now)? {
            let source = self.spec.source_of(wanted.source);
            let all = (0..=self.spec.providers).flat_map(|p| (0..self.spec.receivers).map(move |r| (p, r)));
            let to = all.into_iter().find(|&(p, r)| self.spec.receiver(p, r) == wanted.destination);
            let to = to.ok_or("a probe to nobody")?;
            let (after, sign) = internet::probe(self.spec, &mut self.rng, self.now, source, to);
            self.at(self.now + after, Happening::Sign(source, to, sign));
        }
        Ok(())
    }

    fn fault(&mut self, n: usize, begins: bool) -> Result<(), String> {
        let (spec, now) = (self.spec, self.now);
        match spec.faults[n].what {
            What::Link(uplink) => self.agent.link(uplink, !self.is_on(&What::Link(uplink))),
            What::Address(source) => {
                let there = !self.is_on(&What::Address(source));
                self.agent.address(spec, source, there);
            }
            What::Clock(by) if begins => self.agent.set_clock(by),
            What::Stall if !begins => {}
            _ => return Ok(()),
        }
        if self.is_on(&What::Stall) {
            return Ok(());
        }
        self.agent.look_at_clock(spec, now)?;
        // Which of its ears an agent that heard nothing for a while lends first is chance.
        if self.rng.bool() {
            self.read()?;
        }
        self.agent.look(spec, now)?;
        self.read()?;
        self.agent.apply(spec, Observation::Tick, now)
    }

    /// What it could not read, in the order in which it was seen, by one call.
    fn read(&mut self) -> Result<(), String> {
        let unread = std::mem::take(&mut self.unread);
        // The kernel tells by a clock that nobody sets.
        let signal = |(seen, signal): (i64, Signal)| Signal { at: self.agent.clock(seen), ..signal };
        let unread: Vec<Signal> = unread.into_iter().map(signal).collect();
        if unread.is_empty() { Ok(()) } else { self.agent.hear(self.spec, unread, self.now) }
    }
}
