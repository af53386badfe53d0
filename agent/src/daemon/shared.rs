//! What the reconciler publishes and everybody else reads.
//!
//! Owns: one consistent view of world, decision and health, swapped as a whole, and the journals of events and
//! connections. Must not: change the world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use jiff::Timestamp;
use mailsteer_core::decide::{Decision, Event, EventKind, World};
use mailsteer_core::plan::Action;

use super::Options;
use super::counts::Counts;
use super::disturbances::Disturbances;
use super::journal::Journal;
use crate::api::view::{ConnectionRow, EventRow, Locks};

/// How many events are kept in memory.
const EVENTS: usize = 10_000;
/// How many connections are kept in memory: at 100 a second, the last 100 seconds and more.
const CONNECTIONS: usize = 20_000;

/// The last reconcile's result.
pub(super) struct Published {
    pub(super) world: World,
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
    /// How often a stranger's program stood before the guard.
    pub(super) guard_repairs: u64,
    /// Flips by stream and cause.
    pub(super) flips: BTreeMap<(String, String), u64>,
}

/// Everything that is shared.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) started: Instant,
    pub(super) events: Journal<EventRow>,
    pub(super) connections: Journal<ConnectionRow>,
    published: RwLock<Option<Arc<Published>>>,
    tallies: Mutex<Tallies>,
    counts: RwLock<Arc<Counts>>,
    disturbances: Mutex<Disturbances>,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            started: Instant::now(),
            events: Journal::new(EVENTS),
            connections: Journal::new(CONNECTIONS),
            published: RwLock::new(None),
            tallies: Mutex::new(Tallies::default()),
            counts: RwLock::default(),
            disturbances: Mutex::default(),
        }
    }

    /// The last reconcile's result; `None` before the first.
    pub(super) fn published(&self) -> Option<Arc<Published>> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, published: Published) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(published));
    }

    /// The last reading of the counters.
    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a reading, and tells what it shows of strangers' doings.
    pub(super) fn set_counts(&self, counts: Counts) {
        let begun = self.disturbances().take_in(&counts, Instant::now());
        for what in begun {
            self.happened(&Event { at: Timestamp::now(), kind: EventKind::Disturbed { what } });
        }
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(counts);
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
        tracing::info!(kind = event.kind.name(), subject = event.kind.subject(), "{text}");
        let evidence = serde_json::to_value(&event.kind).unwrap_or_default();
        let pairs = evidence.as_object().into_iter().flatten();
        let word =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.events.add(EventRow {
            time: event.at,
            kind: event.kind.name().to_owned(),
            subject: event.kind.subject().to_owned(),
            text,
            evidence: pairs
                .filter(|(key, _)| key.as_str() != "kind")
                .map(|(key, value)| (key.clone(), word(value)))
                .collect(),
        });
    }
}
