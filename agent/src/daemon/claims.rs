//! Names of next hops out of logs, on their way to who asks for them.
//!
//! Owns: a bounded place for them. Must not: believe any.

use std::sync::{Mutex, PoisonError};

use mailsteer_core::signal::providers::Claim;
use tokio::sync::Notify;

use crate::api::view::OutcomeReport;

/// More at a time are left out: the same names come again with the next message.
const ROOM: usize = 4096;

/// Claims that nobody took in yet.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: Mutex<Vec<Claim>>,
    notify: Notify,
}

impl Claims {
    /// Those that reports bear.
    pub(super) fn of_reports(&self, reports: &[OutcomeReport]) {
        self.add(
            reports
                .iter()
                .filter_map(|report| Some(Claim { host: report.host.clone()?, address: report.destination })),
        );
    }

    fn add(&self, claims: impl Iterator<Item = Claim>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in claims {
            if waiting.len() < ROOM && waiting.last() != Some(&claim) {
                waiting.push(claim);
            }
        }
        if !waiting.is_empty() {
            self.notify.notify_one();
        }
    }

    /// Until there are some.
    pub(super) async fn told(&self) {
        self.notify.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Claim> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
