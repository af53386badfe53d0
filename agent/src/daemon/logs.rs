//! Logs that are followed: who reads each, and the way of its news to the loop.
//!
//! Owns: a thread for each log, begun and ended as the config says, and the order in which a batch goes: joined, taken in by the
//! loop, and only then the next. Must not: read a line or decide what follows. The loop counts and keeps a batch together with
//! how far the log is read with it; a thread goes no further than the loop, so that memory stays flat however long a log is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mailsteer_core::config::Log;
use mailsteer_core::decide::{Event, EventKind};
use mailsteer_core::signal::follow::{Bookmark, Loss};
use mailsteer_core::signal::log::{Delivery, LogCounts, RECIPIENTS};
use tokio::sync::mpsc::WeakSender;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcomes::Reported;
use super::reconcile::Trigger;
use super::shared::{LogNow, Published, Shared};
use crate::api::view::OutcomeReport;
use crate::observe::log::{Batch, LOOK, Reader};
use crate::state::LogRead;

/// How soon it is looked again whether the loop began.
const BEGUN: Duration = Duration::from_millis(50);

/// One log's thread.
struct Following {
    log: Log,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Following {
    async fn end(self) {
        self.stop.cancel();
        // One that panicked has ended too.
        let _ended = self.thread.await;
    }
}

/// Follows whatever logs are wanted.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    mut wanted: watch::Receiver<Vec<Log>>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut running: BTreeMap<String, Following> = BTreeMap::new();
        loop {
            let next = wanted.borrow_and_update().clone();
            for name in running.keys().cloned().collect::<Vec<_>>() {
                let stays = running.get(&name).is_some_and(|one| next.contains(&one.log));
                if !stays && let Some(one) = running.remove(&name) {
                    one.end().await;
                    shared.set_log(&name, None);
                }
            }
            for log in next {
                running.entry(log.name.clone()).or_insert_with(|| begin(log, &stop, &shared, &triggers));
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        for one in running.into_values() {
            one.end().await;
        }
    });
}

fn begin(
    log: Log,
    stop: &CancellationToken,
    shared: &Arc<Shared>,
    triggers: &WeakSender<Trigger>,
) -> Following {
    let stop = stop.child_token();
    let reader = Follower {
        last: shared.outcomes.bookmark(&log.name),
        log: log.clone(),
        stop: stop.clone(),
        shared: Arc::clone(shared),
        triggers: triggers.clone(),
    };
    Following { log, stop, thread: tokio::task::spawn_blocking(move || reader.run()) }
}

/// What a thread has.
struct Follower {
    log: Log,
    /// As the loop has it.
    last: Option<Bookmark>,
    stop: CancellationToken,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
}

/// The loop has ended.
struct Ended;

impl Follower {
    fn run(mut self) {
        let mut reader = Reader::new(&self.log, self.last.as_ref());
        while !self.stop.is_cancelled() {
            let (mut more, mut now) = (false, self.now());
            match reader.read() {
                Ok(batch) => {
                    (more, now.behind) = (batch.more, batch.behind);
                    now.up = batch.up.then_some(true).or(now.up);
                    if batch.up {
                        now.fault = None;
                    }
                    if self.hand_on(batch).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // What it says may be long, and a name in it anybody's.
                    let why = error.to_string().chars().filter(|c| !c.is_control()).collect();
                    (now.up, now.fault) = (Some(false), Some(why));
                }
            }
            self.shared.set_log(&self.log.name, Some(now));
            if !more && !reader.waits() {
                std::thread::sleep(LOOK);
            }
        }
    }

    fn now(&self) -> LogNow {
        let place = self.log.place.to_string();
        self.shared.logs().remove(&self.log.name).unwrap_or(LogNow { place, ..LogNow::default() })
    }

    /// Gives a batch to the loop, and waits until it is taken in.
    fn hand_on(&mut self, batch: Batch) -> Result<(), Ended> {
        let Batch { deliveries, counts, bookmark, lost, .. } = batch;
        for loss in lost {
            self.shared.happened(&Event { at: Timestamp::now(), kind: missed(&self.log, loss) });
        }
        if counts == LogCounts::default() && self.last.as_ref() == Some(&bookmark) {
            return Ok(());
        }
        if !deliveries.is_empty() {
            self.shared.outcomes.caught_up_blocking();
        }
        let published = self.published()?;
        let reports: Vec<OutcomeReport> = deliveries.into_iter().flat_map(reports).collect();
        self.shared.claims.of_reports(&reports);
        let (delivered, taken) = self.shared.outcomes.take(reports, &published.world, Timestamp::now());
        let read = LogRead { bookmark: bookmark.clone(), counts };
        let reported = Reported::new(delivered, &taken, Some((self.log.name.clone(), read)));
        let (taken_in, answer) = oneshot::channel();
        let triggers = self.triggers.upgrade().ok_or(Ended)?;
        triggers.blocking_send(Trigger::Delivered(reported, Some(taken_in))).map_err(|_closed| Ended)?;
        drop(triggers);
        answer.blocking_recv().map_err(|_closed| Ended)?;
        self.last = Some(bookmark);
        Ok(())
    }

    /// Before the first pass nobody knows whose a connection is.
    fn published(&self) -> Result<Arc<Published>, Ended> {
        loop {
            if let Some(published) = self.shared.published() {
                return Ok(published);
            }
            if self.stop.is_cancelled() {
                return Err(Ended);
            }
            std::thread::sleep(BEGUN);
        }
    }
}

/// One for each recipient.
fn reports(one: Delivery) -> impl Iterator<Item = OutcomeReport> {
    let times = one.recipients.clamp(1, RECIPIENTS) as usize;
    let report = OutcomeReport {
        time: one.at,
        destination: one.destination,
        source: None,
        stream: None,
        pid: one.pid,
        handed: one.handed,
        connecting: one.connecting,
        local_port: one.local_port,
        reply: one.reply,
        complaint: false,
        host: one.host,
    };
    std::iter::repeat_n(report, times)
}

fn missed(log: &Log, loss: Loss) -> EventKind {
    let place = &log.place;
    let what = match loss {
        Loss::Gone => format!(
            "a file that was followed is gone, and with it what was written to it since: {place} was rotated more often \
             than it is kept uncompressed while nobody read it (logrotate's `delaycompress` keeps one)"
        ),
        Loss::Emptied => format!(
            "{place} was emptied, and no copy of it is beside it: what was written to it in the last quarter of a second \
             is not read (logrotate's `copytruncate` with `delaycompress` keeps one)"
        ),
    };
    EventKind::LogMissed { log: log.name.clone(), what }
}
