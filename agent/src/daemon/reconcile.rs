//! One reconcile at a time: observe, decide, plan, act, until nothing is left to do.
//!
//! Owns: the world, the shadow of what was last written and verified, and the loop. Triggers are coalesced: all that
//! wait are taken in before the next pass. A step that fails is said, and tried again from a fresh look. A slow full
//! pass reads everything back, whatever the triggers said. Must not: decide anything itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use mailsteer_core::config::Config;
use mailsteer_core::decide::{self, Command, Decision, Event, EventKind, Observation, OperatorError, World};
use mailsteer_core::model::{Address, Host, WantedKind};
use mailsteer_core::plan::{self, Action, AddressAt, Observed};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::Options;
use super::clock::{Jumps, Noted};
use super::config::{self, LoadError, Loaded};
use super::shared::{Published, Shared};
use super::status;
use super::systemd::{Asked, Manager, Signals};
use crate::act::bpf::BpfPaths;
use crate::act::nft::Numbers;
use crate::act::{ActError, Carried, Executor, Teardown};
use crate::api::view::{Level, Locks, ReloadReport, TeardownReport};
use crate::api::{Access, ServeError};
use crate::nftnl::Ours;
use crate::observe::nft::TableChange;
use crate::observe::{Look, Looker};
use crate::state::{Receipt, Word};

/// How often everything is read back, whatever the triggers said: often enough that a lost notification is mended
/// within a minute, rarely enough to cost nothing (a pass takes milliseconds).
const FULL_PASS: Duration = Duration::from_secs(60);
/// How often the guard's place is looked at: the kernel notifies nobody of a program that comes before it.
const GUARD_LOOK: Duration = Duration::from_secs(2);
/// How soon a failed step is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How many times a pass looks again before it leaves the rest to the retry: one to add addresses, one to use
/// them, one to find nothing left, and one for what happened meanwhile.
const ROUNDS: usize = 4;
/// How long an operator's command waits for the disk before it is answered that it is not kept yet.
const KEPT: Duration = Duration::from_secs(3);

/// Something that asks for a pass.
pub(super) enum Trigger {
    /// Links, addresses, routes or rules changed.
    Host,
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
    jumps: Jumps,
    noted: Noted,
}

impl Reconciler {
    /// Opens everything, takes over what an earlier agent left, and changes nothing yet.
    pub(super) fn open(
        options: &Options,
        paths: BpfPaths,
        loaded: Loaded,
        word: Word,
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
            jumps,
            noted,
        })
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
                    if self.take_all(trigger, &mut inbox).await {
                        return Ok(true);
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
        let Some(deadline) = self.decision.next_deadline else { return FULL_PASS };
        Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default()
    }

    /// Takes in a trigger and all that wait behind it; true where the agent was torn down.
    async fn take_all(&mut self, first: Trigger, inbox: &mut mpsc::Receiver<Trigger>) -> bool {
        let mut next = Some(first);
        while let Some(trigger) = next {
            if self.take(trigger).await {
                return true;
            }
            next = inbox.try_recv().ok();
        }
        false
    }

    async fn take(&mut self, trigger: Trigger) -> bool {
        match trigger {
            Trigger::Host => {}
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
                return true;
            }
        }
        false
    }

    /// Carries a command out, and lets it be answered when it has taken effect and is kept. Nobody waits for the disk
    /// here.
    async fn obey(&mut self, command: Command, answer: oneshot::Sender<Result<String, OperatorError>>) {
        let now = self.now();
        let events = match self.world.command(command, now) {
            Ok(events) => events,
            Err(error) => {
                let _caller_gone = answer.send(Err(error));
                return;
            }
        };
        let text = events.last().map(|event| event.kind.to_string()).unwrap_or_default();
        self.tell(&events);
        let receipt = self.keep_word();
        self.reconcile().await;
        tokio::spawn(async move {
            let _caller_gone = answer.send(Ok(with_receipt(text, receipt).await));
        });
    }

    /// Gives the operator's word to be kept where it changed: by a command, or because a time is over.
    fn keep_word(&mut self) -> Option<Receipt> {
        let world = &self.world;
        let same = *world.suspensions() == self.word.suspended
            && *world.bypasses() == self.word.bypassed
            && world.hold() == self.word.hold.as_ref();
        if same {
            return None;
        }
        self.word = Word {
            suspended: world.suspensions().clone(),
            bypassed: world.bypasses().clone(),
            hold: world.hold().cloned(),
        };
        Some(self.shared.store.word(self.word.clone()))
    }

    async fn reload(&mut self) -> Result<ReloadReport, LoadError> {
        self.outside.manager.reloading();
        let report = self.read_config().await;
        self.reconcile().await;
        self.outside.manager.ready();
        report
    }

    /// Takes the config file in; a bad one changes nothing.
    async fn read_config(&mut self) -> Result<ReloadReport, LoadError> {
        let path = self.options.config.clone();
        let loaded = match config::load(path.as_deref()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                let errors = if let LoadError::Wrong { problems, .. } = &error { problems.len() } else { 1 };
                self.tell_now(EventKind::ConfigRefused { errors });
                self.config_error = Some(error.to_string());
                return Err(error);
            }
        };
        if let Some(Err(error)) = self.no_guard().map(|why| told_without_ebpf(&loaded.config, why)) {
            self.tell_now(EventKind::ConfigRefused { errors: 1 });
            self.config_error = Some(error.to_string());
            return Err(error);
        }
        config::keep(&self.options.state, &loaded).await;
        let changed = loaded.config != *self.world.config();
        let mut warnings = loaded.warnings;
        if loaded.config.ebpf != self.world.config().ebpf {
            warnings.push("`[guard] ebpf` takes effect at the agent's next start".to_owned());
        }
        self.config_error = None;
        self.config_loaded = loaded.loaded_at;
        self.outside.access.set(loaded.config.control.clone());
        if loaded.config.own_table != self.world.config().own_table
            && let Err(error) = self.executor.own_table(loaded.config.own_table)
        {
            warn!("{error}");
        }
        self.shared.store.retain(loaded.config.retention);
        let now = self.now();
        let events = self.world.apply(Observation::Config(Box::new(loaded.config)), now);
        self.tell(&events);
        let file = path.map(|path| path.display().to_string()).unwrap_or_default();
        Ok(ReloadReport { file, changed, warnings })
    }

    /// One pass.
    async fn reconcile(&mut self) {
        self.faults.clear();
        let mut acted = 0;
        for _round in 0..ROUNDS {
            match self.round().await {
                Ok(0) => {
                    self.settled = Some(Instant::now());
                    self.meddled = None;
                    self.retire_earlier();
                    break;
                }
                Ok(count) => acted += count,
                Err(error) => {
                    warn!("{error:#}");
                    self.faults.push(format!("{error:#}"));
                    break;
                }
            }
        }
        debug!(acted, left = self.pending.len(), "reconciled");
        drop(self.keep_word());
        self.noted.keep();
        self.publish();
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

    /// All of ours stands: what another version left is of no more use.
    fn retire_earlier(&mut self) {
        match self.executor.retire_earlier() {
            Ok(retired) => {
                for abi in retired {
                    info!(abi, "took over from another version of mailsteer, its counts included");
                }
            }
            Err(error) => self.faults.push(format!("what another version left stays: {}", chain(&error))),
        }
    }

    /// Observes, decides, plans and acts once; says how many steps it took.
    async fn round(&mut self) -> Result<usize> {
        let look = self.looker.look(self.unread).await.context("cannot read the network or the table")?;
        if std::mem::take(&mut self.unread) {
            self.compare(&look);
        }
        let now = self.now();
        let events = self.world.apply(Observation::Host(look.host.clone()), now);
        self.tell(&events);
        let decision = decide::desired(&self.world, now);
        self.tell_flips(&decision);
        self.decision = decision;
        self.pending = plan::plan(&self.decision.desired, &self.observed(look));
        let count = self.pending.len();
        let mut failed = Vec::new();
        for action in std::mem::take(&mut self.pending) {
            // Healed while the rules could not be written, connections would miss them again, and stay so for good.
            if matches!(action, Action::Heal { .. }) && self.executor.written().is_none() {
                continue;
            }
            if let Err(error) = self.act(&action).await {
                failed.push((action, error));
            }
        }
        if failed.is_empty() {
            self.failing.clear();
            return Ok(count);
        }
        Err(self.failures(failed))
    }

    /// Says each failure once, as long as it stays the same, and keeps what is to be tried again.
    fn failures(&mut self, failed: Vec<(Action, ActError)>) -> anyhow::Error {
        let mut failing = BTreeMap::new();
        let mut sentences = Vec::new();
        for (action, error) in &failed {
            let text = chain(error);
            let name = action.to_string();
            sentences.push(format!("{name} failed: {text}"));
            if self.failing.get(&name) != Some(&text) {
                self.tell_now(EventKind::ActionFailed { action: name.clone(), error: text.clone() });
            }
            failing.insert(name, text);
        }
        self.failing = failing;
        self.pending = failed.into_iter().map(|(action, _)| action).collect();
        anyhow::anyhow!("{}", sentences.join("; "))
    }

    /// A table that is not as it was written, by rule or by element, is written anew.
    fn compare(&mut self, look: &Look) {
        let stood = self.executor.written().is_some();
        let table = look.table.as_ref();
        self.executor.found(table.map(|table| (table.fingerprint, &table.contents)));
        if stood && self.executor.written().is_none() && self.meddled.is_none() {
            // Seen before it was told.
            let what = "the table was changed".to_owned();
            self.meddled = Some((TableChange { pid: None, program: None, what }, Instant::now()));
        }
    }

    fn observed(&self, look: Look) -> Observed {
        let (written, told) = (self.executor.written(), self.executor.told());
        Observed {
            addresses: addresses(&look.host),
            routes: look.routes,
            rules: look.rules,
            table: written.map(|written| written.spec.clone()),
            slots: written.map(|written| written.slots.clone()).unwrap_or_default(),
            translations: written.map(|written| written.translations.clone()).unwrap_or_default(),
            guard_sources: told.sources.clone(),
            guard: told.spec.clone(),
            attached: self.executor.attached(),
            unhealed: self.executor.unhealed(),
        }
    }

    async fn act(&mut self, action: &Action) -> Result<(), ActError> {
        debug!(%action, "acting");
        let behind = self.guard_behind(action);
        let carried = self.executor.carry_out(action).await?;
        if let Some(interface) = behind {
            self.shared.tally(|tallies| tallies.guard_repairs += 1);
            self.tell_now(EventKind::GuardFirstAgain { interface });
        }
        self.tell_repair(action, carried);
        Ok(())
    }

    /// The interface whose guard this action brings to the front again.
    fn guard_behind(&self, action: &Action) -> Option<String> {
        let Action::Attach { ifindex } = action else { return None };
        let uplinks = &self.decision.desired.uplinks;
        let uplink = uplinks.iter().find(|uplink| uplink.ifindex == Some(*ifindex));
        self.executor
            .guard_is_behind(*ifindex)
            .then(|| uplink.map_or_else(|| format!("interface {ifindex}"), |uplink| uplink.interface.clone()))
    }

    /// What a stranger did is put right when the connections are healed, or with the rules while nothing is steered.
    fn tell_repair(&mut self, action: &Action, carried: Carried) {
        let right = match action {
            Action::Heal { .. } => true,
            Action::Table { .. } => !self.decision.desired.armed,
            _ => false,
        };
        if !right {
            return;
        }
        let Some((TableChange { what, program, pid, .. }, since)) = self.meddled.take() else { return };
        let desired = &self.decision.desired;
        let unguarded = (desired.armed && !desired.guard).then(|| since.elapsed());
        self.shared.tally(|tallies| {
            tallies.repairs += 1;
            tallies.unguarded += unguarded.unwrap_or_default();
        });
        let unguarded_ms = unguarded.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.tell_now(EventKind::TableRepaired { what, program, pid, healed: carried.healed, unguarded_ms });
    }

    fn tell_flips(&self, decision: &Decision) {
        let (flips, exhausted) = decide::flips(&self.decision.desired, &decision.desired);
        for flip in flips {
            if let Some(reason) = &flip.reason {
                let key = (flip.stream.clone(), reason.name().to_owned());
                self.shared.tally(|tallies| *tallies.flips.entry(key).or_default() += 1);
            }
            self.tell_now(flip.into());
        }
        exhausted.into_iter().for_each(|kind| self.tell_now(kind));
    }

    fn tell(&self, events: &[Event]) {
        events.iter().for_each(|event| self.shared.happened(event));
    }

    fn tell_now(&self, kind: EventKind) {
        self.shared.happened(&Event { at: Timestamp::now(), kind });
    }

    fn publish(&mut self) {
        let desired = &self.decision.desired;
        let attached = self.executor.attached();
        let ways = desired.uplinks.iter().filter_map(|uplink| uplink.ifindex);
        let locks = Locks {
            table: self.executor.written().is_some(),
            table_owned: self.executor.table_is_owned(),
            guard: ways.clone().count() > 0 && ways.clone().all(|ifindex| attached.contains(&ifindex)),
            guard_armed: self.executor.told().spec.as_ref().is_some_and(|spec| spec.armed),
            guard_error: self.no_guard().map(str::to_owned),
        };
        self.shared.publish(Published {
            world: self.world.clone(),
            decision: self.decision.clone(),
            pending: self.pending.clone(),
            locks,
            config_error: self.config_error.clone(),
            config_loaded: self.config_loaded,
            faults: self.faults.clone(),
            settled: self.settled,
        });
        if let Some(published) = self.shared.published() {
            let headline = status::status(&self.shared, &published).headline;
            self.outside.manager.status(&headline.sentence);
            self.outside.steering.send_replace(headline.level != Level::Broken);
        }
    }
}

/// A stream that only its cgroup tells apart would leave as another's, or unsteered.
fn told_without_ebpf(config: &Config, why: &str) -> Result<(), LoadError> {
    match config.matched_by_cgroup() {
        None => Ok(()),
        Some(stream) => Err(LoadError::Cgroup { stream: stream.name.clone(), why: why.to_owned() }),
    }
}

/// What is said of a command: that the disk did not take it, too.
async fn with_receipt(text: String, receipt: Option<Receipt>) -> String {
    let Some(receipt) = receipt else { return text };
    let cause = match tokio::time::timeout(KEPT, receipt).await {
        Ok(Ok(Ok(()))) => return text,
        Ok(Ok(Err(cause))) => cause,
        Ok(Err(_ended)) => "the state database was closed".to_owned(),
        Err(_late) => "the disk does not answer".to_owned(),
    };
    format!("{text}; it is in effect, but not on the disk yet and forgotten if the agent ends: {cause}")
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let mut texts = vec![error.to_string()];
    texts.extend(causes.map(ToString::to_string));
    texts.join(": ")
}

/// Every address of the host, as a plan sees them.
pub(super) fn addresses(host: &Host) -> Vec<AddressAt> {
    let entry = |entry: &Address| {
        let link = host.links.iter().find(|link| link.index == entry.ifindex)?;
        Some(AddressAt {
            address: entry.address,
            interface: link.name.clone(),
            kind: if link.loopback { WantedKind::Tag } else { WantedKind::Source },
            ours: entry.ours,
        })
    };
    host.addresses.iter().filter_map(entry).collect()
}
