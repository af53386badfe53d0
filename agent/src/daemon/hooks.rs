//! Hooks, told of events as the core routes them.
//!
//! Owns: a queue and a worker for each hook, what is tried again when, and the counts. Must not: choose what is told, or make
//! anybody wait: whoever has an event hands it over and goes on. No failure of a hook becomes an event, or it would go in circles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailsteer_core::config::{Hook, HookWay};
use mailsteer_core::decide::EventKind;
use mailsteer_core::hook::Hooks as Router;
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::clock::Steady;
use crate::act::hook::{Program, Untold, Webhook, without_capabilities};
use crate::api::view::EventRow;

/// Events that wait for a hook at most: hours of a bad night, 1 MB.
const WAITING: usize = 1_000;
/// How soon a URL is tried again, the first time; twice as long each time.
const FIRST: Duration = Duration::from_secs(1);
/// And at the latest.
const LONGEST: Duration = Duration::from_secs(300);

/// What became of a hook's events since the agent started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counted {
    delivered: u64,
    failed: u64,
    retried: u64,
    dropped: u64,
    repeated: u64,
}

impl Counted {
    /// Each count with its word in metrics.
    pub(super) const fn each(&self) -> [(&'static str, u64); 5] {
        [
            ("delivered", self.delivered),
            ("failed", self.failed),
            ("retried", self.retried),
            ("dropped", self.dropped),
            ("repeated", self.repeated),
        ]
    }
}

/// An event on its way.
#[derive(Clone, Debug)]
struct Delivery {
    json: Arc<str>,
    number: u64,
    kind: String,
    subject: String,
}

/// What a hook still has to be told, and how that goes.
#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<VecDeque<Delivery>>,
    came: Notify,
    counted: Mutex<Counted>,
    /// Why the last try came to nothing.
    fault: Mutex<Option<String>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn hand_in(&self, name: &str, delivery: Delivery) {
        let mut waiting = held(&self.waiting);
        // The first ones are the cause of the others.
        if waiting.len() >= WAITING {
            let dropped = &mut held(&self.counted).dropped;
            *dropped += 1;
            if dropped.is_power_of_two() {
                warn!(
                    hook = name,
                    dropped, "{WAITING} events wait for hook {name} already: others are dropped"
                );
            }
            return;
        }
        waiting.push_back(delivery);
        self.came.notify_one();
    }

    /// The next one, which stays in the queue until it is done with.
    async fn next(&self) -> Delivery {
        loop {
            if let Some(next) = held(&self.waiting).front().cloned() {
                return next;
            }
            self.came.notified().await;
        }
    }

    fn done(&self, name: &str, went: Result<(), String>) {
        held(&self.waiting).pop_front();
        match went {
            Ok(()) => {
                held(&self.counted).delivered += 1;
                if held(&self.fault).take().is_some() {
                    info!(hook = name, "hook {name} is told again");
                }
            }
            Err(why) => {
                held(&self.counted).failed += 1;
                warn!(hook = name, "hook {name} was not told, and is not told again: {why}");
                *held(&self.fault) = Some(why);
            }
        }
    }

    /// Said once, as long as it stays the same.
    fn later(&self, name: &str, why: &str) {
        held(&self.counted).retried += 1;
        let before = held(&self.fault).replace(why.to_owned());
        if before.as_deref() != Some(why) {
            warn!(hook = name, "hook {name} cannot be told now and is tried again: {why}");
        }
    }
}

/// A hook that is told, until `stop`.
struct Door {
    hook: Hook,
    desk: Arc<Desk>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Inner {
    /// Where workers run; `None`: there are none, as at boot.
    runs: Option<(TaskTracker, CancellationToken, Steady)>,
    router: Router,
    doors: Vec<Door>,
}

/// Every hook.
#[derive(Default)]
pub(super) struct Hooks(Mutex<Inner>);

impl Hooks {
    /// From now on there are workers.
    pub(super) fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        held(&self.0).runs = Some((tasks.clone(), stop.clone(), Steady::begin()));
    }

    /// These from now on. What waits for one that stays still waits, by whatever way it is told now.
    pub(super) fn set(&self, hooks: &[Hook]) {
        let mut inner = held(&self.0);
        let Some((tasks, stop, _)) = inner.runs.clone() else { return };
        let mut before: BTreeMap<String, Door> =
            inner.doors.drain(..).map(|door| (door.hook.name.clone(), door)).collect();
        let door = |hook: &Hook| match before.remove(&hook.name) {
            Some(door) if door.hook == *hook => door,
            other => {
                let desk = other.map(|door| {
                    door.stop.cancel();
                    Arc::clone(&door.desk)
                });
                let (desk, stop) = (desk.unwrap_or_default(), stop.child_token());
                spawn(&tasks, hook, Arc::clone(&desk), stop.clone());
                Door { hook: hook.clone(), desk, stop }
            }
        };
        inner.doors = hooks.iter().map(door).collect();
        before.into_values().for_each(|door| door.stop.cancel());
        inner.router.set(hooks);
    }

    /// Hands an event to whom it concerns.
    pub(super) fn tell(&self, kind: &EventKind, row: &EventRow) {
        let mut inner = held(&self.0);
        let Some((_, _, time)) = inner.runs else { return };
        let routed = inner.router.route(kind, time.now());
        for door in routed.left_out.iter().filter_map(|&place| inner.doors.get(place)) {
            held(&door.desk.counted).repeated += 1;
        }
        for (place, left_out) in routed.to {
            let Some(door) = inner.doors.get(place) else { continue };
            let delivery = Delivery {
                json: json_of(row, kind.is_alarm(), left_out).into(),
                number: row.number,
                kind: row.kind.clone(),
                subject: row.subject.clone(),
            };
            door.desk.hand_in(&door.hook.name, delivery);
        }
    }

    /// What became of events, by hook.
    pub(super) fn counted(&self) -> Vec<(String, Counted)> {
        held(&self.0).doors.iter().map(|door| (door.hook.name.clone(), *held(&door.desk.counted))).collect()
    }

    /// Hooks that are not told, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let fault = |door: &Door| {
            let why = held(&door.desk.fault).clone()?;
            let (name, waiting) = (&door.hook.name, held(&door.desk.waiting).len());
            Some(match waiting {
                0 => format!("hook {name} was not told of the last event: {why}"),
                n => format!("hook {name} is not told, {n} events wait: {why}"),
            })
        };
        held(&self.0).doors.iter().filter_map(fault).collect()
    }
}

/// What a hook gets.
fn json_of(row: &EventRow, alarm: bool, left_out: u64) -> String {
    json!({
        "host": host(),
        "number": row.number,
        "time": row.time,
        "kind": row.kind,
        "subject": row.subject,
        "text": row.text,
        "evidence": row.evidence,
        "alarm": alarm,
        "left_out": left_out,
    })
    .to_string()
}

/// This host's name; empty where it cannot be read.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

fn spawn(tasks: &TaskTracker, hook: &Hook, desk: Arc<Desk>, stop: CancellationToken) {
    let name = hook.name.clone();
    let patience = Duration::try_from(hook.timeout).unwrap_or(FIRST);
    match &hook.way {
        HookWay::Url { url, secret, ca } => {
            let webhook = Webhook::new(url, secret.clone(), ca.as_deref(), patience);
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = post_all(&name, &webhook, &desk) => {}
                }
            });
        }
        HookWay::Command(words) => {
            let program = Program::new(words.clone(), patience);
            let (ended, end) = oneshot::channel::<()>();
            // A thread of its own: what it starts has none of the agent's capabilities.
            let thread = std::thread::Builder::new().name("hook".to_owned());
            let started = thread.spawn(move || {
                run_here(&name, &program, &desk, &stop);
                drop(ended);
            });
            if let Err(error) = started {
                warn!("hook {} is not told of anything: no thread for it: {error}", hook.name);
            }
            tasks.spawn(async move {
                let _ended = end.await;
            });
        }
    }
}

async fn post_all(name: &str, webhook: &Webhook, desk: &Desk) {
    let mut wait = FIRST;
    loop {
        let next = desk.next().await;
        match webhook.post(&next.json).await {
            Ok(()) => desk.done(name, Ok(())),
            Err(Untold::Refused(why)) => desk.done(name, Err(why)),
            Err(Untold::Later(why)) => {
                desk.later(name, &why);
                // Not all hosts of a site at the same moment.
                tokio::time::sleep(wait.mul_f64(1.0 + fastrand::f64() / 4.0)).await;
                wait = (wait * 2).min(LONGEST);
                continue;
            }
        }
        wait = FIRST;
    }
}

/// Runs programs on this thread, one after the other, until `stop`.
fn run_here(name: &str, program: &Program, desk: &Desk, stop: &CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ready = without_capabilities().and(runtime);
    let runtime = match ready {
        Ok(runtime) => runtime,
        Err(error) => {
            warn!("hook {name} is not told of anything: {error}");
            *held(&desk.fault) = Some(error.to_string());
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run_all(name, program, desk) => {}
        }
    });
}

async fn run_all(name: &str, program: &Program, desk: &Desk) {
    let host = host();
    loop {
        let next = desk.next().await;
        let number = next.number.to_string();
        let about = [
            ("MAILSTEER_HOST", host.as_str()),
            ("MAILSTEER_NUMBER", &number),
            ("MAILSTEER_KIND", &next.kind),
            ("MAILSTEER_SUBJECT", &next.subject),
        ];
        let went = program.run(&next.json, &about).await;
        desk.done(name, went);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(number: u64) -> Delivery {
        Delivery { json: "{}".into(), number, kind: "listed".to_owned(), subject: "a".to_owned() }
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted_and_the_first_stay() {
        let desk = Desk::default();
        for number in 0..2 * WAITING as u64 {
            desk.hand_in("h", delivery(number));
        }
        let numbers: Vec<u64> = held(&desk.waiting).iter().map(|one| one.number).collect();
        assert_eq!(numbers, (0..WAITING as u64).collect::<Vec<_>>());
        assert_eq!(held(&desk.counted).dropped, WAITING as u64);
    }

    #[test]
    fn what_a_hook_gets_is_all_that_is_known() {
        let row = EventRow {
            number: 7,
            time: jiff::Timestamp::UNIX_EPOCH,
            kind: "listed".to_owned(),
            subject: "main-1".to_owned(),
            text: "main-1 is on zen".to_owned(),
            evidence: [("list".to_owned(), "zen".to_owned())].into(),
        };
        let told: serde_json::Value = serde_json::from_str(&json_of(&row, true, 2)).unwrap();
        assert_eq!(told["time"], "1970-01-01T00:00:00Z");
        assert_eq!((&told["number"], &told["left_out"]), (&json!(7), &json!(2)));
        assert_eq!((&told["evidence"]["list"], &told["alarm"]), (&json!("zen"), &json!(true)));
        assert_eq!(told["host"].as_str().map(str::is_empty), Some(false));
    }
}
