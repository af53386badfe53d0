//! DNS compliance, looked at as often as the config says.
//!
//! Owns: when a run begins, and the time by which it goes: one that nobody can set. Must not: judge; the core's checks do, its
//! watch says what counts as changed, and that is told to the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use mailsteer_core::config::DnsSettings;
use mailsteer_core::decide::World;
use mailsteer_core::signal::dns::{Check, Plan, Report, Subject, Watch};
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::clock::Steady;
use super::reconcile::Trigger;
use super::shared::Shared;
use crate::observe::dns::{Resolver, survey};

/// Where there is nothing to look at, it is looked again as often.
const IDLE: Duration = Duration::from_secs(60);

/// What is to be looked at.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Wanted {
    settings: Option<DnsSettings>,
    plan: Plan,
    /// What is known to fail a check from before.
    lost: BTreeSet<(Subject, Check)>,
}

impl Wanted {
    pub(super) fn of(world: &World) -> Self {
        let public: BTreeMap<IpAddr, IpAddr> =
            world.pool_sources().map(|source| (source.local, source.public)).collect();
        let sources = world
            .dns_faults()
            .filter_map(|(local, check, _)| Some((Subject::Source(*public.get(&local)?), check)));
        let domains = world.dns_domain_faults();
        let lost = sources.chain(domains.map(|(name, check, _)| (Subject::Domain(name.to_owned()), check)));
        let settings = world.config().dns.clone();
        let plan = settings.as_ref().map(|settings| Plan::of(world.config(), settings)).unwrap_or_default();
        Self { settings, plan, lost: lost.collect() }
    }

    /// Whether another watch is needed.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.settings != other.settings || self.plan != other.plan
    }
}

/// A run that ended, and to which watch it belongs.
type Ran = (u64, Report);

struct Compliance {
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
    tasks: TaskTracker,
    stop: CancellationToken,
    time: Steady,
    now: Option<Looking>,
    /// Counts watches: a run that an earlier one began says nothing to a later one.
    number: u64,
    ran: mpsc::Sender<Ran>,
}

struct Looking {
    watch: Watch,
    resolver: Resolver,
    plan: Arc<Plan>,
    /// A run is under way.
    busy: bool,
}

/// Begins to look at whatever is wanted, and follows changes of that.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    wanted: watch::Receiver<Wanted>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
) {
    let (ran, inbox) = mpsc::channel(4);
    let compliance = Compliance {
        shared,
        triggers,
        tasks: tasks.clone(),
        stop: stop.clone(),
        time: Steady::begin(),
        now: None,
        number: 0,
        ran,
    };
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = compliance.run(wanted, inbox) => {}
        }
    });
}

impl Compliance {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, mut inbox: mpsc::Receiver<Ran>) {
        loop {
            let deadline = self.begin_what_is_due();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = wanted.borrow_and_update().clone();
                    self.follow(next);
                }
                ran = inbox.recv() => {
                    let Some((number, report)) = ran else { return };
                    if number == self.number {
                        self.take(report).await;
                    }
                }
                () = tokio::time::sleep(deadline) => {}
            }
        }
    }

    /// How long there is nothing to do.
    fn begin_what_is_due(&mut self) -> Duration {
        let now = self.time.now();
        let Some(looking) = self.now.as_mut().filter(|looking| !looking.busy) else { return IDLE };
        let wait = looking.watch.due().duration_since(now);
        if wait > SignedDuration::ZERO {
            return Duration::try_from(wait).unwrap_or_default().min(IDLE);
        }
        looking.busy = true;
        let (resolver, plan) = (looking.resolver.clone(), Arc::clone(&looking.plan));
        let (ran, number, stop) = (self.ran.clone(), self.number, self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                report = survey(&resolver, &plan) => {
                    // Nobody is left to hear of it.
                    let _ended = ran.send((number, report)).await;
                }
            }
        });
        IDLE
    }

    fn follow(&mut self, next: Wanted) {
        self.number += 1;
        self.now = None;
        self.shared.set_dns(Report::default());
        let Some(settings) = next.settings else { return };
        match Resolver::at(settings.resolver) {
            Ok(resolver) => {
                let watch = Watch::new(settings.interval, next.lost, self.time.now());
                self.now = Some(Looking { watch, resolver, plan: Arc::new(next.plan), busy: false });
            }
            Err(error) => warn!("{error}"),
        }
    }

    async fn take(&mut self, report: Report) {
        let now = self.time.now();
        let Some(looking) = &mut self.now else { return };
        looking.busy = false;
        let events = looking.watch.took(&report, fastrand::u16(0..=1000), now);
        self.shared.set_dns(report);
        if events.is_empty() {
            return;
        }
        if let Some(triggers) = self.triggers.upgrade() {
            // A loop that has ended needs to hear of nothing.
            let _ended = triggers.send(Trigger::Dns(events)).await;
        }
    }
}
