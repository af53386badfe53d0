//! The store on a real disk: what is kept comes back, and what a disk does to it is said and survived.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::Retention;
use mailsteer_core::decide::{Beliefs, Bypass, FuseCounts, FuseWindows, Hold, Suspension};
use mailsteer_core::signal::follow::{Bookmark, FileId, Head, Reached};
use mailsteer_core::signal::log::LogCounts;
use mailsteer_core::signal::reply::Class;
use rusqlite::Connection;

use super::schema::{self, MIGRATIONS};
use super::*;
use crate::api::view::EventRow;

/// A database of every schema there ever was, as its program left it.
const FIXTURES: &[&str] = &[
    include_str!("fixtures/v1.sql"),
    include_str!("fixtures/v2.sql"),
    include_str!("fixtures/v3.sql"),
    include_str!("fixtures/v4.sql"),
    include_str!("fixtures/v5.sql"),
];

/// As schema 2 has them.
const BELIEFS: &str = r#"{"verdicts":[["10.0.0.1","big",{"state":{"state":"isolated","cause":{"failure":"refused"},"until":"2033-05-18T03:33:20Z"},"relapses":1,"since":"2033-05-18T03:03:20Z"}]],"rails":{"spent":{"mail":["2033-05-18T03:03:20Z"]},"unmoved":[["mail","10.0.0.1","big"]],"taken":[["2033-05-18T03:03:20Z","10.0.0.1","big"]],"fallen":[["2033-05-18T03:03:20Z","10.0.0.1","big"]],"stopped":[[["mail","big"],"2033-05-18T03:33:20Z"]]}}"#;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn day(text: &str) -> Date {
    text.parse().unwrap()
}

fn name(outcome: Outcome) -> Name {
    Name { source: Some(address(1)), stream: "mail".into(), provider: "other".into(), outcome }
}

fn event(number: u64, time: Timestamp) -> EventRow {
    EventRow {
        number,
        time,
        kind: "flipped".into(),
        subject: "mail".into(),
        text: format!("event {number}"),
        evidence: BTreeMap::from([("before".into(), "500".into())]),
    }
}

fn word() -> Word {
    let suspension = Suspension { reason: "listed".into(), since: at(1_700_000_000), until: None };
    let bypass = Bypass { reason: "a test".into(), since: at(1_700_000_000), until: at(4_000_000_000) };
    let serving = [IpAddr::from([10, 0, 0, 1])].into();
    let hold = Hold { reason: "a move".into(), since: at(1_700_000_000), until: None, serving };
    let (suspended, bypassed) = ([(address(1), suspension)].into(), [("mail".into(), bypass)].into());
    Word { suspended, bypassed, hold: Some(hold) }
}

fn beliefs() -> Beliefs {
    serde_json::from_str(BELIEFS).unwrap()
}

/// As schema 4 has it.
fn heard_of_logs() -> Heard {
    let file = FileId { device: 1, inode: 7 };
    let head = Head { length: 41, hash: 9_007_199_254_740_993 };
    let bookmark = Bookmark {
        of: "/var/log/mail.log".into(),
        files: vec![Reached { offset: 41, head, ..Reached::beginning(file) }],
        ..Bookmark::default()
    };
    let counts = LogCounts { lines: 3, deliveries: 2, no_reply: 1, ..LogCounts::default() };
    Heard {
        logs: [("mail".into(), LogRead { bookmark, counts })].into(),
        replies: [(("other".into(), Class::Accepted), 2)].into(),
        ambiguous: 1,
        unknown: 0,
        fuses: FuseWindows::default(),
    }
}

/// As schema 5 has it.
fn heard() -> Heard {
    let parts = [
        (at(1_700_000_000), FuseCounts { attempts: 100, bounces: 3, blocks: 1, complaints: 0 }),
        (at(1_700_000_600), FuseCounts { attempts: 40, complaints: 1, ..FuseCounts::default() }),
    ];
    Heard { fuses: [(("mail".into(), address(1)), Arc::new(parts.into()))].into(), ..heard_of_logs() }
}

fn checkpoint(attempted: u64) -> Checkpoint {
    let meter = Meter { lane: 1, source: 1, outcome: Outcome::Attempted };
    let seen = Seen { origin: "boot/7".into(), values: [(meter, attempted)].into() };
    let facts = SourceFacts {
        name: "main-1".into(),
        local: address(1),
        first_seen: at(1_700_000_000),
        last_served: Some(at(1_700_000_100)),
    };
    let mut ledger = Ledger::default();
    ledger.take_in([(Place::Counters, seen)].into(), |meter| name(meter.outcome));
    let growth = [("wrong".to_owned(), Growth { count: 2, last: Some(at(1_700_000_000)) })];
    let did = Did {
        attempted: 41,
        established: 40,
        accepted: 30,
        deferred: 5,
        blocked: 2,
        bounced: 1,
        complaints: 0,
        listed: 1,
        listed_seconds: 3_600,
        flips: 1,
    };
    let days = Arc::new([((day("2023-11-14"), address(1)), did)].into());
    Checkpoint { ledger, growth: growth.into(), sources: Arc::new([(address(1), facts)].into()), days }
}

fn open(dir: &Path) -> (Store, Kept) {
    Store::open(dir, Retention::default()).unwrap()
}

/// A store that has kept a little of everything.
fn filled(dir: &Path, events: u64) {
    let (store, _) = open(dir);
    (1..=events).for_each(|number| store.event(&event(number, Timestamp::now())));
    let receipt = store.word(word());
    assert_eq!(receipt.blocking_recv().unwrap(), Ok(()));
    store.heard(Some(beliefs()), heard());
    store.finish(checkpoint(41));
}

fn sqlite(dir: &Path) -> Connection {
    Connection::open(dir.join("mailsteer.db")).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(15), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_kept_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let (store, kept) = open(dir.path());
    assert_eq!((store.fault(), store.damages()), (None, vec![]));
    assert_eq!((kept.word, kept.beliefs, kept.heard), (word(), beliefs(), heard()));
    assert_eq!(kept.checkpoint, checkpoint(41));
    assert_eq!(kept.events.iter().map(|event| event.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(kept.events[0].evidence, event(1, at(0)).evidence);
    // What no longer holds is ended and stays as history.
    assert_eq!(store.word(Word::default()).blocking_recv().unwrap(), Ok(()));
    store.finish(checkpoint(50));
    let ended = "SELECT count(*) FROM verdicts WHERE ended IS NOT NULL AND cause = 'listed'";
    assert_eq!(sqlite(dir.path()).query_row(ended, [], |row| row.get::<_, u32>(0)).unwrap(), 1);
    let (_store, kept) = open(dir.path());
    assert_eq!((kept.word, kept.checkpoint), (Word::default(), checkpoint(50)));
}

/// Parts that are over, or were mended, go; what grew is written; the clock may be set.
#[test]
fn what_fuses_count_is_kept_as_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 0);
    let pair = |last| ("mail".to_owned(), address(last));
    let part = |second, attempts| (at(second), FuseCounts { attempts, ..FuseCounts::default() });
    let all = |windows: Vec<((String, IpAddr), Vec<_>)>| -> FuseWindows {
        windows.into_iter().map(|(pair, parts)| (pair, Arc::new(parts))).collect()
    };
    let steps = [
        all(vec![
            (pair(1), vec![part(1_700_000_600, 41), part(1_700_001_200, 1)]),
            (pair(2), vec![part(7, 1)]),
        ]),
        all(vec![(pair(1), vec![part(1_700_000_601, 41), part(1_700_001_201, 1)])]),
        FuseWindows::default(),
    ];
    for fuses in steps {
        let (store, _) = open(dir.path());
        store.heard(None, Heard { fuses: fuses.clone(), ..heard() });
        store.finish(checkpoint(41));
        assert_eq!(open(dir.path()).1.heard.fuses, fuses);
    }
}

#[test]
fn another_origin_replaces_what_was_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 0);
    let (store, kept) = open(dir.path());
    let mut next = kept.checkpoint;
    let other = Meter { lane: 2, source: 9, outcome: Outcome::Closed };
    let seen = Seen { origin: "boot/8".into(), values: [(other, 4)].into() };
    next.ledger.take_in([(Place::Counters, seen)].into(), |meter| name(meter.outcome));
    store.finish(next.clone());
    assert_eq!(open(dir.path()).1.checkpoint, next);
}

/// Each schema's fixture, brought to the last, says what it said.
#[test]
fn every_earlier_schema_is_read() {
    assert_eq!(FIXTURES.len(), MIGRATIONS.len(), "a schema without a fixture");
    for (place, fixture) in FIXTURES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let connection = sqlite(dir.path());
        for sql in &MIGRATIONS[..=place] {
            connection.execute_batch(sql).unwrap();
        }
        connection.execute_batch(fixture).unwrap();
        connection.pragma_update(None, "user_version", u32::try_from(place + 1).unwrap()).unwrap();
        drop(connection);
        let (store, kept) = open(dir.path());
        assert_eq!((store.fault(), store.damages()), (None, vec![]), "schema {}", place + 1);
        assert_eq!(kept.word, word());
        assert_eq!(kept.beliefs, if place == 0 { Beliefs::default() } else { beliefs() });
        let said = [Heard::default, heard_of_logs, heard][place.saturating_sub(2)];
        assert_eq!(kept.heard, said());
        assert_eq!(kept.checkpoint.ledger.sums()[&name(Outcome::Attempted)], 41);
        assert_eq!(kept.checkpoint.ledger.seen()[&Place::Counters].origin, "boot/7");
        assert_eq!(kept.checkpoint.growth, checkpoint(0).growth);
        assert_eq!(kept.checkpoint.days, if place < 2 { Arc::default() } else { checkpoint(0).days });
        assert_eq!((kept.events[0].number, kept.events[0].kind.as_str()), (17, "suspended"));
    }
}

#[test]
fn before_a_migration_a_copy_is_put_beside() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    let path = dir.path().join("mailsteer.db");
    let steps = [MIGRATIONS, &["ALTER TABLE sources ADD COLUMN ehlo TEXT"]].concat();
    let known = MIGRATIONS.len();
    let mut connection = sqlite(dir.path());
    assert!(!schema::migrate(&mut connection, &path, &steps).unwrap());
    assert_eq!(schema::version(&connection).unwrap() as usize, known + 1);
    connection.execute("UPDATE meta SET written_by = '9.9.9'", []).unwrap();
    drop(connection);
    // At boot what it says is in force all the same.
    assert_eq!(Store::open_at_boot(dir.path(), Retention::default()).1.word, word());
    // The version before refuses it, says who made it and names the copy, which it can read.
    let before = std::fs::read(&path).unwrap();
    let said = Store::open(dir.path(), Retention::default()).err().unwrap().to_string();
    let (made, copy) =
        (format!("schema {}, made by mailsteer 9.9.9", known + 1), format!("mailsteer.db.schema-{known}"));
    for words in [made.as_str(), "Install 9.9.9", &copy, "mv "] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(std::fs::read(&path).unwrap() == before, "it was touched");
    std::fs::rename(dir.path().join(copy), &path).unwrap();
    assert_eq!(open(dir.path()).1.word, word());
}

#[test]
fn a_migration_that_fails_leaves_the_schema_before() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    let path = dir.path().join("mailsteer.db");
    let steps = [MIGRATIONS, &["ALTER TABLE sources ADD COLUMN ehlo TEXT; SELECT nonsense"]].concat();
    assert!(schema::migrate(&mut sqlite(dir.path()), &path, &steps).is_err());
    assert_eq!(open(dir.path()).1.word, word());
}

#[test]
fn old_history_goes_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let mut connection = sqlite(dir.path());
    let now = at(1_800_000_000);
    let days = |days: i64| now - SignedDuration::from_hours(24 * days);
    // 2,000 old ones, then 1,500 new ones; and ended suspensions beside one that holds.
    let events = (1..=3_500).map(|n| event(n, if n <= 2_000 { days(91) } else { days(1) })).collect();
    let changes = written::Changes { events, word: Some(word()), ..written::Changes::default() };
    written::write(&mut connection, &changes, (&Checkpoint::default(), &Heard::default()), now).unwrap();
    let keep = Retention::default();
    let left = |connection: &Connection| {
        let sql = "SELECT min(number), count(*) FROM events";
        connection.query_row(sql, [], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))).unwrap()
    };
    written::retire(&mut connection, keep, now).unwrap();
    assert_eq!(left(&connection), (2_001, 1_500), "by age");
    written::retire(&mut connection, Retention { events_max: 1_200, ..keep }, now).unwrap();
    assert_eq!(left(&connection), (2_301, 1_200), "by number");
    written::retire(&mut connection, keep, now + SignedDuration::from_hours(24 * 3_650)).unwrap();
    assert_eq!(left(&connection), (2_501, 1_000), "a clock that jumps ahead does not empty it");
    assert_eq!(rows::read(&connection).unwrap().word, word(), "what holds stays");
}

#[test]
fn days_are_kept_and_asked_for_and_the_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let did = |attempted| Did { attempted, flips: 2, ..Did::default() };
    let all = ["2026-09-01", "2026-11-20", "2026-11-28", "2026-11-29"];
    for (n, text) in (1..).zip(all) {
        // As an agent offers them: the last two.
        let days = [((day(text), address(1)), did(n)), ((day(text), address(2)), did(10 * n))];
        store.offer(Checkpoint { days: Arc::new(days.into()), ..Checkpoint::default() });
        let written = || {
            let kept = store.days(day("2026-01-01")).blocking_recv().unwrap().unwrap();
            kept.days.get(&(day(text), address(2))) == Some(&did(10 * n))
        };
        eventually("a day to be written", written);
    }
    let kept = store.days(day("2026-11-21")).blocking_recv().unwrap().unwrap();
    assert_eq!((kept.days.len(), kept.since), (4, Some(day(all[0]))));
    store.finish(Checkpoint::default());
    let (_store, kept) = open(dir.path());
    let days: Vec<Date> = kept.checkpoint.days.keys().map(|(day, _)| *day).collect();
    assert_eq!(days, [day(all[2]), day(all[2]), day(all[3]), day(all[3])], "the last two come back");
    let mut connection = sqlite(dir.path());
    let left = |connection: &mut Connection, now: &str, days: u32| {
        let keep = Retention { history_days: days, ..Retention::default() };
        written::retire(connection, keep, now.parse().unwrap()).unwrap();
        connection.query_row("SELECT count(DISTINCT day) FROM days", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    assert_eq!(left(&mut connection, "2026-11-29T12:00:00Z", 30), 3);
    assert_eq!(left(&mut connection, "2099-01-01T00:00:00Z", 30), 2, "a clock that jumps ahead");
}

/// What a stranger's write into the file leaves of it.
#[test]
fn a_damaged_database_is_moved_aside_and_what_it_tells_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 2_000);
    let path = dir.path().join("mailsteer.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let (middle, length) = (bytes.len() / 2, bytes.len() / 4);
    bytes[middle..middle + length].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let (store, kept) = open(dir.path());
    let damages = store.damages();
    assert!(damages[0].what.contains("was damaged") && damages[0].what.contains(".damaged-"), "{damages:?}");
    assert_eq!(kept.word, word(), "the operator's word lies elsewhere in the file");
    assert_eq!(store.fault(), None);
    let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    let aside: Vec<_> = names.filter(|name| name.contains(".damaged-") && name.ends_with('Z')).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    store.finish(checkpoint(60));
    let (store, kept) = open(dir.path());
    assert_eq!((store.damages(), kept.word, kept.checkpoint), (vec![], word(), checkpoint(60)));
}

#[test]
fn what_is_no_database_is_moved_aside_and_the_loss_is_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mailsteer.db"), vec![0x55; 64 << 10]).unwrap();
    let (store, kept) = open(dir.path());
    let what = store.damages().remove(0).what;
    assert!(what.contains("lost with it: suspensions, bypasses and hold, counters"), "{what}");
    assert!(what.contains("suspend again what must not send"), "{what}");
    assert_eq!((kept, store.fault()), (Kept::default(), None));
    assert_eq!(store.word(word()).blocking_recv().unwrap(), Ok(()));
}

#[test]
fn a_database_that_another_program_holds_is_said_and_written_once_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    let other = sqlite(dir.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (store, kept) = open(dir.path());
    assert_eq!(kept.word, word(), "it can be read");
    let said = store.word(Word::default()).blocking_recv().unwrap().unwrap_err();
    assert!(said.contains("another program holds it"), "{said}");
    assert!(store.fault().unwrap().contains("in memory only"));
    other.execute_batch("ROLLBACK").unwrap();
    eventually("it to be written", || store.fault().is_none());
    drop(store);
    let open = "SELECT count(*) FROM verdicts WHERE ended IS NULL";
    let open = || sqlite(dir.path()).query_row(open, [], |row| row.get::<_, u32>(0)).unwrap();
    eventually("the word to stand", || open() == 0);
}

#[test]
fn a_file_that_is_taken_away_is_begun_anew_with_all_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 0);
    let (store, _) = open(dir.path());
    let other = sqlite(dir.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.word(Word::default()).blocking_recv().unwrap().is_err());
    drop(other);
    for end in ["", "-wal", "-shm"] {
        let _gone = std::fs::remove_file(dir.path().join(format!("mailsteer.db{end}")));
    }
    eventually("it to be written", || store.fault().is_none());
    store.finish(checkpoint(41));
    assert_eq!(open(dir.path()).1.checkpoint, checkpoint(41));
}

#[test]
fn the_word_of_an_agent_before_schema_1_is_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("operator.json");
    let text = r#"{"suspended":{"192.0.2.1":{"reason":"listed","since":"2023-11-14T22:13:20Z","until":null}},
                   "bypassed":{"mail":{"reason":"a test","since":"2023-11-14T22:13:20Z","until":"2096-10-02T07:06:40Z"}},
                   "hold":{"reason":"a move","since":"2023-11-14T22:13:20Z","until":null,"serving":["10.0.0.1"]}}"#;
    std::fs::write(&file, text).unwrap();
    let (store, kept) = open(dir.path());
    assert_eq!(kept.word, word());
    // A start that fails: the version before is gone back to, says something else, and is upgraded again.
    store.finish(Checkpoint::default());
    let resumed =
        text.replace(r#""192.0.2.1":{"reason":"listed","since":"2023-11-14T22:13:20Z","until":null}"#, "");
    std::fs::write(&file, resumed).unwrap();
    let (store, kept) = open(dir.path());
    assert_eq!(kept.word, Word { suspended: BTreeMap::new(), ..word() });
    store.started();
    eventually("it to be taken over", || !file.exists());
    store.finish(Checkpoint::default());
    assert_eq!(open(dir.path()).1.word, kept.word);
    std::fs::write(&file, "{").unwrap();
    let (store, kept) = open(dir.path());
    assert_eq!(kept.word, Word { suspended: BTreeMap::new(), ..word() });
    assert!(store.damages()[0].what.contains("operator.json of an earlier version cannot be read"));
}
