//! From the kernel's records of connections to rows that name stream, source and process.
//!
//! Owns: naming. A record carries numbers (lane, source, cgroup id) and boot time; a row carries words and the time
//! of day. A connection of which no SYN left bears no mark, so its stream is found as `explain` finds it. Must not:
//! count; the kernel does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mailsteer_core::decide::{Explanation, Who, explain};
use mailsteer_core::model::LaneId;
use mailsteer_core::signal::join::Turn;
use mailsteer_ebpf::{Event, Mark, Outcome as Kind, Told, Turned};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::clock::Clock;
use super::control::unmapped;
use super::counts::Gatherer;
use super::reconcile::Trigger;
use super::shared::{Published, Shared};
use super::signals::Listener;
use crate::act::bpf::BpfPaths;
use crate::api::view::{ConnectionRow, Outcome};
use crate::observe::bpf::{Events, Moment, Record};

/// How often the counters are read for metrics, and silent connections ended: with thousands of sources nothing else
/// takes more time while nothing happens (docs/performance.md).
const READING: Duration = Duration::from_secs(3);

/// Follows the kernel's records until stopped.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    paths: &BpfPaths,
    (ebpf, turns_told): (bool, bool),
    shared: Arc<Shared>,
    gatherer: Arc<Gatherer>,
    triggers: mpsc::Sender<Trigger>,
) -> Result<()> {
    let mut events = if ebpf { Some(Events::open(&paths.bpffs)?) } else { None };
    let (stop, mut cgroups) = (stop.clone(), Cgroups::new(paths.cgroup.clone()));
    // What is lost from here on is missing in what begins here.
    let mut lost = gatherer.events_lost();
    let mut asked = shared.outcomes.begin(turns_told);
    name_standing(&shared, &gatherer, &mut cgroups);
    let mut reading = tokio::time::interval(READING);
    let mut listener = Listener::default();
    tasks.spawn(async move {
        loop {
            let (doubt, mut asker) = (until(listener.next_due()), None);
            let batch = tokio::select! {
                batch = next(events.as_mut()) => batch,
                Some(who) = asked.recv() => {
                    asker = Some(who);
                    Ok(events.as_mut().map(Events::take).unwrap_or_default())
                }
                () = tokio::time::sleep(doubt) => Ok(Vec::new()),
                _ = reading.tick() => {
                    gatherer.gather(&shared).await;
                    shared.look_at_state();
                    let swept = gatherer.sweep().map_err(std::io::Error::other);
                    swept.map(|events| events.into_iter().map(Record::Event).collect())
                }
                () = stop.cancelled() => return,
            };
            match batch {
                Ok(batch) => {
                    keep(&shared, &gatherer, &mut cgroups, &batch);
                    let lost_now = gatherer.events_lost();
                    if std::mem::replace(&mut lost, lost_now) != lost_now {
                        warn!(
                            "records of connections were lost: for 15 minutes replies are joined by their port only"
                        );
                        shared.outcomes.lost_some();
                    }
                    if let Some(asker) = asker {
                        // It may have gone.
                        let _gone = asker.send(());
                    }
                    listen(&shared, &mut listener, &batch, &triggers).await;
                }
                Err(error) => {
                    error!("cannot read connection records; counters go on: {error}");
                    shared.outcomes.lost_all();
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Passes on what the records say of their sources.
async fn listen(
    shared: &Shared,
    listener: &mut Listener,
    batch: &[Record],
    triggers: &mpsc::Sender<Trigger>,
) {
    let Some(published) = shared.published() else { return };
    let signals = listener.hear(&published.known, Clock::now(), batch, Moment::now().since_boot);
    if !signals.is_empty() {
        // Only a loop that has ended does not take it.
        let _ended = triggers.send(Trigger::Traffic(signals)).await;
    }
}

/// How long until a time since boot; where there is none, as long as between two readings.
fn until(due: Option<u64>) -> Duration {
    due.map_or(READING, |due| Duration::from_nanos(due.saturating_sub(Moment::now().since_boot)))
}

/// The next records; never any where there is no eBPF that would make them.
async fn next(events: Option<&mut Events>) -> std::io::Result<Vec<Record>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

fn keep(shared: &Shared, gatherer: &Gatherer, cgroups: &mut Cgroups, batch: &[Record]) {
    if batch.is_empty() {
        return;
    }
    let Some(published) = shared.published() else {
        warn!(records = batch.len(), "connection records came before the first pass and are left out");
        shared.outcomes.lost_some();
        return;
    };
    let clock = Clock::now();
    for turned in batch.iter().filter_map(turned) {
        let (at, destination) = (clock.at(turned.at), unmapped(turned.daddr));
        let turn = Turn { at, pid: turned.pid, cookie: turned.cookie, destination };
        shared.outcomes.turned(turn, turned.many != 0);
    }
    for event in batch.iter().filter_map(ended) {
        let row = row(&published, cgroups, clock, event);
        let told = match row.outcome {
            Outcome::Policy => Told { policy: 1, local: 0 },
            Outcome::Local => Told { policy: 0, local: 1 },
            _ => Told::default(),
        };
        if told != Told::default() {
            gatherer.tell(lane_of(&published, &row), told);
        }
        shared.outcomes.connected(&row);
        shared.handshakes.count(&row);
        shared.connections.add(row);
    }
}

/// A process that turned to a connection.
const fn turned(record: &Record) -> Option<&Turned> {
    match record {
        Record::Turned(turned) => Some(turned),
        _ => None,
    }
}

/// Names the connections that stood before this agent began: replies still come on them.
fn name_standing(shared: &Shared, gatherer: &Gatherer, cgroups: &mut Cgroups) {
    let Some(published) = shared.published() else { return };
    match gatherer.standing() {
        Ok(standing) => {
            let clock = Clock::now();
            let rows = standing.iter().map(|event| row(&published, cgroups, clock, event));
            rows.for_each(|row| shared.outcomes.connected(&row));
        }
        Err(error) => {
            warn!(
                "cannot read which connections stand; replies of the next minutes are joined by their port only: {error}"
            );
            shared.outcomes.lost_some();
        }
    }
}

/// An attempt of which is known what became of it.
const fn ended(record: &Record) -> Option<&Event> {
    match record {
        Record::Event(event) if event.outcome < Kind::Again as u8 => Some(event),
        _ => None,
    }
}

/// The lane of a stream at a provider; 0 where none matched.
fn lane_of(published: &Published, row: &ConnectionRow) -> LaneId {
    let ids = published.world.ids();
    row.stream.as_ref().and_then(|stream| ids.lane(stream, &row.provider)).unwrap_or(LaneId(0))
}

fn row(published: &Published, cgroups: &mut Cgroups, clock: Clock, event: &Event) -> ConnectionRow {
    let mark = Mark::unpack(event.mark);
    let destination = unmapped(event.daddr);
    let outcome = outcome(event.outcome);
    let cgroup = (event.cgroup != 0).then(|| cgroups.path(event.cgroup));
    let wanted = mark.and_then(|mark| published.known.source(mark)).cloned();
    let (mut stream, provider) = match mark.and_then(|mark| published.known.lane(mark)) {
        Some((stream, provider)) => (Some(stream.clone()), provider.clone()),
        None => (None, published.world.provider_of(destination).to_owned()),
    };
    let mut told = outcome;
    if outcome == Outcome::Local {
        let explanation = meant(published, event, cgroup.as_deref(), destination);
        // Also where its program learned of it only when the SYN was sent again: a blocking connect() does, on IPv4.
        told = if explanation.refused.is_some() { Outcome::Policy } else { outcome };
        stream = explanation.stream;
    }
    let sent = told != Outcome::Local && told != Outcome::Policy;
    ConnectionRow {
        time: clock.at(event.started),
        pid: (event.pid != 0).then_some(event.pid),
        uid: (event.uid != u32::MAX).then_some(event.uid),
        cgroup,
        stream,
        provider,
        wanted_source: wanted.as_ref().map(|(name, _)| name.clone()),
        wanted_address: wanted.map(|(_, address)| address),
        real_address: sent.then(|| unmapped(event.saddr)),
        destination,
        destination_port: event.dport,
        local_port: (event.local_port != 0).then_some(event.local_port),
        cookie: (event.cookie != 0).then_some(event.cookie),
        outcome: told,
        #[expect(clippy::cast_precision_loss, reason = "milliseconds for people to read")]
        handshake_ms: event.decided.saturating_sub(event.started) as f64 / 1e6,
        retransmits: event.retransmits.into(),
    }
}

const fn outcome(number: u8) -> Outcome {
    match number {
        1 => Outcome::Established,
        2 => Outcome::Refused,
        3 => Outcome::Unreachable,
        4 => Outcome::Unanswered,
        _ => Outcome::Local,
    }
}

/// What should have become of a connection of which nothing left.
fn meant(published: &Published, event: &Event, cgroup: Option<&str>, destination: IpAddr) -> Explanation {
    let bound = unmapped(event.saddr);
    let who = Who {
        uid: (event.uid != u32::MAX).then_some(event.uid),
        gid: (event.gid != u32::MAX).then_some(event.gid),
        cgroup: cgroup.map(str::to_owned),
        tag: Some(bound),
        ..Who::default()
    };
    explain(&published.world, &published.decision.desired, &who, destination)
}

/// Paths of cgroups by their ids, which are their directories' inodes.
struct Cgroups {
    mount: PathBuf,
    known: HashMap<u64, String>,
}

/// More cgroups than this at a time are forgotten and looked up again.
const CGROUPS_KNOWN: usize = 4096;

impl Cgroups {
    fn new(mount: PathBuf) -> Self {
        Self { mount, known: HashMap::new() }
    }

    /// The path; the number where the cgroup is gone.
    fn path(&mut self, id: u64) -> String {
        if let Some(path) = self.known.get(&id) {
            return path.clone();
        }
        if self.known.len() >= CGROUPS_KNOWN {
            self.known.clear();
        }
        let path = find(&self.mount, &self.mount, id).unwrap_or_else(|| format!("id:{id}"));
        self.known.insert(id, path.clone());
        path
    }
}

fn find(mount: &Path, folder: &Path, id: u64) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata(folder).ok()?.ino() == id {
        let inside = folder.strip_prefix(mount).ok()?;
        return Some(inside.display().to_string());
    }
    let entries = std::fs::read_dir(folder).ok()?;
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).find_map(|inner| find(mount, &inner, id))
}
