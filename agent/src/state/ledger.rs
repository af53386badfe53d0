//! What was ever counted: what was kept, and what the kernel's counters have grown by since.
//!
//! Owns: that arithmetic. A map or table of the kernel counts from 0 when it is made, and an agent meets it at any
//! time, also one that it met before. So what was taken in of each is kept beside the sums, in one transaction, with
//! the name of the very map: of the same one only the growth is added, of another one all. Nothing is added twice,
//! and what an agent did not live to see is added by the next, as long as the map lives. Must not: read a clock or
//! the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::outcome::Outcome;

/// Where the kernel counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The map that the eBPF programs count connections in.
    Counters,
    /// The map of what the sweep ended.
    Swept,
    /// The map of packets that the guard held.
    Held,
    /// The map of counts that belong to no lane.
    Totals,
    /// The map of what became of connections of which no SYN left.
    Told,
    /// The nftables table.
    Table,
}

impl Place {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Counters, Self::Swept, Self::Held, Self::Totals, Self::Told, Self::Table];

    /// The word for it in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counters => "counters",
            Self::Swept => "swept",
            Self::Held => "held",
            Self::Totals => "totals",
            Self::Told => "told",
            Self::Table => "table",
        }
    }

    /// Whether its counters can be set back while it stands: anybody can with the table's, nobody with a map's.
    const fn can_be_set_back(self) -> bool {
        matches!(self, Self::Table)
    }
}

/// One counter of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Meter {
    /// Lane id; 0: none.
    pub lane: u8,
    /// Source id; 0: none.
    pub source: u16,
    /// What it counts.
    pub outcome: Outcome,
}

/// What one place said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Which map or table it was: no other one ever bears this name.
    pub origin: String,
    /// Counters above 0.
    pub values: BTreeMap<Meter, u64>,
}

/// What the kernel's counters say now. A place that could not be read is left out.
pub type Reading = BTreeMap<Place, Seen>;

/// What is counted, in words that hold beyond a reboot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// Public address; `None`: not steered, or before a source was drawn.
    pub source: Option<IpAddr>,
    /// Stream; empty: none.
    pub stream: Arc<str>,
    /// Who receives.
    pub provider: Arc<str>,
    /// What it counts.
    pub outcome: Outcome,
}

/// Sums and how far each place was taken in. Cheap to clone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ledger {
    sums: Arc<BTreeMap<Name, u64>>,
    seen: BTreeMap<Place, Arc<Seen>>,
}

impl Ledger {
    /// As it was kept.
    #[must_use]
    pub fn new(sums: BTreeMap<Name, u64>, seen: BTreeMap<Place, Seen>) -> Self {
        let seen = seen.into_iter().map(|(place, seen)| (place, Arc::new(seen))).collect();
        Self { sums: Arc::new(sums), seen }
    }

    /// All that was ever counted.
    #[must_use]
    pub const fn sums(&self) -> &Arc<BTreeMap<Name, u64>> {
        &self.sums
    }

    /// How far each place was taken in.
    #[must_use]
    pub const fn seen(&self) -> &BTreeMap<Place, Arc<Seen>> {
        &self.seen
    }

    /// A place that was made with others' counts in it: `origin` begins with what `from` held, of which what was taken
    /// in before counts no second time. Nothing where that place is known already.
    pub fn inherit(&mut self, place: Place, origin: &str, from: &[(Place, String)]) {
        if self.seen.get(&place).is_some_and(|seen| seen.origin == origin) {
            return;
        }
        let mut values: BTreeMap<Meter, u64> = BTreeMap::new();
        for (of, named) in from {
            let seen = self.seen.get(of).filter(|seen| seen.origin == *named);
            for (meter, value) in seen.into_iter().flat_map(|seen| &seen.values) {
                *values.entry(*meter).or_default() += value;
            }
        }
        if !values.is_empty() {
            self.seen.insert(place, Arc::new(Seen { origin: origin.to_owned(), values }));
        }
    }

    /// Takes a reading in. `name` says whose a counter is now; the growth since the last reading is theirs. Returns
    /// that growth. Readings have to come in the order in which they were made.
    pub fn take_in(&mut self, reading: Reading, name: impl Fn(Meter) -> Name) -> BTreeMap<Name, u64> {
        let mut growth = BTreeMap::new();
        for (place, read) in reading {
            let before = self.seen.get(&place).filter(|seen| seen.origin == read.origin);
            let Some((grown, seen)) = advance(place, before.map(Arc::as_ref), read) else { continue };
            for (meter, more) in grown {
                *growth.entry(name(meter)).or_default() += more;
            }
            self.seen.insert(place, Arc::new(seen));
        }
        if !growth.is_empty() {
            let sums = Arc::make_mut(&mut self.sums);
            for (name, more) in &growth {
                *sums.entry(name.clone()).or_default() += more;
            }
        }
        growth
    }
}

/// By how much each counter has grown, and how far the place is then taken in; `None` where nothing moved. A counter
/// that is missing from a reading stays as it was: a dump may miss one, and must not make it count twice.
fn advance(place: Place, before: Option<&Seen>, now: Seen) -> Option<(Vec<(Meter, u64)>, Seen)> {
    let Some(before) = before else {
        return Some((now.values.iter().map(|(meter, value)| (*meter, *value)).collect(), now));
    };
    let (mut grown, mut moved) = (Vec::new(), Vec::new());
    for (meter, value) in now.values {
        let known = before.values.get(&meter).copied().unwrap_or_default();
        let more = growth(known, value, place.can_be_set_back());
        if more > 0 {
            grown.push((meter, more));
        }
        if more > 0 || (value < known && place.can_be_set_back()) {
            moved.push((meter, value));
        }
    }
    if moved.is_empty() {
        return None;
    }
    let mut seen = before.clone();
    seen.values.extend(moved);
    Some((grown, seen))
}

/// What was counted between two looks at one counter.
const fn growth(known: u64, value: u64, can_be_set_back: bool) -> u64 {
    if value >= known {
        value - known
    } else if can_be_set_back {
        value
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meter(source: u16, outcome: Outcome) -> Meter {
        Meter { lane: 1, source, outcome }
    }

    fn name(meter: Meter) -> Name {
        let source = (meter.source > 0).then(|| IpAddr::from([192, 0, 2, meter.source.to_be_bytes()[1]]));
        Name { source, stream: "mail".into(), provider: "other".into(), outcome: meter.outcome }
    }

    fn reading(place: Place, origin: &str, values: &[(Meter, u64)]) -> Reading {
        let values = values.iter().copied().filter(|(_, value)| *value > 0).collect();
        BTreeMap::from([(place, Seen { origin: origin.to_owned(), values })])
    }

    fn sum(ledger: &Ledger) -> u64 {
        ledger.sums().values().sum()
    }

    #[test]
    fn the_same_map_adds_its_growth_and_another_one_all() {
        let one = meter(1, Outcome::Attempted);
        let mut ledger = Ledger::default();
        ledger.take_in(reading(Place::Counters, "a/7", &[(one, 5)]), name);
        ledger.take_in(reading(Place::Counters, "a/7", &[(one, 8)]), name);
        assert_eq!(ledger.sums()[&name(one)], 8);
        let grown = ledger.take_in(reading(Place::Counters, "b/7", &[(one, 9)]), name);
        assert_eq!((ledger.sums()[&name(one)], grown[&name(one)]), (17, 9), "another boot, though 9 > 8");
    }

    #[test]
    fn a_number_that_is_given_to_another_takes_nothing_along() {
        let one = meter(1, Outcome::Attempted);
        let mut ledger = Ledger::default();
        ledger.take_in(reading(Place::Counters, "a", &[(one, 5)]), name);
        let other = |meter: Meter| Name { source: Some([198, 51, 100, 1].into()), ..name(meter) };
        ledger.take_in(reading(Place::Counters, "a", &[(one, 6)]), other);
        assert_eq!((ledger.sums()[&name(one)], ledger.sums()[&other(one)]), (5, 1));
    }

    #[test]
    fn a_table_that_was_set_back_is_carried_on_and_a_missed_counter_counts_once() {
        let one = meter(0, Outcome::RefusedExhausted);
        let mut ledger = Ledger::default();
        for (value, wanted) in [(5, 5), (2, 7), (3, 8), (0, 8), (3, 8), (4, 9)] {
            ledger.take_in(reading(Place::Table, "t", &[(one, value)]), name);
            assert_eq!(sum(&ledger), wanted, "after {value}");
        }
    }

    #[test]
    fn what_another_versions_maps_gave_is_counted_once() {
        let one = meter(1, Outcome::Attempted);
        let mut ledger = Ledger::default();
        ledger.take_in(reading(Place::Counters, "a/1", &[(one, 5)]), name);
        ledger.take_in(reading(Place::Swept, "a/2", &[(one, 1)]), name);
        // Two more were counted while no agent looked; then all eight were given to a new map.
        let from = [(Place::Counters, "a/1".to_owned()), (Place::Swept, "a/2".to_owned())];
        ledger.inherit(Place::Swept, "a/9", &from);
        ledger.take_in(reading(Place::Swept, "a/9", &[(one, 8)]), name);
        ledger.take_in(reading(Place::Counters, "a/8", &[(one, 4)]), name);
        assert_eq!(sum(&ledger), 12);
        ledger.inherit(Place::Swept, "a/9", &from);
        ledger.take_in(reading(Place::Swept, "a/9", &[(one, 9)]), name);
        assert_eq!(sum(&ledger), 13);
    }

    /// What happens to a host, one after the other.
    #[derive(Clone, Debug)]
    enum Step {
        /// The kernel counts.
        Count(u16, u64),
        /// The agent reads.
        Read,
        /// The agent reads and what it knows is kept.
        Keep,
        /// The agent is killed and started again: what was kept is all it knows.
        Kill,
        /// The power fails: maps are new, and what was kept is all it knows.
        Reboot,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..4u16, 1..9u64).prop_map(|(source, more)| Step::Count(source, more)),
            2 => Just(Step::Read),
            2 => Just(Step::Keep),
            1 => Just(Step::Kill),
            1 => Just(Step::Reboot),
        ]
    }

    proptest! {
        /// Killed whenever, everything is counted once; after a reboot all is missing that was not kept, no more.
        #[test]
        fn nothing_is_counted_twice_and_only_a_reboot_loses(steps in prop::collection::vec(step(), 0..60)) {
            let (mut map, mut boot) = (BTreeMap::<Meter, u64>::new(), 0);
            let (mut ledger, mut kept) = (Ledger::default(), Ledger::default());
            let (mut counted, mut at_keep, mut last) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Count(source, more) => {
                        *map.entry(meter(source, Outcome::Attempted)).or_default() += more;
                        counted += more;
                    }
                    Step::Read | Step::Keep => {
                        let seen = Seen { origin: boot.to_string(), values: map.clone() };
                        ledger.take_in(BTreeMap::from([(Place::Counters, seen)]), name);
                        prop_assert_eq!(sum(&ledger), counted);
                        prop_assert!(sum(&ledger) >= last);
                        last = sum(&ledger);
                        if matches!(step, Step::Keep) {
                            (kept, at_keep) = (ledger.clone(), counted);
                        }
                    }
                    Step::Kill => ledger = kept.clone(),
                    Step::Reboot => {
                        (ledger, counted, last) = (kept.clone(), at_keep, 0);
                        map.clear();
                        boot += 1;
                    }
                }
            }
        }

        /// However the table's counters are set back between readings, a sum never falls and never exceeds what was
        /// counted.
        #[test]
        fn a_sum_never_falls(values in prop::collection::vec((0..50u64, any::<bool>()), 1..40)) {
            let one = meter(0, Outcome::HeldGap);
            let (mut ledger, mut value, mut counted, mut before) = (Ledger::default(), 0, 0, 0);
            for (more, set_back) in values {
                value = if set_back { more } else { value + more };
                counted += more;
                ledger.take_in(reading(Place::Table, "t", &[(one, value)]), name);
                prop_assert!(sum(&ledger) >= before && sum(&ledger) <= counted);
                before = sum(&ledger);
            }
        }
    }
}
