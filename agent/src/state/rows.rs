//! What is kept, and reading it from rows.
//!
//! Owns: every statement that reads. Must not: open anything, or write (`written` does).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use mailsteer_core::decide::{Beliefs, Bypass, FuseCounts, FuseWindows, Hold, Suspension};
use mailsteer_core::signal::follow::Bookmark;
use mailsteer_core::signal::log::LogCounts;
use mailsteer_core::signal::reply::Class;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Row};

use super::days::{self, Days};
use super::ledger::{Ledger, Meter, Name, Place, Seen};
use super::outcome::Outcome;
use super::schema;
use crate::api::view::EventRow;

/// How many events come back into memory at start.
const EVENTS_READ: usize = 10_000;
/// Why replies are not joined.
pub(super) const UNJOINED: [&str; 2] = ["ambiguous", "unknown"];
/// The first schema that has beliefs.
const BELIEFS_SINCE: u32 = 2;
/// The first schema that has logs.
const LOGS_SINCE: u32 = 4;
/// The first schema that has what fuses counted.
const FUSES_SINCE: u32 = 5;
/// The parts that are read one by one from a damaged file; the last is the only one that is not in memory too.
pub(super) const PARTS: [&str; 7] = [
    "suspensions, bypasses and hold",
    "counters",
    "sources",
    "isolations and other beliefs",
    "what addresses did on earlier days",
    "how far logs were read and what fuses counted",
    "events",
];

/// A count that should be 0, and when it was last seen to grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    /// The count.
    pub count: u64,
    /// When; `None`: before anybody looked.
    pub last: Option<Timestamp>,
}

/// What is known of a source besides its counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFacts {
    /// The name that it bore last.
    pub name: String,
    /// Its address on this host.
    pub local: IpAddr,
    /// When it first stood in a config.
    pub first_seen: Timestamp,
    /// When connections were last counted that left from it.
    pub last_served: Option<Timestamp>,
}

/// What the operator said and still holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Word {
    /// Suspended sources by public address.
    pub suspended: BTreeMap<IpAddr, Suspension>,
    /// Streams that are left alone.
    pub bypassed: BTreeMap<String, Bypass>,
    /// Nothing is to change by itself.
    pub hold: Option<Hold>,
}

/// Everything that goes on being counted, at one time. Cheap to clone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checkpoint {
    /// Sums, and how far the kernel's counters were taken in.
    pub ledger: Ledger,
    /// By what is counted.
    pub growth: BTreeMap<String, Growth>,
    /// By public address.
    pub sources: Arc<BTreeMap<IpAddr, SourceFacts>>,
    /// What addresses did on the last days.
    pub days: Arc<Days>,
}

/// How far a log was taken in, and what was counted of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogRead {
    /// How far.
    pub bookmark: Bookmark,
    /// What was counted before.
    pub counts: LogCounts,
}

/// What was heard of receivers. It changes with beliefs, and is kept with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// By the logs' names.
    pub logs: BTreeMap<String, LogRead>,
    /// Replies by provider and class.
    pub replies: BTreeMap<(String, Class), u64>,
    /// Reports that could be several connections'.
    pub ambiguous: u64,
    /// Reports of no steered connection.
    pub unknown: u64,
    /// What fuses have counted: what the logs said up to where they were read.
    pub fuses: FuseWindows,
}

/// Everything that was kept.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Kept {
    /// What was counted.
    pub checkpoint: Checkpoint,
    /// What the operator said.
    pub word: Word,
    /// What was believed of sources.
    pub beliefs: Beliefs,
    /// What receivers said.
    pub heard: Heard,
    /// The last events, oldest first.
    pub events: Vec<EventRow>,
}

/// Reads everything.
pub(super) fn read(connection: &Connection) -> Result<Kept, Error> {
    let checkpoint = Checkpoint {
        ledger: ledger(connection)?,
        growth: growth(connection)?,
        sources: Arc::new(sources(connection)?),
        days: Arc::new(days::last(connection)?),
    };
    let mut events = Vec::new();
    read_events(connection, &mut events)?;
    events.reverse();
    let (word, beliefs, heard) = (word(connection)?, beliefs(connection)?, heard(connection)?);
    Ok(Kept { checkpoint, word, beliefs, heard, events })
}

/// Reads what a damaged database still tells, and says which parts it does not.
pub(super) fn salvage(connection: &Connection) -> (Kept, Vec<&'static str>) {
    let (mut kept, mut lost) = (Kept::default(), Vec::new());
    let mut part = |place: usize, whole: bool| {
        if !whole {
            lost.push(PARTS[place]);
        }
    };
    let said = word(connection);
    part(0, said.is_ok());
    kept.word = said.unwrap_or_default();
    // Sums without how far they go would count twice: both or none.
    let counted = ledger(connection);
    part(1, counted.is_ok());
    kept.checkpoint.ledger = counted.unwrap_or_default();
    kept.checkpoint.growth = growth(connection).unwrap_or_default();
    let known = sources(connection);
    part(2, known.is_ok());
    kept.checkpoint.sources = Arc::new(known.unwrap_or_default());
    let believed = beliefs(connection);
    part(3, believed.is_ok());
    kept.beliefs = believed.unwrap_or_default();
    let last = days::last(connection);
    part(4, last.is_ok());
    kept.checkpoint.days = Arc::new(last.unwrap_or_default());
    let said = heard(connection);
    part(5, said.is_ok());
    kept.heard = said.unwrap_or_default();
    part(6, read_events(connection, &mut kept.events).is_ok());
    kept.events.reverse();
    (kept, lost)
}

/// Rows as they are given, up to the first that cannot be read.
fn rows<T>(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| take(row))?.collect()
}

fn ledger(connection: &Connection) -> Result<Ledger, Error> {
    let mut words: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut shared = |word: String| Arc::clone(words.entry(word.clone()).or_insert_with(|| word.into()));
    let sums = rows(connection, "SELECT source, stream, provider, outcome, count FROM counters", |row| {
        // A word of another build of this schema stays where it is.
        let Some(outcome) = Outcome::parse(&row.get::<_, String>(3)?) else { return Ok(None) };
        let source: String = row.get(0)?;
        let source = (!source.is_empty()).then(|| address(0, &source)).transpose()?;
        let name = Name { source, stream: shared(row.get(1)?), provider: shared(row.get(2)?), outcome };
        Ok(Some((name, count(row, 4)?)))
    })?;
    let origins = rows(connection, "SELECT place, origin FROM origins", |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let place = |word: &str| Place::ALL.into_iter().find(|place| place.as_str() == word);
    let origins = origins
        .into_iter()
        .filter_map(|(word, origin)| Some((place(&word)?, Seen { origin, values: BTreeMap::new() })));
    let mut seen: BTreeMap<Place, Seen> = origins.collect();
    let values = rows(connection, "SELECT place, lane, source, outcome, value FROM readings", |row| {
        let outcome = Outcome::parse(&row.get::<_, String>(3)?);
        let meter = |outcome| Ok::<_, Error>(Meter { lane: row.get(1)?, source: row.get(2)?, outcome });
        Ok((row.get::<_, String>(0)?, outcome.map(meter).transpose()?, count(row, 4)?))
    })?;
    for (word, meter, value) in values {
        if let (Some(seen), Some(meter)) = (place(&word).and_then(|place| seen.get_mut(&place)), meter) {
            seen.values.insert(meter, value);
        }
    }
    Ok(Ledger::new(sums.into_iter().flatten().collect(), seen))
}

fn growth(connection: &Connection) -> Result<BTreeMap<String, Growth>, Error> {
    let found = rows(connection, "SELECT what, count, last FROM growth", |row| {
        Ok((row.get(0)?, Growth { count: count(row, 1)?, last: maybe_time(row, 2)? }))
    })?;
    Ok(found.into_iter().collect())
}

fn sources(connection: &Connection) -> Result<BTreeMap<IpAddr, SourceFacts>, Error> {
    let sql = "SELECT public, name, local, first_seen, last_served FROM sources";
    let found = rows(connection, sql, |row| {
        let facts = SourceFacts {
            name: row.get(1)?,
            local: address(2, &row.get::<_, String>(2)?)?,
            first_seen: time(row, 3)?,
            last_served: maybe_time(row, 4)?,
        };
        Ok((address(0, &row.get::<_, String>(0)?)?, facts))
    })?;
    Ok(found.into_iter().collect())
}

fn beliefs(connection: &Connection) -> Result<Beliefs, Error> {
    // An earlier schema, on a disk that takes no migration.
    if schema::version(connection)? < BELIEFS_SINCE {
        return Ok(Beliefs::default());
    }
    let mut found = rows(connection, "SELECT beliefs FROM beliefs", |row| {
        serde_json::from_str(&row.get::<_, String>(0)?).map_err(|error| unreadable(0, error))
    })?;
    Ok(found.pop().unwrap_or_default())
}

fn heard(connection: &Connection) -> Result<Heard, Error> {
    if schema::version(connection)? < LOGS_SINCE {
        return Ok(Heard::default());
    }
    let logs = rows(connection, "SELECT name, bookmark, counts FROM logs", |row| {
        let bookmark =
            serde_json::from_str(&row.get::<_, String>(1)?).map_err(|error| unreadable(1, error))?;
        let counts = serde_json::from_str(&row.get::<_, String>(2)?).map_err(|error| unreadable(2, error))?;
        Ok((row.get(0)?, LogRead { bookmark, counts }))
    })?;
    let replies = rows(connection, "SELECT provider, class, count FROM replies", |row| {
        let word: String = row.get(1)?;
        // A word of another build of this schema stays where it is.
        let class = Class::ALL.into_iter().find(|class| class.to_string() == word);
        class.map(|class| Ok::<_, Error>(((row.get(0)?, class), count(row, 2)?))).transpose()
    })?;
    let unjoined: BTreeMap<String, u64> =
        rows(connection, "SELECT why, count FROM unjoined", |row| Ok((row.get(0)?, count(row, 1)?)))?
            .into_iter()
            .collect();
    let of = |why| unjoined.get(why).copied().unwrap_or_default();
    Ok(Heard {
        logs: logs.into_iter().collect(),
        replies: replies.into_iter().flatten().collect(),
        ambiguous: of(UNJOINED[0]),
        unknown: of(UNJOINED[1]),
        fuses: fuses(connection)?,
    })
}

fn fuses(connection: &Connection) -> Result<FuseWindows, Error> {
    if schema::version(connection)? < FUSES_SINCE {
        return Ok(FuseWindows::default());
    }
    let sql = "SELECT stream, source, began, attempts, bounces, blocks, complaints FROM fuses ORDER BY began";
    let parts = rows(connection, sql, |row| {
        let pair = (row.get::<_, String>(0)?, address(1, &row.get::<_, String>(1)?)?);
        let counts = FuseCounts {
            attempts: count(row, 3)?,
            bounces: count(row, 4)?,
            blocks: count(row, 5)?,
            complaints: count(row, 6)?,
        };
        Ok((pair, (time(row, 2)?, counts)))
    })?;
    let mut windows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (pair, part) in parts {
        windows.entry(pair).or_default().push(part);
    }
    Ok(windows.into_iter().map(|(pair, window)| (pair, Arc::new(window))).collect())
}

pub(super) fn word(connection: &Connection) -> Result<Word, Error> {
    let sql = "SELECT source, cause, since, until FROM verdicts WHERE state = 'suspended' AND ended IS NULL";
    let suspended = rows(connection, sql, |row| {
        let suspension = Suspension { reason: row.get(1)?, since: time(row, 2)?, until: maybe_time(row, 3)? };
        Ok((address(0, &row.get::<_, String>(0)?)?, suspension))
    })?;
    let sql = "SELECT stream, cause, since, until FROM bypasses WHERE ended IS NULL";
    let bypassed = rows(connection, sql, |row| {
        Ok((row.get(0)?, Bypass { reason: row.get(1)?, since: time(row, 2)?, until: time(row, 3)? }))
    })?;
    let sql = "SELECT cause, since, until, serving FROM holds WHERE ended IS NULL";
    let holds = rows(connection, sql, |row| {
        let serving: String = row.get(3)?;
        let serving = serde_json::from_str(&serving).map_err(|error| unreadable(3, error))?;
        Ok(Hold { reason: row.get(0)?, since: time(row, 1)?, until: maybe_time(row, 2)?, serving })
    })?;
    Ok(Word {
        suspended: suspended.into_iter().collect(),
        bypassed: bypassed.into_iter().collect(),
        hold: holds.into_iter().next_back(),
    })
}

/// The newest events first, up to the first that cannot be read.
fn read_events(connection: &Connection, events: &mut Vec<EventRow>) -> Result<(), Error> {
    let sql = format!(
        "SELECT number, time, kind, subject, text, fields FROM events ORDER BY number DESC LIMIT {EVENTS_READ}"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let fields: String = row.get(5)?;
        events.push(EventRow {
            number: count(row, 0)?,
            time: time(row, 1)?,
            kind: row.get(2)?,
            subject: row.get(3)?,
            text: row.get(4)?,
            evidence: serde_json::from_str(&fields).map_err(|error| unreadable(5, error))?,
        });
    }
    Ok(())
}

pub(super) fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(super) fn address(column: usize, text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|error: std::net::AddrParseError| unreadable(column, error))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(row.get(column)?).map_err(|error| unreadable(column, error))
}

fn maybe_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, Error> {
    let micros: Option<i64> = row.get(column)?;
    micros.map(Timestamp::from_microsecond).transpose().map_err(|error| unreadable(column, error))
}

fn count(row: &Row<'_>, column: usize) -> Result<u64, Error> {
    Ok(row.get::<_, i64>(column)?.max(0).unsigned_abs())
}
