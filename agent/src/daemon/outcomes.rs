//! What became of messages: reports are judged, joined to connections, and told to the loop.
//!
//! Owns: the table of rules in force, the connections that stood lately, and what was heard so far. Must not: decide what
//! follows, or guess whose a report is. What is counted is counted by the loop, with what follows from it and how far a log was
//! read: all of that is kept in one transaction, so that no line counts twice or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::PoolSource;
use mailsteer_core::decide::{FuseWindows, World};
use mailsteer_core::model::Delivered;
use mailsteer_core::signal::follow::Bookmark;
use mailsteer_core::signal::join::{Connections, Found, Sought, Stood, Turn};
use mailsteer_core::signal::reply::{Judgement, Reply, ReplyTable};
use tokio::sync::{mpsc, oneshot};

use crate::api::view::{ConnectionRow, Outcome, OutcomeReport, OutcomesTaken};
use crate::state::{Heard, LogRead};

/// A reply is cut for people to read.
const SHOWN: usize = 300;

/// What became of messages, on its way to the loop.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// What was joined to a source.
    pub(super) delivered: Vec<Delivered>,
    ambiguous: u64,
    unknown: u64,
    /// The log that says so, what was counted of its lines, and how far it is taken in with them.
    log: Option<(String, LogRead)>,
}

impl Reported {
    pub(super) const fn new(
        delivered: Vec<Delivered>,
        taken: &OutcomesTaken,
        log: Option<(String, LogRead)>,
    ) -> Self {
        Self { delivered, ambiguous: taken.ambiguous, unknown: taken.unknown, log }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    table: Mutex<Option<Arc<ReplyTable>>>,
    connections: Mutex<Connections>,
    heard: Mutex<Heard>,
    /// Who reads the kernel's records, and answers once those of now are read.
    records: OnceLock<mpsc::Sender<oneshot::Sender<()>>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcomes {
    /// From now on judged by this.
    pub(super) fn judge_by(&self, table: Arc<ReplyTable>) {
        *held(&self.table) = Some(table);
    }

    /// From now on records are read, by one who answers here.
    pub(super) fn begin(&self, turns_told: bool) -> mpsc::Receiver<oneshot::Sender<()>> {
        held(&self.connections).begin(Timestamp::now(), turns_told);
        let (asks, asked) = mpsc::channel(64);
        // There is one reader in an agent's life.
        let _there = self.records.set(asks);
        asked
    }

    /// Waits until all that the kernel told before now is read: a line of a log may be here sooner than the record of its
    /// connection.
    pub(super) async fn caught_up(&self) {
        let Some(records) = self.records.get() else { return };
        let (answer, read) = oneshot::channel();
        if records.send(answer).await.is_ok() {
            // Only a reader that has ended does not answer; it has said that nothing is known any more.
            let _ended = read.await;
        }
    }

    /// The same, for a thread that may wait.
    pub(super) fn caught_up_blocking(&self) {
        let Some(records) = self.records.get() else { return };
        let (answer, read) = oneshot::channel();
        if records.blocking_send(answer).is_ok() {
            let _ended = read.blocking_recv();
        }
    }

    /// Records were lost.
    pub(super) fn lost_some(&self) {
        held(&self.connections).lost(Timestamp::now());
    }

    /// No record is read any more.
    pub(super) fn lost_all(&self) {
        held(&self.connections).begin(Timestamp::MAX, false);
    }

    /// A process turned to a connection.
    pub(super) fn turned(&self, turn: Turn, many: bool) {
        let mut connections = held(&self.connections);
        connections.turned(turn);
        if many {
            connections.has_many(turn.pid);
        }
    }

    /// A connection's row was written.
    pub(super) fn connected(&self, row: &ConnectionRow) {
        let (Some(stream), Some(source)) = (&row.stream, row.wanted_address) else { return };
        if row.outcome != Outcome::Established {
            return;
        }
        held(&self.connections).stood(Stood {
            at: row.time,
            pid: row.pid,
            cookie: row.cookie,
            local_port: row.local_port,
            destination: row.destination,
            stream: stream.clone(),
            source,
            provider: row.provider.clone(),
        });
    }

    /// All that was heard and taken in.
    pub(super) fn heard(&self) -> Heard {
        held(&self.heard).clone()
    }

    /// As it was kept.
    pub(super) fn restore(&self, kept: Heard) {
        *held(&self.heard) = kept;
    }

    /// What fuses had counted when that was kept: the world counts on.
    pub(super) fn take_fuses(&self) -> FuseWindows {
        std::mem::take(&mut held(&self.heard).fuses)
    }

    /// How far a log was taken in.
    pub(super) fn bookmark(&self, log: &str) -> Option<Bookmark> {
        held(&self.heard).logs.get(log).map(|read| read.bookmark.clone())
    }

    /// Counts what the loop takes in.
    pub(super) fn count(&self, reported: &Reported) {
        let mut heard = held(&self.heard);
        heard.ambiguous += reported.ambiguous;
        heard.unknown += reported.unknown;
        for one in reported.delivered.iter().filter(|one| !one.complaint) {
            *heard.replies.entry((one.provider.clone(), one.judgement.class)).or_insert(0) += 1;
        }
        if let Some((name, LogRead { bookmark, counts })) = &reported.log {
            let log = heard.logs.entry(name.clone()).or_default();
            log.bookmark.clone_from(bookmark);
            log.counts.add(counts);
        }
    }

    /// Judges and joins; what could be joined comes back beside what is said of it.
    pub(super) fn take(
        &self,
        reports: Vec<OutcomeReport>,
        world: &World,
        now: Timestamp,
    ) -> (Vec<Delivered>, OutcomesTaken) {
        let (mut delivered, mut taken) = (vec![], OutcomesTaken::default());
        let names: BTreeMap<IpAddr, &str> =
            world.pool_sources().map(|source| (source.local, source.name.as_str())).collect();
        for report in reports {
            let mut counted_for = String::new();
            match self.place(&report, world, now) {
                Ok(Place::Of(place)) => match self.delivered(&report, place, now) {
                    Ok(one) => {
                        taken.joined += 1;
                        let name = names.get(&one.source).map(|name| (*name).to_owned());
                        counted_for = name.unwrap_or_else(|| one.source.to_string());
                        delivered.push(one);
                    }
                    Err(why) => taken.refused.push(why),
                },
                Ok(Place::Ambiguous) => taken.ambiguous += 1,
                Ok(Place::Nowhere) => taken.unknown += 1,
                Err(why) => taken.refused.push(why),
            }
            taken.sources.push(counted_for);
        }
        (delivered, taken)
    }

    fn delivered(
        &self,
        report: &OutcomeReport,
        (stream, source, provider): (String, IpAddr, String),
        now: Timestamp,
    ) -> Result<Delivered, String> {
        let (judgement, permanent) = self.read(report, &provider)?;
        Ok(Delivered {
            at: report.time.unwrap_or(now).min(now),
            stream,
            source,
            provider,
            destination: report.destination,
            judgement,
            permanent,
            complaint: report.complaint,
            reply: report.reply.chars().filter(|c| !c.is_control()).take(SHOWN).collect(),
        })
    }

    fn read(&self, report: &OutcomeReport, provider: &str) -> Result<(Judgement, bool), String> {
        if report.complaint {
            return Ok((Judgement::of_no_reply(), false));
        }
        let Some(reply) = Reply::read(&report.reply) else {
            return Err(format!("`{}` is no reply: it begins with a code, 200 to 599", cut(&report.reply)));
        };
        let table = held(&self.table).clone();
        let judgement =
            table.map_or_else(Judgement::of_no_reply, |table| table.judge(&reply, Some(provider)));
        Ok((judgement, reply.code >= 500))
    }

    fn place(&self, report: &OutcomeReport, world: &World, now: Timestamp) -> Result<Place, String> {
        let Some(named) = &report.source else {
            let at = report.time.unwrap_or(now).min(now);
            let sought = Sought {
                at,
                within: open_time(report.time),
                pid: report.pid,
                handed: report.handed,
                connecting: report.connecting.map(|at| (at, open_time(Some(at)))),
                local_port: report.local_port,
                destination: report.destination,
            };
            return Ok(match held(&self.connections).find(&sought) {
                Found::One(one) => Place::Of((one.stream.clone(), one.source, one.provider.clone())),
                Found::Ambiguous => Place::Ambiguous,
                Found::None => Place::Nowhere,
            });
        };
        let source = source(world, named)?;
        let stream = stream(world, report.stream.as_deref(), source)?;
        let provider = world.provider_of(report.destination).to_owned();
        Ok(Place::Of((stream, source.local, provider)))
    }
}

/// How much later than it says a reply may have been: a log of whole seconds leaves the rest of one open.
fn open_time(written: Option<Timestamp>) -> SignedDuration {
    let whole = written.is_some_and(|at| at.subsec_nanosecond() == 0);
    if whole { SignedDuration::from_millis(999) } else { SignedDuration::ZERO }
}

enum Place {
    /// Stream, source by its address on this host, provider.
    Of((String, IpAddr, String)),
    Ambiguous,
    Nowhere,
}

fn source<'w>(world: &'w World, named: &str) -> Result<&'w PoolSource, String> {
    let address: Option<IpAddr> = named.parse().ok();
    let is_it = |source: &&PoolSource| {
        source.name == named || address.is_some_and(|it| source.public == it || source.local == it)
    };
    world.pool_sources().find(is_it).ok_or_else(|| format!("there is no source `{}`", cut(named)))
}

/// The stream that was named, or the only one that uses the source.
fn stream(world: &World, named: Option<&str>, source: &PoolSource) -> Result<String, String> {
    let pools: Vec<&str> = world
        .config()
        .pools
        .values()
        .filter(|pool| pool.sources.iter().any(|one| one.local == source.local))
        .map(|pool| pool.name.as_str())
        .collect();
    let users: Vec<&str> = world
        .config()
        .streams
        .iter()
        .filter(|stream| pools.contains(&stream.pool.as_str()))
        .map(|stream| stream.name.as_str())
        .collect();
    match (named, users.as_slice()) {
        (Some(named), users) if users.contains(&named) => Ok(named.to_owned()),
        (Some(named), _) => Err(format!("stream `{}` does not use source {}", cut(named), source.name)),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => Err(format!("no stream uses source {}", source.name)),
        (None, users) => {
            Err(format!("source {} is used by {}: name the stream", source.name, users.join(", ")))
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
