//! What each address did over some days, out of memory and the database.
//!
//! Owns: putting both together. Must not: read either itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::ToSpan as _;
use jiff::civil::Date;
use mailsteer_core::decide::World;

use crate::api::view::{Report, ReportRow};
use crate::state::{Days, Did, KeptDays, SourceFacts};

/// The first of so many days of which `today` is the last.
pub(super) fn first(today: Date, days: u32) -> Date {
    today.checked_sub(i64::from(days.saturating_sub(1)).days()).unwrap_or(today)
}

/// The summary. `kept`: what the database has from `from` on, or why it has nothing. `recent`: the days that are in memory, which
/// the database may have an earlier state of.
pub(super) fn report(
    (from, to): (Date, Date),
    kept: Result<KeptDays, String>,
    recent: &Days,
    known: &BTreeMap<IpAddr, SourceFacts>,
    world: &World,
) -> Report {
    let mut notes = vec![];
    let KeptDays { mut days, since } = kept.unwrap_or_else(|why| {
        notes.push(format!("only the last two days: {why}"));
        KeptDays::default()
    });
    days.extend(recent.iter().map(|(key, did)| (*key, *did)));
    let since = since.into_iter().chain(recent.keys().map(|(day, _)| *day)).min();
    let mut sums: BTreeMap<IpAddr, Did> =
        world.pool_sources().map(|source| (source.public, Did::default())).collect();
    for ((_, address), did) in days.iter().filter(|((day, _), _)| (from..=to).contains(day)) {
        sums.entry(*address).or_default().add(did);
    }
    let mut names: BTreeMap<IpAddr, &str> =
        known.iter().map(|(public, facts)| (*public, facts.name.as_str())).collect();
    names.extend(world.pool_sources().map(|source| (source.public, source.name.as_str())));
    let row =
        |(public, did): (IpAddr, Did)| row(names.get(&public).copied().unwrap_or_default(), public, &did);
    let mut rows: Vec<ReportRow> = sums.into_iter().map(row).collect();
    // In the order of the config; what is in it no more comes last.
    let places: BTreeMap<IpAddr, usize> =
        world.pool_sources().enumerate().map(|(place, source)| (source.public, place)).collect();
    rows.sort_by_key(|row| (places.get(&row.public).copied().unwrap_or(usize::MAX), row.public));
    Report {
        from: from.to_string(),
        to: to.to_string(),
        kept_since: since.map(|day| day.to_string()),
        rows,
        notes,
    }
}

fn row(name: &str, public: IpAddr, did: &Did) -> ReportRow {
    ReportRow {
        source: name.to_owned(),
        public,
        attempts: did.attempted,
        established: did.established,
        accepted: did.accepted,
        deferred: did.deferred,
        blocked: did.blocked,
        bounced: did.bounced,
        complaints: did.complaints,
        listed: did.listed,
        listed_seconds: did.listed_seconds,
        flips: did.flips,
    }
}

#[cfg(test)]
mod tests {
    use mailsteer_core::config::{self, HostView};

    use super::*;

    #[test]
    fn memory_is_newer_than_the_database_and_days_outside_do_not_count() {
        let text = "[pool.main]\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        let config = config::load("test", text, &HostView::default()).config.unwrap();
        let world = World::new(config, jiff::Timestamp::UNIX_EPOCH);
        let day = |text: &str| text.parse::<Date>().unwrap();
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let did = |attempted| Did { attempted, ..Did::default() };
        let days = [
            ((day("2026-11-22"), address(1)), did(1_000)),
            ((day("2026-11-23"), address(1)), did(100)),
            ((day("2026-11-29"), address(1)), did(10)),
            ((day("2026-11-29"), address(9)), did(7)),
        ];
        let kept = KeptDays { days: days.into(), since: Some(day("2026-11-22")) };
        let recent = [((day("2026-11-29"), address(1)), did(12))].into();
        let today = day("2026-11-29");
        let span = (first(today, 7), today);
        let report_of = |kept| report(span, kept, &recent, &BTreeMap::new(), &world);
        let found = report_of(Ok(kept));
        let attempts: Vec<_> = found.rows.iter().map(|row| (row.source.as_str(), row.attempts)).collect();
        assert_eq!(attempts, [("main-1", 112), ("main-2", 0), ("", 7)]);
        assert_eq!((found.from.as_str(), found.kept_since.as_deref()), ("2026-11-23", Some("2026-11-22")));
        let without = report_of(Err("the disk is full".to_owned()));
        assert_eq!((without.rows[0].attempts, without.notes.len()), (12, 1));
    }
}
