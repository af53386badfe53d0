//! What changed, written to rows.
//!
//! Owns: every statement that writes, but those of the schema. Only what changed is written. Must not: open anything, or
//! decide when to write.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::config::Retention;
use mailsteer_core::decide::{Beliefs, Bypass, FuseCounts, FuseWindows, Hold, Suspension};
use rusqlite::{Connection, Error, params};

use super::days;
use super::ledger::{Meter, Name, Place, Seen};
use super::rows::{Checkpoint, Growth, Heard, SourceFacts, UNJOINED, Word, word};
use crate::api::view::EventRow;

/// So many of the newest stay, however old: a clock that jumps ahead must not empty the history.
const ALWAYS: u32 = 1_000;

/// What has changed since it was last written.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) events: Vec<EventRow>,
    pub(super) word: Option<Word>,
    pub(super) beliefs: Option<Beliefs>,
    pub(super) heard: Option<Heard>,
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Changes {
    pub(super) const fn is_empty(&self) -> bool {
        !self.is_urgent() && self.checkpoint.is_none() && self.heard.is_none()
    }

    /// Whether it has to be written at once. What was counted waits for its time: counted again after a crash, it is counted once.
    pub(super) const fn is_urgent(&self) -> bool {
        !self.events.is_empty() || self.word.is_some() || self.beliefs.is_some()
    }
}

/// Writes all of it or nothing. `written`: the checkpoint and what was heard that stand in the database.
pub(super) fn write(
    connection: &mut Connection,
    changes: &Changes,
    (written, heard): (&Checkpoint, &Heard),
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
    if let Some(now) = &changes.heard {
        write_heard(&transaction, now, heard)?;
    }
    if let Some(checkpoint) = &changes.checkpoint {
        write_sums(&transaction, checkpoint.ledger.sums(), written.ledger.sums())?;
        write_seen(&transaction, checkpoint.ledger.seen(), written.ledger.seen())?;
        write_growth(&transaction, &checkpoint.growth, &written.growth)?;
        write_sources(&transaction, &checkpoint.sources, &written.sources)?;
        days::write(&transaction, &checkpoint.days, &written.days)?;
    }
    transaction.commit()
}

fn write_beliefs(connection: &Connection, beliefs: &Beliefs) -> Result<(), Error> {
    let text =
        serde_json::to_string(beliefs).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))?;
    connection.execute("INSERT OR REPLACE INTO beliefs (only, beliefs) VALUES (1, ?1)", [text]).map(drop)
}

fn write_heard(connection: &Connection, heard: &Heard, written: &Heard) -> Result<(), Error> {
    let json = |error| Error::ToSqlConversionFailure(Box::new(error));
    for (name, log) in heard.logs.iter().filter(|(name, log)| written.logs.get(*name) != Some(log)) {
        let bookmark = serde_json::to_string(&log.bookmark).map_err(json)?;
        let counts = serde_json::to_string(&log.counts).map_err(json)?;
        let sql = "INSERT OR REPLACE INTO logs (name, bookmark, counts) VALUES (?1, ?2, ?3)";
        connection.execute(sql, params![name, bookmark, counts])?;
    }
    let changed = heard.replies.iter().filter(|(of, count)| written.replies.get(of) != Some(count));
    for ((provider, class), count) in changed {
        let sql = "INSERT OR REPLACE INTO replies (provider, class, count) VALUES (?1, ?2, ?3)";
        connection.execute(sql, params![provider, class.to_string(), signed(*count)])?;
    }
    if (heard.ambiguous, heard.unknown) != (written.ambiguous, written.unknown) {
        for (why, count) in UNJOINED.into_iter().zip([heard.ambiguous, heard.unknown]) {
            let sql = "INSERT OR REPLACE INTO unjoined (why, count) VALUES (?1, ?2)";
            connection.execute(sql, params![why, signed(count)])?;
        }
    }
    write_fuses(connection, &heard.fuses, &written.fuses)
}

/// Only the last part of a window grows, but for clocks that are set.
fn write_fuses(connection: &Connection, fuses: &FuseWindows, written: &FuseWindows) -> Result<(), Error> {
    let none = Arc::default();
    let gone =
        written.iter().filter(|(pair, _)| !fuses.contains_key(*pair)).map(|(pair, was)| (pair, &none, was));
    let stand = fuses.iter().map(|(pair, now)| (pair, now, written.get(pair).unwrap_or(&none)));
    for ((stream, source), now, was) in gone.chain(stand).filter(|(_, now, was)| !Arc::ptr_eq(now, was)) {
        let source = source.to_string();
        let (now, was) = (by_time(now), by_time(was));
        for began in was.keys().filter(|began| !now.contains_key(began)) {
            let sql = "DELETE FROM fuses WHERE stream = ?1 AND source = ?2 AND began = ?3";
            connection.execute(sql, params![stream, source, began])?;
        }
        for (began, counts) in now.iter().filter(|(began, counts)| was.get(began) != Some(counts)) {
            let FuseCounts { attempts, bounces, blocks, complaints } = counts;
            let sql = "INSERT OR REPLACE INTO fuses (stream, source, began, attempts, bounces, blocks, complaints) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let [attempts, bounces, blocks, complaints] =
                [attempts, bounces, blocks, complaints].map(|count| signed(*count));
            connection.execute(sql, params![stream, source, began, attempts, bounces, blocks, complaints])?;
        }
    }
    Ok(())
}

fn by_time(window: &[(Timestamp, FuseCounts)]) -> BTreeMap<i64, FuseCounts> {
    window.iter().map(|(began, counts)| (began.as_microsecond(), *counts)).collect()
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
    let oldest = Timestamp::from_microsecond(cut(keep.history_days)).unwrap_or(Timestamp::MIN);
    days::retire(&transaction, oldest.to_zoned_datetime(TimeZone::UTC).date())?;
    transaction.commit()
}

/// SQLite's integers are signed; counts stay far below their end.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
