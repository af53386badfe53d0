//! Whose receivers are, learned as the core's machine wants it.
//!
//! Owns: the machine, the questions that are under way, the file that keeps what is known over a restart, and the time by which all
//! that goes: one that nobody can set. Must not: read an answer, or decide what follows; what is learned is told to the loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::Learning;
use mailsteer_core::signal::providers::{KeptHost, Learned, Learner as Machine, NameAnswer, NameQuery};
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::reconcile::Trigger;
use super::shared::Shared;
use crate::observe::dns::Resolver;

/// Where there is nothing to ask, it is looked again as often.
const IDLE: Duration = Duration::from_secs(60);
/// What is known is written down no more often.
const KEEP: Duration = Duration::from_secs(10);
/// A file of more is none of ours.
const LARGEST: u64 = 64 << 20;

type Answered = (NameQuery, NameAnswer);

struct Learner {
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
    tasks: TaskTracker,
    began: (Timestamp, Instant),
    machine: Option<(Machine, Resolver)>,
    /// What an earlier agent knew, until there is a machine.
    kept: Vec<KeptHost>,
    answers: mpsc::Sender<Answered>,
    /// What is known differs from the file, and when that was written.
    unwritten: bool,
    written: Instant,
}

fn file(state: &Path) -> PathBuf {
    state.join("receivers.json")
}

/// What an earlier agent knew; nothing where that cannot be read: then it is learned again.
pub(super) fn kept(state: &Path) -> Vec<KeptHost> {
    let path = file(state);
    if std::fs::metadata(&path).is_ok_and(|about| about.len() > LARGEST) {
        warn!("{} is too large and is passed over", path.display());
        return vec![];
    }
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return vec![],
        Err(error) => {
            warn!("{}: {error}; whose receivers are is learned again", path.display());
            return vec![];
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        warn!("{}: {error}; whose receivers are is learned again", path.display());
        vec![]
    })
}

/// Whose addresses are as an earlier agent knew it, under this config.
pub(super) fn learned(learning: Option<&Learning>, kept: &[KeptHost], now: Timestamp) -> Arc<Learned> {
    let machine = learning.map(|how| Machine::new(how.wanted.clone(), kept.to_vec(), (0, now)));
    Arc::new(machine.map(|machine| machine.learned().clone()).unwrap_or_default())
}

/// Begins to learn whatever is wanted, and follows changes of that.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    wanted: watch::Receiver<Option<Learning>>,
    kept: Vec<KeptHost>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
) {
    let (answers, inbox) = mpsc::channel(64);
    let learner = Learner {
        shared,
        triggers,
        tasks: tasks.clone(),
        began: (Timestamp::now(), Instant::now()),
        machine: None,
        kept,
        answers,
        unwritten: false,
        written: Instant::now(),
    };
    tasks.spawn(learner.run(stop.clone(), wanted, inbox));
}

impl Learner {
    fn now(&self) -> Timestamp {
        let (began, since) = self.began;
        began.checked_add(SignedDuration::try_from(since.elapsed()).unwrap_or_default()).unwrap_or(began)
    }

    async fn run(
        mut self,
        stop: CancellationToken,
        mut wanted: watch::Receiver<Option<Learning>>,
        mut inbox: mpsc::Receiver<Answered>,
    ) {
        let mut last = None;
        let shared = Arc::clone(&self.shared);
        loop {
            let deadline = self.ask();
            tokio::select! {
                () = stop.cancelled() => break,
                changed = wanted.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let next = wanted.borrow_and_update().clone();
                    self.follow(last.as_ref(), next.as_ref());
                    last = next;
                }
                answered = inbox.recv() => {
                    let Some((query, answer)) = answered else { break };
                    let now = self.now();
                    if let Some((machine, _)) = &mut self.machine {
                        machine.answered(&query, &answer, now);
                    }
                }
                () = shared.claims.told() => {
                    let now = self.now();
                    if let Some((machine, _)) = &mut self.machine {
                        shared.claims.take().iter().for_each(|claim| machine.claim(claim, now));
                    }
                }
                () = tokio::time::sleep(deadline) => {}
            }
            self.tell().await;
            if self.unwritten && self.written.elapsed() >= KEEP {
                self.write().await;
            }
        }
        if self.unwritten {
            self.write().await;
        }
    }

    /// Asks what is due, and says how long nothing more is.
    fn ask(&mut self) -> Duration {
        let now = self.now();
        let Some((machine, resolver)) = &mut self.machine else { return IDLE };
        for query in machine.due(now) {
            let (resolver, answers) = (resolver.clone(), self.answers.clone());
            self.tasks.spawn(async move {
                let answer = match &query {
                    NameQuery::Mx(domain) => resolver.mail_servers(domain).await,
                    NameQuery::Addresses(name, family) => resolver.addresses_of(name, *family).await,
                };
                // A learner that has ended needs no answer.
                let _ended = answers.send((query, answer)).await;
            });
        }
        let due = machine.next_deadline().map_or(SignedDuration::MAX, |due| due.duration_since(now));
        let due = Duration::try_from(due).unwrap_or_default().min(IDLE);
        if self.unwritten { due.min(KEEP.saturating_sub(self.written.elapsed())) } else { due }
    }

    fn follow(&mut self, last: Option<&Learning>, next: Option<&Learning>) {
        if last == next {
            return;
        }
        let now = self.now();
        let before = self.machine.take().map(|(machine, _)| machine);
        if let Some(before) = &before {
            self.kept = before.kept();
        }
        let Some(next) = next else { return };
        match Resolver::at(next.resolver) {
            Ok(resolver) => {
                let machine = match before {
                    Some(before) => before.follow(next.wanted.clone(), now),
                    None => Machine::new(
                        next.wanted.clone(),
                        std::mem::take(&mut self.kept),
                        (fastrand::u64(..), now),
                    ),
                };
                self.machine = Some((machine, resolver));
            }
            Err(error) => warn!("{error}"),
        }
    }

    /// Tells what was learned where it differs, and how it goes.
    async fn tell(&mut self) {
        let Some((machine, _)) = &mut self.machine else {
            self.shared.set_learning(None);
            return;
        };
        self.shared.set_learning(Some(machine.standing().clone()));
        if !machine.take_changed() {
            return;
        }
        self.unwritten = true;
        let learned = Arc::new(machine.learned().clone());
        if let Some(triggers) = self.triggers.upgrade() {
            // A loop that has ended needs to hear of nothing.
            let _ended = triggers.send(Trigger::Receivers(learned)).await;
        }
    }

    /// Keeps what is known for the next agent. Where that fails it is learned again by then.
    async fn write(&mut self) {
        (self.unwritten, self.written) = (false, Instant::now());
        let Some((machine, _)) = &self.machine else { return };
        let path = file(&self.shared.options.state);
        let next = path.with_extension("json.next");
        let kept = async {
            tokio::fs::write(&next, serde_json::to_vec(&machine.kept())?).await?;
            tokio::fs::rename(&next, &path).await
        };
        if let Err(error) = kept.await {
            warn!("{}: {error}; after a restart receivers are learned again", path.display());
        }
    }
}

/// Why names say nothing now, in words; `None` where they do.
pub(super) fn fault(standing: &mailsteer_core::signal::providers::Standing) -> Option<String> {
    /// Questions in a row without an answer that are no accident of one name's zone.
    const FAILURES: u32 = 20;
    let why = standing.why.as_ref().filter(|_| standing.failures >= FAILURES)?;
    Some(format!(
        "names of mail servers cannot be looked up ({why}): whose receivers are stays as it is known"
    ))
}
