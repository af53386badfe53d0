//! What is kept, to rows and back.
//!
//! Owns: every statement but those of the schema. Only what changed is written. Must not: open anything, or decide
//! when to write.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use mailsteer_core::config::Retention;
use mailsteer_core::decide::{Beliefs, Bypass, Hold, Suspension};
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Row, params};

use super::ledger::{Ledger, Meter, Name, Place, Seen};
use super::outcome::Outcome;
use super::schema;
use crate::api::view::EventRow;

/// How many events come back into memory at start.
const EVENTS_READ: usize = 10_000;
/// So many of the newest stay, however old: a clock that jumps ahead must not empty the history.
const ALWAYS: u32 = 1_000;
/// The first schema that has beliefs.
const BELIEFS_SINCE: u32 = 2;
/// The parts that are read one by one from a damaged file.
pub(super) const PARTS: [&str; 5] =
    ["suspensions, bypasses and hold", "counters", "sources", "isolations and other beliefs", "events"];

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
    /// The last events, oldest first.
    pub events: Vec<EventRow>,
}

/// Reads everything.
pub(super) fn read(connection: &Connection) -> Result<Kept, Error> {
    let checkpoint = Checkpoint {
        ledger: ledger(connection)?,
        growth: growth(connection)?,
        sources: Arc::new(sources(connection)?),
    };
    let mut events = Vec::new();
    read_events(connection, &mut events)?;
    events.reverse();
    Ok(Kept { checkpoint, word: word(connection)?, beliefs: beliefs(connection)?, events })
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
    part(4, read_events(connection, &mut kept.events).is_ok());
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

fn write_beliefs(connection: &Connection, beliefs: &Beliefs) -> Result<(), Error> {
    let text =
        serde_json::to_string(beliefs).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))?;
    connection.execute("INSERT OR REPLACE INTO beliefs (only, beliefs) VALUES (1, ?1)", [text]).map(drop)
}

fn word(connection: &Connection) -> Result<Word, Error> {
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

/// What has changed since it was last written.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) events: Vec<EventRow>,
    pub(super) word: Option<Word>,
    pub(super) beliefs: Option<Beliefs>,
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Changes {
    pub(super) const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.word.is_none() && self.beliefs.is_none() && self.checkpoint.is_none()
    }
}

/// Writes all of it or nothing. `written`: the checkpoint that stands in the database.
pub(super) fn write(
    connection: &mut Connection,
    changes: &Changes,
    written: &Checkpoint,
    now: Timestamp,
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    for event in &changes.events {
        write_event(&transaction, event)?;
    }
    if let Some(said) = &changes.word {
        write_word(&transaction, said, now)?;
    }
    if let Some(beliefs) = &changes.beliefs {
        write_beliefs(&transaction, beliefs)?;
    }
    if let Some(checkpoint) = &changes.checkpoint {
        write_sums(&transaction, checkpoint.ledger.sums(), written.ledger.sums())?;
        write_seen(&transaction, checkpoint.ledger.seen(), written.ledger.seen())?;
        write_growth(&transaction, &checkpoint.growth, &written.growth)?;
        write_sources(&transaction, &checkpoint.sources, &written.sources)?;
    }
    transaction.commit()
}

fn write_event(connection: &Connection, event: &EventRow) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO events (number, time, kind, subject, text, fields) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let fields = serde_json::to_string(&event.evidence).unwrap_or_else(|_| "{}".to_owned());
    let (number, at) = (signed(event.number), event.time.as_microsecond());
    let row = params![number, at, event.kind, event.subject, event.text, fields];
    connection.prepare(sql)?.execute(row).map(drop)
}

/// Ends what no longer holds, and begins what is new.
fn write_word(connection: &Connection, said: &Word, now: Timestamp) -> Result<(), Error> {
    let before = word(connection)?;
    let micros = Timestamp::as_microsecond;
    let same = |a: &Suspension, b: &Suspension| {
        a.reason == b.reason
            && micros(a.since) == micros(b.since)
            && a.until.map(micros) == b.until.map(micros)
    };
    for (source, suspension) in &before.suspended {
        if said.suspended.get(source).is_none_or(|now| !same(now, suspension)) {
            let ended = suspension.until.map_or(now, |until| until.min(now));
            let sql =
                "UPDATE verdicts SET ended = ?2 WHERE source = ?1 AND state = 'suspended' AND ended IS NULL";
            connection.execute(sql, params![source.to_string(), micros(ended)])?;
        }
    }
    for (source, suspension) in &said.suspended {
        if before.suspended.get(source).is_none_or(|before| !same(suspension, before)) {
            let sql = "INSERT INTO verdicts (source, provider, state, cause, since, until, evidence) \
                       VALUES (?1, '', 'suspended', ?2, ?3, ?4, '{\"by\":\"operator\"}')";
            let until = suspension.until.map(micros);
            let row = params![source.to_string(), suspension.reason, micros(suspension.since), until];
            connection.execute(sql, row)?;
        }
    }
    let same = |a: &Bypass, b: &Bypass| {
        a.reason == b.reason && micros(a.since) == micros(b.since) && micros(a.until) == micros(b.until)
    };
    for (stream, bypass) in &before.bypassed {
        if said.bypassed.get(stream).is_none_or(|now| !same(now, bypass)) {
            let sql = "UPDATE bypasses SET ended = ?2 WHERE stream = ?1 AND ended IS NULL";
            connection.execute(sql, params![stream, micros(bypass.until.min(now))])?;
        }
    }
    for (stream, bypass) in &said.bypassed {
        if before.bypassed.get(stream).is_none_or(|before| !same(bypass, before)) {
            let sql = "INSERT INTO bypasses (stream, cause, since, until) VALUES (?1, ?2, ?3, ?4)";
            connection
                .execute(sql, params![stream, bypass.reason, micros(bypass.since), micros(bypass.until)])?;
        }
    }
    write_hold(connection, said.hold.as_ref(), before.hold.as_ref(), now)
}

/// As [`write_word`]. Who serves meanwhile may change while it lasts.
fn write_hold(
    connection: &Connection,
    said: Option<&Hold>,
    before: Option<&Hold>,
    now: Timestamp,
) -> Result<(), Error> {
    let micros = Timestamp::as_microsecond;
    let same = match (said, before) {
        (Some(a), Some(b)) => {
            a.reason == b.reason
                && micros(a.since) == micros(b.since)
                && a.until.map(micros) == b.until.map(micros)
                && a.serving == b.serving
        }
        (None, None) => true,
        _ => false,
    };
    if same {
        return Ok(());
    }
    let ended = before.and_then(|before| before.until).map_or(now, |until| until.min(now));
    connection.execute("UPDATE holds SET ended = ?1 WHERE ended IS NULL", [micros(ended)])?;
    if let Some(hold) = said {
        let sql = "INSERT INTO holds (cause, since, until, serving) VALUES (?1, ?2, ?3, ?4)";
        let serving = serde_json::to_string(&hold.serving).unwrap_or_else(|_| "[]".to_owned());
        let row = params![hold.reason, micros(hold.since), hold.until.map(micros), serving];
        connection.execute(sql, row)?;
    }
    Ok(())
}

fn write_sums(
    connection: &Connection,
    sums: &Arc<BTreeMap<Name, u64>>,
    written: &Arc<BTreeMap<Name, u64>>,
) -> Result<(), Error> {
    if Arc::ptr_eq(sums, written) {
        return Ok(());
    }
    let sql = "INSERT INTO counters (source, stream, provider, outcome, count) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT DO UPDATE SET count = excluded.count";
    let mut statement = connection.prepare(sql)?;
    for (name, sum) in sums.iter().filter(|(name, sum)| written.get(name) != Some(sum)) {
        let source = name.source.map(|source| source.to_string()).unwrap_or_default();
        statement.execute(params![
            source,
            &*name.stream,
            &*name.provider,
            name.outcome.as_str(),
            signed(*sum)
        ])?;
    }
    Ok(())
}

fn write_seen(
    connection: &Connection,
    seen: &BTreeMap<Place, Arc<Seen>>,
    written: &BTreeMap<Place, Arc<Seen>>,
) -> Result<(), Error> {
    let sql = "INSERT INTO readings (place, lane, source, outcome, value) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT DO UPDATE SET value = excluded.value";
    let mut statement = connection.prepare(sql)?;
    for (place, seen) in seen {
        let before = written.get(place).filter(|before| before.origin == seen.origin);
        if before.is_some_and(|before| Arc::ptr_eq(before, seen)) {
            continue;
        }
        if before.is_none() {
            connection.execute("DELETE FROM readings WHERE place = ?1", [place.as_str()])?;
            let sql = "INSERT OR REPLACE INTO origins (place, origin) VALUES (?1, ?2)";
            connection.execute(sql, [place.as_str(), seen.origin.as_str()])?;
        }
        let known = |meter: &Meter| before.and_then(|before| before.values.get(meter));
        for (meter, value) in seen.values.iter().filter(|(meter, value)| known(meter) != Some(value)) {
            let outcome = meter.outcome.as_str();
            statement.execute(params![place.as_str(), meter.lane, meter.source, outcome, signed(*value)])?;
        }
    }
    Ok(())
}

fn write_growth(
    connection: &Connection,
    growth: &BTreeMap<String, Growth>,
    written: &BTreeMap<String, Growth>,
) -> Result<(), Error> {
    for (what, grown) in growth.iter().filter(|(what, grown)| written.get(*what) != Some(grown)) {
        let last = grown.last.map(Timestamp::as_microsecond);
        let sql = "INSERT OR REPLACE INTO growth (what, count, last) VALUES (?1, ?2, ?3)";
        connection.execute(sql, params![what, signed(grown.count), last])?;
    }
    Ok(())
}

fn write_sources(
    connection: &Connection,
    sources: &Arc<BTreeMap<IpAddr, SourceFacts>>,
    written: &Arc<BTreeMap<IpAddr, SourceFacts>>,
) -> Result<(), Error> {
    if Arc::ptr_eq(sources, written) {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO sources (public, name, local, first_seen, last_served) \
               VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut statement = connection.prepare(sql)?;
    for (public, facts) in sources.iter().filter(|(public, facts)| written.get(public) != Some(facts)) {
        let (first, last) =
            (facts.first_seen.as_microsecond(), facts.last_served.map(Timestamp::as_microsecond));
        let (public, local) = (public.to_string(), facts.local.to_string());
        statement.execute(params![public, facts.name, local, first, last])?;
    }
    Ok(())
}

/// Deletes what is too old or too much. What still holds stays.
pub(super) fn retire(connection: &mut Connection, keep: Retention, now: Timestamp) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    let cut = |days: u32| now.as_microsecond() - i64::from(days) * 86_400_000_000;
    let sql = "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?1 \
               OR (time < ?2 AND number <= (SELECT max(number) FROM events) - ?3)";
    transaction.execute(sql, params![keep.events_max, cut(keep.events_days), ALWAYS])?;
    for table in ["verdicts", "bypasses", "holds"] {
        let sql = format!(
            "DELETE FROM {table} WHERE ended IS NOT NULL AND (\
             number <= (SELECT max(number) FROM {table}) - ?1 \
             OR (ended < ?2 AND number <= (SELECT max(number) FROM {table}) - ?3))"
        );
        transaction.execute(&sql, params![keep.history_max, cut(keep.history_days), ALWAYS])?;
    }
    transaction.commit()
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn address(column: usize, text: &str) -> Result<IpAddr, Error> {
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

/// SQLite's integers are signed; counts stay far below their end.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
