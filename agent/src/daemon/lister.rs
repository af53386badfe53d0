//! DNS lists, asked as the core's machine wants them.
//!
//! Owns: the machine, the queries that are under way, and the time by which it goes: one that nobody can set. Must not: read an
//! answer, or decide what follows; what the machine finds is told to the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use mailsteer_core::config::ListSettings;
use mailsteer_core::decide::{Failure, State, World};
use mailsteer_core::signal::lists::{Answer, List, ListEvent, Lists, Query};
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::clock::Steady;
use super::reconcile::Trigger;
use super::shared::{ListNow, Shared};
use crate::observe::dns::Resolver;

/// Where there is nothing to ask, it is looked again as often.
const IDLE: Duration = Duration::from_secs(60);

/// What is to be asked.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Wanted {
    settings: Option<ListSettings>,
    addresses: BTreeSet<IpAddr>,
    /// What is known to be on a list from before.
    listed: BTreeSet<(String, IpAddr)>,
}

impl Wanted {
    pub(super) fn of(world: &World) -> Self {
        let public: BTreeMap<IpAddr, IpAddr> =
            world.pool_sources().map(|source| (source.local, source.public)).collect();
        let listed = world.verdicts().filter_map(|(local, _, verdict)| match &verdict.state {
            State::Isolated { cause: Failure::Listed { list, .. }, .. } => {
                Some((list.clone(), *public.get(&local)?))
            }
            _ => None,
        });
        Self {
            settings: world.config().lists.clone(),
            addresses: public.values().copied().collect(),
            listed: listed.collect(),
        }
    }

    /// Whether another machine is needed, and not only told of other addresses.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.settings != other.settings || self.addresses != other.addresses
    }
}

type Answered = (Query, Answer, Option<String>);

struct Lister {
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
    tasks: TaskTracker,
    time: Steady,
    machine: Option<(Lists, Resolver)>,
    answers: mpsc::Sender<Answered>,
}

/// Begins to ask whatever is wanted, and follows changes of that.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    wanted: watch::Receiver<Wanted>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
) {
    let (answers, inbox) = mpsc::channel(64);
    let time = Steady::begin();
    let lister = Lister { shared, triggers, tasks: tasks.clone(), time, machine: None, answers };
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = lister.run(wanted, inbox) => {}
        }
    });
}

impl Lister {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, mut inbox: mpsc::Receiver<Answered>) {
        let mut last = Wanted::default();
        loop {
            let now = self.time.now();
            let mut deadline = IDLE;
            if let Some((machine, resolver)) = &mut self.machine {
                for query in machine.due(now) {
                    ask(&self.tasks, resolver.clone(), self.answers.clone(), query);
                }
                let due = machine.next_deadline().map_or(SignedDuration::MAX, |due| due.duration_since(now));
                deadline = Duration::try_from(due).unwrap_or_default().min(IDLE);
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = wanted.borrow_and_update().clone();
                    self.follow(&last, &next);
                    last = next;
                }
                answered = inbox.recv() => {
                    let Some((query, answer, words)) = answered else { return };
                    self.take(&query, &answer, words).await;
                }
                () = tokio::time::sleep(deadline) => {}
            }
        }
    }

    fn follow(&mut self, last: &Wanted, next: &Wanted) {
        if let Some((machine, _)) = &mut self.machine
            && last.settings == next.settings
        {
            return machine.watch(next.addresses.clone());
        }
        self.machine = None;
        self.shared.set_lists(vec![]);
        let Some(settings) = &next.settings else { return };
        match Resolver::at(settings.resolver) {
            Ok(resolver) => {
                let lists = settings.lists.iter().filter_map(|list| with_key(list, settings)).collect();
                let seed = (fastrand::u64(..), self.time.now());
                let machine =
                    Lists::new(lists, next.addresses.clone(), next.listed.clone(), settings.pace, seed);
                self.machine = Some((machine, resolver));
            }
            Err(error) => warn!("{error}"),
        }
        self.publish();
    }

    async fn take(&mut self, query: &Query, answer: &Answer, words: Option<String>) {
        let now = self.time.now();
        let Some((machine, _)) = &mut self.machine else { return };
        let events: Vec<ListEvent> = machine.answered(query, answer, words, now);
        self.publish();
        if events.is_empty() {
            return;
        }
        if let Some(triggers) = self.triggers.upgrade() {
            // A loop that has ended needs to hear of nothing.
            let _ended = triggers.send(Trigger::Lists(events)).await;
        }
    }

    fn publish(&self) {
        let Some((machine, _)) = &self.machine else { return };
        let listed: Vec<(&str, IpAddr)> = machine.listed().collect();
        let row = |(name, standing): (&str, &mailsteer_core::signal::lists::Standing)| ListNow {
            name: name.to_owned(),
            standing: standing.clone(),
            listed: listed.iter().filter(|(list, _)| *list == name).map(|(_, address)| *address).collect(),
        };
        self.shared.set_lists(machine.standings().map(row).collect());
    }
}

/// A list that wants a key which cannot be read is not asked, and that is said.
fn with_key(list: &List, settings: &ListSettings) -> Option<List> {
    if !list.wants_key() {
        return Some(list.clone());
    }
    let file = settings.keys.get(&list.name)?;
    match std::fs::read_to_string(file) {
        Ok(key) if !key.trim().is_empty() => Some(list.clone().with_key(key.trim())),
        Ok(_) => {
            warn!("{file} holds no key: nobody looks whether sources are on {}", list.name);
            None
        }
        Err(error) => {
            warn!("cannot read the key {file}: {error}: nobody looks whether sources are on {}", list.name);
            None
        }
    }
}

fn ask(tasks: &TaskTracker, resolver: Resolver, answers: mpsc::Sender<Answered>, query: Query) {
    tasks.spawn(async move {
        let answer = resolver.addresses(&query.name).await;
        let is_listed = matches!(&answer, Answer::Addresses(all) if !all.is_empty());
        let words = if query.reason && is_listed { resolver.words(&query.name).await } else { None };
        // A lister that has ended needs no answer.
        let _ended = answers.send((query, answer, words)).await;
    });
}
