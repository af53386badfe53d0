//! How long receivers let handshakes wait, by provider and by source.
//!
//! Owns: counting those that came to something, since the agent started. Must not: judge; a source whose connections are not
//! answered is found by what became of them. What the kernel could not tell (`mailsteer_unfollowed_total`, records that were lost)
//! is missing here, so these are times and no numbers of connections.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::view::{ConnectionRow, Outcome};
use crate::telemetry::histogram::Histogram;

/// Both, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) providers: BTreeMap<String, Histogram>,
    pub(super) sources: BTreeMap<String, Histogram>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<Times>);

impl Handshakes {
    /// Counts a connection, if it stood and left from a source.
    pub(super) fn count(&self, row: &ConnectionRow) {
        let Some(source) = &row.wanted_source else { return };
        if row.outcome != Outcome::Established {
            return;
        }
        let took = Duration::try_from_secs_f64(row.handshake_ms / 1e3).unwrap_or_default();
        let mut times = self.times();
        let Times { providers, sources } = &mut *times;
        for (by, name) in [(providers, &row.provider), (sources, source)] {
            // Names are there nearly always: none is copied for nothing.
            match by.get_mut(name) {
                Some(histogram) => histogram.observe(took),
                None => by.entry(name.clone()).or_default().observe(took),
            }
        }
    }

    /// What was counted so far.
    pub(super) fn so_far(&self) -> Times {
        self.times().clone()
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
