//! Probes and rounds of the preflight that the core wants, made and told of.
//!
//! Owns: how many are under way, and that what they met comes back. Must not: choose source, receiver or time.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use mailsteer_core::model::Signal;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::WeakSender;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::reconcile::Trigger;
use crate::observe::port25;
use crate::observe::probe::{Patience, Probe};

/// Probes and rounds that are under way at a time. One takes a fraction of a second, or 50 s where nobody answers.
const AT_A_TIME: usize = 64;

/// Makes probes.
pub(super) struct Prober {
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Weak: the loop that is told ends with those that ask it something.
    triggers: WeakSender<Trigger>,
    places: Arc<Semaphore>,
}

impl Prober {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken, triggers: WeakSender<Trigger>) -> Self {
        Self { tasks, stop, triggers, places: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Begins one; false where too many are under way.
    pub(super) fn begin(&self, probe: Probe, provider: String) -> bool {
        self.spawn(make(probe, provider, self.triggers.clone()))
    }

    /// Begins a round of the preflight; `way` is a probe whose receiver is of no account. False where too many are under way.
    pub(super) fn begin_round(&self, way: Probe, receivers: Vec<String>) -> bool {
        self.spawn(make_round(way, receivers, self.triggers.clone()))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
        true
    }
}

async fn make(probe: Probe, provider: String, triggers: WeakSender<Trigger>) {
    let Probe { from, to, .. } = probe;
    match probe.run(Patience::default()).await {
        Ok(sign) => {
            debug!(%from, to = %to.ip(), ?sign, "probed");
            let signal = Signal {
                at: Timestamp::now(),
                source: from,
                provider,
                destination: SocketAddr::ip(&to),
                sign,
            };
            if let Some(triggers) = triggers.upgrade() {
                // A loop that has ended needs to hear of nothing.
                let _ended = triggers.send(Trigger::Traffic(vec![signal])).await;
            }
        }
        // It says nothing of the source, and is made again in a minute.
        Err(error) => warn!("{error}"),
    }
}

async fn make_round(way: Probe, receivers: Vec<String>, triggers: WeakSender<Trigger>) {
    let addresses = port25::addresses(&receivers, way.from).await;
    match port25::round(way, &addresses).await {
        Ok(tries) => {
            debug!(from = %way.from, ?tries, "tried port 25");
            if let Some(triggers) = triggers.upgrade() {
                // A loop that has ended needs to hear of nothing.
                let _ended = triggers.send(Trigger::Tried(way.from, tries)).await;
            }
        }
        // It says nothing of the source, and is made again in some minutes.
        Err(error) => warn!("{error}"),
    }
}
