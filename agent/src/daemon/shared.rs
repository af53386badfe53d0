//! What the reconciler publishes and everybody else reads.
//!
//! Owns: one consistent view of world, decision and health, swapped as a whole, and the journals of events and
//! connections. Must not: change the world.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::decide::{Decision, Event, EventKind, World};
use mailsteer_core::plan::Action;
use mailsteer_core::signal::dns::Report;
use mailsteer_core::signal::feeds::Standing;
use mailsteer_core::signal::lists;
use mailsteer_core::signal::providers::Standing as Learning;

use super::Options;
use super::claims::Claims;
use super::counts::Counts;
use super::diary::Diary;
use super::disturbances::Disturbances;
use super::handshakes::Handshakes;
use super::hooks::Hooks;
use super::journal::Journal;
use super::outcomes::Outcomes;
use super::signals::Known;
use crate::api::view::{ConnectionRow, EventRow, Locks};
use crate::state::Store;

/// How many events are kept in memory.
const EVENTS: usize = 10_000;
/// How many connections are kept in memory: at 100 a second, the last 100 seconds and more.
const CONNECTIONS: usize = 20_000;

/// How long `status` tells of a damaged state database: over a night and a morning.
const TELL_DAMAGE: SignedDuration = SignedDuration::from_hours(24);
/// Kind of the event that tells of one.
const DAMAGED: &str = "state-damaged";

/// The last reconcile's result.
pub(super) struct Published {
    pub(super) world: World,
    /// Its sources and lanes by the numbers that marks bear.
    pub(super) known: Known,
    pub(super) decision: Decision,
    /// What is left to do; empty where everything stands as desired.
    pub(super) pending: Vec<Action>,
    pub(super) locks: Locks,
    pub(super) config_error: Option<String>,
    pub(super) config_loaded: Timestamp,
    pub(super) faults: Vec<String>,
    /// When everything was last found or made as desired.
    pub(super) settled: Option<Instant>,
}

/// What is counted since the agent started.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    pub(super) repairs: u64,
    /// For how long no lock held, where there is one only.
    pub(super) unguarded: Duration,
    /// How often a stranger's program stood before the guard.
    pub(super) guard_repairs: u64,
    /// Flips by stream and cause.
    pub(super) flips: BTreeMap<(String, String), u64>,
    /// Flips that a guard rail held, by which.
    pub(super) withheld: BTreeMap<&'static str, u64>,
    /// Pending connections that took another source after a flip.
    pub(super) moved: u64,
    /// Live ones that were ended after a flip.
    pub(super) ended: u64,
}

/// A DNS list as it stands.
#[derive(Clone, Debug)]
pub(super) struct ListNow {
    pub(super) name: String,
    pub(super) standing: lists::Standing,
    /// Public addresses that are on it.
    pub(super) listed: Vec<IpAddr>,
}

/// A log that is followed, as it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LogNow {
    /// Where it is.
    pub(super) place: String,
    /// Whether it is read; `None`: nobody knows yet.
    pub(super) up: Option<bool>,
    /// Why it is not.
    pub(super) fault: Option<String>,
    /// Bytes that are not taken in yet, where that is known.
    pub(super) behind: Option<u64>,
}

/// Everything that is shared.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) started: Instant,
    pub(super) events: Journal<EventRow>,
    pub(super) connections: Journal<ConnectionRow>,
    pub(super) handshakes: Handshakes,
    pub(super) store: Store,
    /// The number of the last event.
    numbered: Mutex<u64>,
    /// The store's fault as it was last told.
    told_fault: Mutex<Option<String>>,
    published: RwLock<Option<Arc<Published>>>,
    /// All was torn down: what was published is true no longer, and nothing takes its place.
    withdrawn: AtomicBool,
    tallies: Mutex<Tallies>,
    counts: RwLock<Arc<Counts>>,
    disturbances: Mutex<Disturbances>,
    lists: Mutex<Arc<Vec<ListNow>>>,
    dns: Mutex<Arc<Report>>,
    learning: Mutex<Option<Learning>>,
    /// Names of next hops that nobody looked up yet.
    pub(super) claims: Claims,
    /// How it goes with feeds, by name.
    feeds: Mutex<BTreeMap<String, Standing>>,
    logs: Mutex<BTreeMap<String, LogNow>>,
    /// What became of messages.
    pub(super) outcomes: Outcomes,
    /// Who is told of events.
    pub(super) hooks: Hooks,
    /// What addresses did today.
    pub(super) diary: Diary,
}

impl Shared {
    /// With the events that were kept, oldest first.
    pub(super) fn new(options: Options, store: Store, kept: Vec<EventRow>) -> Self {
        let events = Journal::new(EVENTS);
        let last = kept.last().map_or(0, |event| event.number);
        kept.into_iter().for_each(|event| events.add(event));
        Self {
            options,
            started: Instant::now(),
            events,
            connections: Journal::new(CONNECTIONS),
            handshakes: Handshakes::default(),
            store,
            numbered: Mutex::new(last),
            told_fault: Mutex::default(),
            published: RwLock::new(None),
            withdrawn: AtomicBool::new(false),
            tallies: Mutex::new(Tallies::default()),
            counts: RwLock::default(),
            disturbances: Mutex::default(),
            lists: Mutex::default(),
            dns: Mutex::default(),
            learning: Mutex::default(),
            claims: Claims::default(),
            feeds: Mutex::default(),
            logs: Mutex::default(),
            outcomes: Outcomes::default(),
            hooks: Hooks::default(),
            diary: Diary::default(),
        }
    }

    /// The last reconcile's result; `None` before the first and after a teardown.
    pub(super) fn published(&self) -> Option<Arc<Published>> {
        if self.withdrawn.load(Ordering::Acquire) { None } else { self.last_published() }
    }

    /// The same, after a teardown too: for the last counts, which are to be named as they were.
    pub(super) fn last_published(&self) -> Option<Arc<Published>> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, published: Published) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(published));
    }

    /// Nobody is told any more what was published.
    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    /// The last reading of the counters.
    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what was counted, and tells what it shows of strangers' doings.
    pub(super) fn set_counts(&self, counts: Counts) {
        let begun = self.disturbances().take_in(&counts, Instant::now());
        for what in begun {
            self.happened(&Event { at: Timestamp::now(), kind: EventKind::Disturbed { what } });
        }
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(counts);
    }

    /// DNS lists that are asked, as they stand.
    pub(super) fn lists(&self) -> Arc<Vec<ListNow>> {
        Arc::clone(&self.lists.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_lists(&self, lists: Vec<ListNow>) {
        *self.lists.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(lists);
    }

    /// What the last run found of DNS compliance; nothing before the first.
    pub(super) fn dns(&self) -> Arc<Report> {
        Arc::clone(&self.dns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_dns(&self, report: Report) {
        *self.dns.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// How learning whose receivers are goes; `None` where nobody does.
    pub(super) fn learning(&self) -> Option<Learning> {
        self.learning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_learning(&self, learning: Option<Learning>) {
        *self.learning.lock().unwrap_or_else(PoisonError::into_inner) = learning;
    }

    /// Lists that nobody looks at, in words.
    pub(super) fn lists_aside(&self) -> Vec<String> {
        let aside = |list: &ListNow| {
            let why = list.standing.aside.as_ref()?;
            Some(format!("nobody looks whether sources are on {}: {why}", list.name))
        };
        self.lists().iter().filter_map(aside).collect()
    }

    fn feeds(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these feeds are fetched; nothing is known of them yet.
    pub(super) fn set_feeds(&self, names: impl Iterator<Item = String>) {
        *self.feeds() = names.map(|name| (name, Standing::default())).collect();
    }

    /// How it goes with one, where it is fetched still.
    pub(super) fn set_feed(&self, name: &str, standing: &Standing) {
        if let Some(known) = self.feeds().get_mut(name) {
            known.clone_from(standing);
        }
    }

    /// Whether each feed can be read.
    pub(super) fn feeds_up(&self) -> Vec<(String, bool)> {
        self.feeds().iter().map(|(name, standing)| (name.clone(), standing.is_up())).collect()
    }

    /// Feeds that cannot be read, and what those that can say that is bad, in words.
    pub(super) fn feed_faults(&self, world: &World) -> Vec<String> {
        let failed = |(name, standing): (&String, &Standing)| {
            Some(format!("feed {name} cannot be read: {}", standing.fault()?))
        };
        let mut faults: Vec<String> = self.feeds().iter().filter_map(failed).collect();
        faults.extend(world.bad_words().map(|(feed, source, reading)| {
            let (words, of) = (&reading.words, reading.at.strftime("%Y-%m-%d"));
            format!("feed {feed} says of {source} as of {of}: {words}; no share moves for that")
        }));
        faults
    }

    /// Logs that are followed, as they stand.
    pub(super) fn logs(&self) -> BTreeMap<String, LogNow> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a log stands, and tells what that is news of. `None`: it is followed no longer.
    pub(super) fn set_log(&self, log: &str, now: Option<LogNow>) {
        let (before, now) = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let before = match &now {
                Some(now) => logs.insert(log.to_owned(), now.clone()),
                None => logs.remove(log),
            };
            (before.and_then(|before| before.fault), now)
        };
        let Some(LogNow { place, fault, .. }) = now else { return };
        let (log, at) = (log.to_owned(), Timestamp::now());
        let kind = match (before, fault) {
            (before, Some(why)) if before.as_ref() != Some(&why) => EventKind::LogUnread { log, place, why },
            (Some(_), None) => EventKind::LogRead { log, place },
            _ => return,
        };
        self.happened(&Event { at, kind });
    }

    /// Logs that are not read, in words.
    pub(super) fn logs_unread(&self) -> Vec<String> {
        let unread = |(log, now): (String, LogNow)| {
            let (place, why) = (now.place, now.fault?);
            Some(EventKind::LogUnread { log, place, why }.to_string())
        };
        self.logs().into_iter().filter_map(unread).collect()
    }

    /// What strangers do now, in words.
    pub(super) fn disturbed(&self) -> Vec<String> {
        self.disturbances().now(Instant::now())
    }

    fn disturbances(&self) -> MutexGuard<'_, Disturbances> {
        self.disturbances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tallies(&self) -> Tallies {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tally(&self, count: impl FnOnce(&mut Tallies)) {
        count(&mut self.tallies.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Keeps an event and logs it.
    pub(super) fn happened(&self, event: &Event) {
        let text = event.kind.to_string();
        self.diary.happened(&event.kind, |name| self.public_of(name));
        tracing::info!(kind = event.kind.name(), subject = event.kind.subject(), "{text}");
        let evidence = serde_json::to_value(&event.kind).unwrap_or_default();
        let pairs = evidence.as_object().into_iter().flatten();
        let word =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Held until both have it: numbers come in order.
        let mut numbered = self.numbered.lock().unwrap_or_else(PoisonError::into_inner);
        *numbered += 1;
        let row = EventRow {
            number: *numbered,
            time: event.at,
            kind: event.kind.name().to_owned(),
            subject: event.kind.subject().to_owned(),
            text,
            evidence: pairs
                .filter(|(key, _)| key.as_str() != "kind")
                .map(|(key, value)| (key.clone(), word(value)))
                .collect(),
        };
        self.store.event(&row);
        self.hooks.tell(&event.kind, &row);
        self.events.add(row);
    }

    /// The public address of a source.
    fn public_of(&self, name: &str) -> Option<IpAddr> {
        let published = self.last_published()?;
        published.world.pool_sources().find(|source| source.name == name).map(|source| source.public)
    }

    /// Tells what became of the state database since this was last asked.
    pub(super) fn look_at_state(&self) {
        let now = |kind| self.happened(&Event { at: Timestamp::now(), kind });
        for damage in self.store.damages() {
            now(EventKind::StateDamaged { what: damage.what });
        }
        let fault = self.store.fault();
        let mut told = self.told_fault.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*told, &fault) {
            (None, Some(why)) => now(EventKind::StateFailed { why: why.clone() }),
            (Some(_), None) => now(EventKind::StateRecovered),
            _ => {}
        }
        *told = fault;
    }

    /// What is wrong with the state database, and what was within a day.
    pub(super) fn state_faults(&self) -> Vec<String> {
        let now = Timestamp::now();
        let damage = self.events.last(EVENTS).into_iter().rev().find(|event| event.kind == DAMAGED);
        let damage = damage.filter(|event| now.duration_since(event.time) < TELL_DAMAGE);
        self.store.fault().into_iter().chain(damage.map(|event| event.text)).collect()
    }
}
