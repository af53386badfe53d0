//! What each address did today, counted beside the sums.
//!
//! Owns: which day something belongs to, and what was noted since the counters were read last. Must not: decide, or read
//! anything: growth comes from the ledger, replies from reports, the rest from events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use mailsteer_core::decide::{EventKind, World};
use mailsteer_core::model::Delivered;
use mailsteer_core::signal::reply::Class;

use crate::state::{Days, Did, Name, Outcome};

/// What was noted and is on no day yet.
#[derive(Debug)]
struct Open {
    noted: BTreeMap<IpAddr, Did>,
    /// Up to when it is known who was listed for how long.
    looked: Instant,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Diary(Mutex<Open>);

impl Default for Diary {
    fn default() -> Self {
        Self(Mutex::new(Open { noted: BTreeMap::new(), looked: Instant::now() }))
    }
}

impl Diary {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receivers said something to messages.
    pub(super) fn delivered(&self, all: &[Delivered], world: &World) {
        let publics: BTreeMap<IpAddr, IpAddr> =
            world.pool_sources().map(|source| (source.local, source.public)).collect();
        let mut open = self.open();
        for (one, public) in all.iter().filter_map(|one| Some((one, publics.get(&one.source)?))) {
            let did = open.noted.entry(*public).or_default();
            *counted(did, one) += 1;
        }
    }

    /// Something happened; `public`: the address of a source that is known by its name.
    pub(super) fn happened(&self, kind: &EventKind, public: impl FnOnce(&str) -> Option<IpAddr>) {
        match kind {
            EventKind::Listed { address, .. } => self.open().noted.entry(*address).or_default().listed += 1,
            EventKind::Flipped { source, before, after, .. } if after < before => {
                if let Some(public) = public(source) {
                    self.open().noted.entry(public).or_default().flips += 1;
                }
            }
            _ => {}
        }
    }

    /// Brings the last days up to date: with what was noted, by what counters have grown, and how long addresses were listed.
    pub(super) fn keep(
        &self,
        days: &mut Arc<Days>,
        growth: &BTreeMap<Name, u64>,
        listed: &BTreeSet<IpAddr>,
        now: Timestamp,
    ) {
        let mut open = self.open();
        let mut noted = std::mem::take(&mut open.noted);
        // What is less than a second is left for the next time.
        let seconds = open.looked.elapsed().as_secs();
        open.looked += Duration::from_secs(seconds);
        drop(open);
        for (name, more) in growth {
            let Some(source) = name.source else { continue };
            match name.outcome {
                Outcome::Attempted => noted.entry(source).or_default().attempted += more,
                Outcome::Established => noted.entry(source).or_default().established += more,
                _ => {}
            }
        }
        for address in listed.iter().filter(|_| seconds > 0) {
            noted.entry(*address).or_default().listed_seconds += seconds;
        }
        if noted.is_empty() {
            return;
        }
        let today = now.to_zoned_datetime(TimeZone::UTC).date();
        let yesterday = today.checked_sub(1.day()).unwrap_or(today);
        let days = Arc::make_mut(days);
        for (source, did) in noted {
            days.entry((today, source)).or_default().add(&did);
        }
        // Earlier ones stand in the database.
        days.retain(|(day, _), _| *day >= yesterday);
    }
}

/// Which of the counts a reply belongs to: each to one.
const fn counted<'d>(did: &'d mut Did, one: &Delivered) -> &'d mut u64 {
    if one.complaint {
        return &mut did.complaints;
    }
    match one.judgement.class {
        Class::Accepted => &mut did.accepted,
        Class::IsolateHere | Class::IsolateEverywhere | Class::EnrolFirst => &mut did.blocked,
        Class::SlowDown | Class::NotTheAddress | Class::Unknown if one.permanent => &mut did.bounced,
        Class::SlowDown | Class::NotTheAddress | Class::Unknown => &mut did.deferred,
    }
}

#[cfg(test)]
mod tests {
    use mailsteer_core::model::Family;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn grown(last: u8, outcome: Outcome, more: u64) -> BTreeMap<Name, u64> {
        let name =
            Name { source: Some(address(last)), stream: "mail".into(), provider: "other".into(), outcome };
        [(name, more)].into()
    }

    #[test]
    fn a_day_holds_what_was_counted_noted_and_flipped_on_it_and_the_one_before_stays() {
        let diary = Diary::default();
        let mut days = Arc::new(Days::new());
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let nobody = BTreeSet::new();
        let flip = |before, after| EventKind::Flipped {
            stream: "mail".into(),
            providers: vec![],
            family: Family::V4,
            source: "main-1".into(),
            before,
            after,
            reason: None,
        };
        diary.happened(&flip(250, 0), |_| Some(address(1)));
        diary.happened(&flip(0, 250), |_| Some(address(1)));
        diary.keep(&mut days, &grown(1, Outcome::Attempted, 5), &nobody, at("2026-11-28T23:59:59Z"));
        diary.keep(&mut days, &grown(1, Outcome::Attempted, 2), &nobody, at("2026-11-29T00:00:01Z"));
        diary.keep(&mut days, &grown(1, Outcome::Established, 2), &nobody, at("2026-11-29T00:00:02Z"));
        let held: Vec<_> = days
            .iter()
            .map(|((day, _), did)| (day.to_string(), did.attempted, did.established, did.flips))
            .collect();
        assert_eq!(held, [("2026-11-28".to_owned(), 5, 0, 1), ("2026-11-29".to_owned(), 2, 2, 0)]);
        let before = Arc::clone(&days);
        diary.keep(&mut days, &BTreeMap::new(), &nobody, at("2026-11-30T00:00:00Z"));
        assert!(Arc::ptr_eq(&before, &days), "nothing new is no new day");
        diary.keep(&mut days, &grown(2, Outcome::Attempted, 1), &nobody, at("2026-11-30T00:00:00Z"));
        assert_eq!(days.len(), 2, "the day before yesterday stands in the database: {days:?}");
    }
}
