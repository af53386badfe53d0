//! One reconcile at a time: observe, decide, plan, act, until nothing is left to do ([`pass`]).
//!
//! Owns: the world, the shadow of what was last written and verified, and the loop. Triggers are coalesced: all that
//! wait are taken in before the next pass. A step that fails is said, and tried again from a fresh look. A slow full
//! pass reads everything back, whatever the triggers said. Must not: decide anything itself.

mod orders;
mod pass;
mod probes;
mod tell;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use mailsteer_core::config::{Config, Learning, Log};
use mailsteer_core::decide::{Beliefs, Command, Decision, Observation, OperatorError, World};
use mailsteer_core::model::{Sign, Signal};
use mailsteer_core::plan::Action;
use mailsteer_core::signal::dns::DnsEvent;
use mailsteer_core::signal::feeds::FeedEvent;
use mailsteer_core::signal::lists::ListEvent;
use mailsteer_core::signal::port25::Try;
use mailsteer_core::signal::providers::Learned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::Options;
use super::clock::{Jumps, Noted};
use super::compliance::Wanted as DnsWanted;
use super::config::{LoadError, Loaded};
use super::feeder::Wanted as FeedsWanted;
use super::lister::Wanted as ListsWanted;
use super::outcomes::Reported;
use super::probing::Prober;
use super::shared::Shared;
use super::systemd::{Asked, Manager, Signals};
use crate::act::bpf::BpfPaths;
use crate::act::nft::Numbers;
use crate::act::{Executor, Teardown};
use crate::api::view::{ReloadReport, TeardownReport};
use crate::api::{Access, ServeError};
use crate::nftnl::Ours;
use crate::observe::Looker;
use crate::observe::nft::TableChange;
use crate::state::Word;

pub(super) use pass::addresses;

/// How often everything is read back, whatever the triggers said: often enough that a lost notification is mended
/// within a minute, rarely enough to cost nothing (a pass takes milliseconds).
const FULL_PASS: Duration = Duration::from_secs(60);
/// How often the guard's place is looked at: the kernel notifies nobody of a program that comes before it.
const GUARD_LOOK: Duration = Duration::from_secs(2);
/// How soon live connections are looked at again at the earliest.
const SHORTEST: Duration = Duration::from_millis(20);
/// How soon a failed step is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that asks for a pass.
pub(super) enum Trigger {
    /// Links, addresses, routes or rules changed.
    Host,
    /// What connections met.
    Traffic(Vec<Signal>),
    /// What became of messages; who reads a log waits until that is taken in.
    Delivered(Reported, Option<oneshot::Sender<()>>),
    /// What DNS lists said.
    Lists(Vec<ListEvent>),
    /// What a round of the preflight met, from which source.
    Tried(IpAddr, Vec<Try>),
    /// What the DNS says of sources and domains, where that changed.
    Dns(Vec<DnsEvent>),
    /// Whose addresses are by name, all that is known of it.
    Receivers(Arc<Learned>),
    /// What feeds said.
    Feeds(Vec<FeedEvent>),
    /// Somebody touched our table, or may have.
    Table(TableChange),
    /// The operator said something.
    Command(Command, oneshot::Sender<Result<String, OperatorError>>),
    /// The config file should be read again.
    Reload(oneshot::Sender<Result<ReloadReport, LoadError>>),
    /// Take everything of ours away and stop.
    Teardown(oneshot::Sender<TeardownReport>),
}

/// Who is kept informed besides those who ask.
pub(super) struct Outside {
    /// Who may ask.
    pub(super) access: Access,
    /// Whether every message leaves where it should.
    pub(super) steering: watch::Sender<bool>,
    /// The service manager.
    pub(super) manager: Manager,
    /// Who makes probes; nobody at boot.
    pub(super) prober: Option<Prober>,
    /// Who asks DNS lists; nobody at boot.
    pub(super) lists: Option<watch::Sender<ListsWanted>>,
    /// Who looks at DNS compliance; nobody at boot.
    pub(super) dns: Option<watch::Sender<DnsWanted>>,
    /// Who learns whose receivers are; nobody at boot.
    pub(super) learning: Option<watch::Sender<Option<Learning>>>,
    /// Who fetches feeds; nobody at boot.
    pub(super) feeds: Option<watch::Sender<FeedsWanted>>,
    /// Who follows logs; nobody at boot.
    pub(super) logs: Option<watch::Sender<Vec<Log>>>,
}

/// What a trigger asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Pass,
    /// The agent was torn down.
    End,
}

/// The loop's state.
pub(super) struct Reconciler {
    options: Options,
    shared: Arc<Shared>,
    outside: Outside,
    world: World,
    decision: Decision,
    looker: Looker,
    executor: Executor,
    config_loaded: Timestamp,
    config_error: Option<String>,
    faults: Vec<String>,
    pending: Vec<Action>,
    settled: Option<Instant>,
    /// What a stranger did to the table, until it is put right, and since when that is known.
    meddled: Option<(TableChange, Instant)>,
    /// The table has to be read before it is believed.
    unread: bool,
    /// Steps that failed in the last pass, with their errors, so that each is said once.
    failing: BTreeMap<String, String>,
    /// The operator's word as it was last given to be kept.
    word: Word,
    /// Beliefs as they were last given to be kept.
    beliefs: Beliefs,
    jumps: Jumps,
    noted: Noted,
}

impl Reconciler {
    /// Opens everything, takes over what an earlier agent left, and changes nothing yet.
    pub(super) fn open(
        options: &Options,
        paths: BpfPaths,
        loaded: Loaded,
        (word, beliefs): (Word, Beliefs),
        shared: Arc<Shared>,
        ours: Ours,
        outside: Outside,
    ) -> Result<Self> {
        let now = Timestamp::now();
        let mut executor = Executor::open(paths, &loaded.config, &options.state, ours)?;
        let mut world = World::new(loaded.config, now);
        if let Some(why) = executor.no_guard() {
            told_without_ebpf(world.config(), why)?;
            world.apply(Observation::NoGuard, now);
        }
        let Numbers { sources, lanes } =
            executor.given_out().context("cannot read which numbers an earlier agent gave out")?;
        world.apply(Observation::Restored { sources, lanes }, now);
        world.restore_operator(word.suspended.clone(), word.bypassed.clone(), word.hold.clone());
        world.restore_beliefs(beliefs.clone());
        world.restore_fuse_windows(shared.outcomes.take_fuses());
        let (jumps, noted) = (Jumps::watch(), Noted::open(&options.state));
        if let Some(by) = noted.jump() {
            let events = world.apply(Observation::ClockJumped { by }, now);
            events.iter().for_each(|event| shared.happened(event));
        }
        loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
        Ok(Self {
            options: options.clone(),
            shared,
            outside,
            world,
            decision: Decision::default(),
            looker: Looker::open()?,
            executor,
            config_loaded: loaded.loaded_at,
            config_error: None,
            faults: Vec::new(),
            pending: Vec::new(),
            settled: None,
            meddled: None,
            unread: false,
            failing: BTreeMap::new(),
            word,
            beliefs,
            jumps,
            noted,
        })
    }

    /// Takes in whose addresses are by name.
    pub(super) fn learn(&mut self, learned: Arc<Learned>) {
        let now = self.now();
        let events = self.world.apply(Observation::Receivers(learned), now);
        self.tell(&events);
    }

    /// The first pass, before anybody can ask.
    pub(super) async fn reconcile_first(&mut self) {
        self.reconcile().await;
    }

    /// Whether the last pass left everything as desired, or what it could not do.
    pub(super) fn outcome(&self) -> Result<()> {
        if self.faults.is_empty() { Ok(()) } else { anyhow::bail!("{}", self.faults.join("; ")) }
    }

    /// Runs until told to stop; says whether everything was torn down.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Trigger>,
        mut signals: Signals,
        mut server: JoinHandle<Result<(), ServeError>>,
    ) -> Result<bool> {
        let mut full_pass = tokio::time::interval(FULL_PASS);
        full_pass.tick().await;
        // The service manager hears of every turn of this loop, and there is one at least this often.
        let pulse = self.outside.manager.pulse().unwrap_or(GUARD_LOOK);
        let mut guard_look = tokio::time::interval(GUARD_LOOK.min(pulse));
        self.outside.manager.ready();
        loop {
            self.outside.manager.alive();
            let deadline = self.until_deadline();
            tokio::select! {
                trigger = inbox.recv() => {
                    let Some(trigger) = trigger else { return Ok(false) };
                    match self.take_all(trigger, &mut inbox).await {
                        Wanted::End => return Ok(true),
                        Wanted::Nothing => continue,
                        Wanted::Pass => {}
                    }
                }
                () = tokio::time::sleep(deadline) => {}
                _ = full_pass.tick() => self.distrust(),
                _ = guard_look.tick() => {
                    if self.guarded() && !self.jumps.is_due() {
                        continue;
                    }
                }
                asked = signals.next() => {
                    if asked == Asked::Stop {
                        self.outside.manager.stopping();
                        return Ok(false);
                    }
                    if let Err(error) = self.reload().await {
                        warn!("SIGHUP: {error}");
                    }
                    continue;
                }
                ended = &mut server => {
                    ended.context("the control server panicked")??;
                    return Ok(false);
                }
            }
            self.reconcile().await;
        }
    }

    /// Why there is no eBPF guard; `None` where there is one.
    pub(super) fn no_guard(&self) -> Option<&str> {
        self.executor.no_guard()
    }

    /// Whether it is told which process uses a connection.
    pub(super) fn turns_told(&self) -> bool {
        self.executor.turns_told()
    }

    /// Whether the guard stands first at every uplink, or is not wanted there.
    fn guarded(&self) -> bool {
        if !self.decision.desired.guard {
            return true;
        }
        let attached = self.executor.attached();
        self.decision
            .desired
            .uplinks
            .iter()
            .filter_map(|uplink| uplink.ifindex)
            .all(|ifindex| attached.contains(&ifindex))
    }

    /// Believes nothing that was remembered.
    fn distrust(&mut self) {
        self.unread = true;
        if let Err(error) = self.executor.distrust_guard() {
            warn!("{error}");
        }
    }

    fn until_deadline(&self) -> Duration {
        if !self.pending.is_empty() {
            return RETRY;
        }
        let ending = self.executor.until_next_ending().filter(|_| !self.decision.desired.on_flip.is_empty());
        let ending = ending.map_or(FULL_PASS, |wait| wait.max(SHORTEST));
        let Some(deadline) = self.decision.next_deadline else { return ending };
        Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default().min(ending)
    }

    /// Takes in a trigger and all that wait behind it.
    async fn take_all(&mut self, first: Trigger, inbox: &mut mpsc::Receiver<Trigger>) -> Wanted {
        let (mut next, mut wanted) = (Some(first), Wanted::Nothing);
        while let Some(trigger) = next {
            match self.take(trigger).await {
                Wanted::End => return Wanted::End,
                Wanted::Pass => wanted = Wanted::Pass,
                Wanted::Nothing => {}
            }
            next = inbox.try_recv().ok();
        }
        wanted
    }

    async fn take(&mut self, trigger: Trigger) -> Wanted {
        match trigger {
            Trigger::Traffic(signals) => return self.hear(signals),
            Trigger::Host => {}
            Trigger::Delivered(reported, taken_in) => return self.take_reported(reported, taken_in),
            Trigger::Lists(said) => {
                let now = self.now();
                let events = self.world.apply(Observation::Lists(said), now);
                self.tell(&events);
            }
            Trigger::Tried(source, tries) => {
                let now = self.now();
                let events = self.world.apply(Observation::Tried { source, tries }, now);
                self.tell(&events);
            }
            Trigger::Dns(said) => {
                let now = self.now();
                let events = self.world.apply(Observation::Dns(said), now);
                self.tell(&events);
            }
            Trigger::Receivers(learned) => self.learn(learned),
            Trigger::Feeds(said) => {
                let now = self.now();
                let events = self.world.apply(Observation::Feeds(said), now);
                self.tell(&events);
            }
            Trigger::Table(change) => {
                debug!(what = %change.what, program = change.program.as_deref(), "the table was touched");
                self.unread = true;
                let since = self.meddled.take().map_or_else(Instant::now, |(_, since)| since);
                self.meddled = Some((change, since));
            }
            Trigger::Command(command, answer) => self.obey(command, answer).await,
            Trigger::Reload(answer) => {
                let report = self.reload().await;
                let _caller_gone = answer.send(report);
            }
            Trigger::Teardown(answer) => {
                let Teardown { removed, left } = self.executor.teardown().await;
                // Before the answer: nobody is told that mail is steered who was told that it is not.
                self.shared.withdraw();
                let _caller_gone = answer.send(TeardownReport { removed, left });
                return Wanted::End;
            }
        }
        Wanted::Pass
    }

    /// Takes in what became of messages, and gives it to be kept with what follows from it.
    fn take_reported(&mut self, reported: Reported, taken_in: Option<oneshot::Sender<()>>) -> Wanted {
        let now = self.now();
        self.shared.outcomes.count(&reported);
        self.shared.diary.delivered(&reported.delivered, &self.world);
        let events = if reported.delivered.is_empty() {
            vec![]
        } else {
            self.world.apply(Observation::Delivered(reported.delivered), now)
        };
        self.tell(&events);
        self.keep_heard();
        if let Some(taken_in) = taken_in {
            let _reader_gone = taken_in.send(());
        }
        if events.is_empty() { Wanted::Nothing } else { Wanted::Pass }
    }

    /// Most of what connections meet changes nothing, and then no pass is worth its time.
    fn hear(&mut self, signals: Vec<Signal>) -> Wanted {
        // A jump that is taken in here is for everybody to see.
        let jumped = self.jumps.is_due();
        let now = self.now();
        // After a probe the next one is due at another time.
        let probed =
            signals.iter().any(|signal| matches!(signal.sign, Sign::ProbeGreeted | Sign::ProbeFailed { .. }));
        let events = self.world.apply(Observation::Traffic(signals), now);
        self.tell(&events);
        if events.is_empty() && !jumped && !probed { Wanted::Nothing } else { Wanted::Pass }
    }

    /// The time by which the world goes on. A jump of the clock is taken in first: else what was said for an hour would
    /// end at once, or last for a day.
    fn now(&mut self) -> Timestamp {
        let now = Timestamp::now();
        if let Some(by) = self.jumps.look() {
            let events = self.world.apply(Observation::ClockJumped { by }, now);
            self.tell(&events);
        }
        now
    }
}

/// A stream that only its cgroup tells apart would leave as another's, or unsteered.
fn told_without_ebpf(config: &Config, why: &str) -> Result<(), LoadError> {
    match config.matched_by_cgroup() {
        None => Ok(()),
        Some(stream) => Err(LoadError::Cgroup { stream: stream.name.clone(), why: why.to_owned() }),
    }
}
