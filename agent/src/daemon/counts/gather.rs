//! Everything that is counted, read from the kernel at one time, added to what was kept, and named.
//!
//! Owns: when the counters of the eBPF maps and of the table are read, and whose each is. Must not: count anything
//! itself, or add anything up: that is the ledger's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use mailsteer_core::model::{LaneId, SourceId};
use mailsteer_ebpf::{CounterKey, Counters, Event, Told, Total};

use super::Counts;
use super::meters::{HELD, STOPPED, connections, counted_by, nobody, pairs};
use crate::act::bpf::BpfPaths;
use crate::bpf_maps::{self, Given, pin_dir};
use crate::conntrack;
use crate::daemon::clock::Jumps;
use crate::daemon::shared::{Published, Shared};
use crate::observe::bpf::{self, ReadError, Reader};
use crate::observe::nft;
use crate::state::{Checkpoint, Growth, Meter, Name, Outcome, Place, Reading, Seen, SourceFacts};

/// Words for what should not grow.
const WRONG_LEFT: &str = "wrong";
const WRONG_STOPPED: &str = "stopped";

/// Words for the kernel's numbers, as they are given out now.
struct Names {
    lanes: BTreeMap<u8, (Arc<str>, Arc<str>)>,
    sources: BTreeMap<u16, IpAddr>,
}

impl Names {
    fn of(published: &Published, known: &BTreeMap<IpAddr, SourceFacts>) -> Self {
        let world = &published.world;
        let lanes = world.ids().lanes();
        let mut publics: BTreeMap<IpAddr, IpAddr> =
            known.iter().map(|(public, facts)| (facts.local, *public)).collect();
        publics.extend(world.pool_sources().map(|source| (source.local, source.public)));
        let sources = world
            .ids()
            .sources()
            .map(|(SourceId(id), local, _)| (id, publics.get(&local).copied().unwrap_or(local)));
        Self {
            lanes: lanes
                .map(|(LaneId(id), (stream, provider))| {
                    (id, (stream.as_str().into(), provider.as_str().into()))
                })
                .collect(),
            sources: sources.collect(),
        }
    }

    fn name(&self, meter: Meter) -> Name {
        let (stream, provider) =
            self.lanes.get(&meter.lane).cloned().unwrap_or_else(|| ("".into(), "other".into()));
        Name { source: self.sources.get(&meter.source).copied(), stream, provider, outcome: meter.outcome }
    }
}

/// Reads everything.
pub(in crate::daemon) struct Gatherer {
    /// `None`: there is no eBPF, and the table counts.
    reader: Option<Mutex<Reader>>,
    bpffs: PathBuf,
    /// Names this boot: numbers of maps and tables begin anew with each.
    boot: String,
    /// Readings are taken in one after the other, in the order in which they are made.
    counting: tokio::sync::Mutex<Checkpoint>,
    /// The connections' counters as they were read last.
    last: Mutex<Apart>,
    jumps: Mutex<Jumps>,
}

/// What the programs counted, and what the sweep ended.
type Apart = [BTreeMap<CounterKey, Counters>; 2];

impl Gatherer {
    /// Opens the pinned maps, where there are any, and goes on from what was kept.
    pub(in crate::daemon) fn open(paths: &BpfPaths, ebpf: bool, kept: Checkpoint) -> anyhow::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let reader = if ebpf { Some(Mutex::new(Reader::open(&paths.bpffs)?)) } else { None };
        let (counting, jumps) = (tokio::sync::Mutex::new(kept), Mutex::new(Jumps::watch()));
        Ok(Self { reader, bpffs: paths.bpffs.clone(), boot, counting, last: Mutex::default(), jumps })
    }

    /// What is to be kept.
    pub(in crate::daemon) async fn checkpoint(&self) -> Checkpoint {
        self.counting.lock().await.clone()
    }

    /// Reads all counters once, publishes what they come to, and gives it to be kept. What cannot be read is said and
    /// stays as it was.
    pub(in crate::daemon) async fn gather(&self, shared: &Shared) {
        let mut counting = self.counting.lock().await;
        // Before anything is read: what is read once and not taken in would not be taken in later.
        let Some(published) = shared.last_published() else { return };
        let (mut reading, mut faults) = (Reading::new(), Vec::new());
        if let Some(reader) = self.reader() {
            if bpf_maps::others_stand(&self.bpffs) {
                faults.push(
                    "another version's maps still stand: counts wait until theirs are taken over".to_owned(),
                );
            } else if let Err(error) = self.maps(&reader, &mut reading) {
                faults.push(format!("counters cannot be read: {error}"));
            }
        }
        match nft::counters().await {
            Ok(table) => self.table(&mut reading, &table),
            Err(error) => faults.push(format!("the table's counters cannot be read: {error}")),
        }
        let now = Timestamp::now();
        facts(&published, &mut counting.sources, now);
        let names = Names::of(&published, &counting.sources);
        let open = open(&self.last(), &names);
        self.inherit(&mut counting, &reading);
        let growth = counting.ledger.take_in(reading, |meter| names.name(meter));
        served(&growth, &mut counting.sources, now);
        let listed: BTreeSet<IpAddr> =
            shared.lists().iter().flat_map(|list| list.listed.iter().copied()).collect();
        shared.diary.keep(&mut counting.days, &growth, &listed, now);
        let counts = Counts { open, partial: self.reader.is_none(), faults, ..Counts::default() };
        let mut counts = counts.with_sums(counting.ledger.sums(), &shared.counts());
        if let Some(by) = self.jumps.lock().unwrap_or_else(PoisonError::into_inner).look() {
            let grew = counting.growth.values_mut().filter_map(|growth| growth.last.as_mut());
            grew.for_each(|last| *last = last.checked_add(by).unwrap_or(*last));
        }
        grow(&mut counting.growth, &mut counts, now);
        match conntrack::usage() {
            Ok((_, 0)) => {}
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            Ok((used, max)) => counts.conntrack_used = Some(used as f64 / max as f64),
            Err(error) => counts.faults.push(error.to_string()),
        }
        shared.store.offer(counting.clone());
        shared.set_counts(counts);
    }

    /// Ends connections that fell silent, and returns the events of those that were never answered.
    pub(in crate::daemon) fn sweep(&self) -> Result<Vec<Event>, ReadError> {
        self.reader().map_or_else(|| Ok(Vec::new()), |mut reader| reader.sweep(bpf::Moment::now()))
    }

    /// The connections that stand now.
    pub(in crate::daemon) fn standing(&self) -> Result<Vec<Event>, ReadError> {
        self.reader().map_or_else(|| Ok(Vec::new()), |reader| reader.standing())
    }

    /// How many records were lost since the maps were made; a count that cannot be read is another one than before.
    pub(in crate::daemon) fn events_lost(&self) -> Option<u64> {
        let totals = self.reader()?.totals().ok()?;
        totals.get(Total::EventsLost as usize).copied()
    }

    /// Adds a connection of which no SYN left, by what it turned out to be.
    pub(in crate::daemon) fn tell(&self, lane: LaneId, told: Told) {
        let Some(mut reader) = self.reader() else { return };
        if let Err(error) = reader.tell(lane.0.into(), told) {
            tracing::warn!("a connection that did not leave is counted under no stream: {error}");
        }
    }

    /// Maps that were made with another version's counts in them.
    fn inherit(&self, counting: &mut Checkpoint, reading: &Reading) {
        for given in Given::all(&pin_dir(&self.bpffs)) {
            let of = |place, id: u32| (place, format!("{}/{id}", self.boot));
            let counted = [of(Place::Counters, given.counters), of(Place::Swept, given.swept)];
            for (place, from) in
                [(Place::Swept, &counted[..]), (Place::Told, &[of(Place::Told, given.told)][..])]
            {
                if let Some(read) = reading.get(&place) {
                    counting.ledger.inherit(place, &read.origin, from);
                }
            }
        }
    }

    fn maps(&self, reader: &Reader, reading: &mut Reading) -> Result<(), ReadError> {
        let origins = reader.origins();
        let apart = reader.apart()?;
        // On a host that idles with thousands of sources nothing costs more than to take in that nothing is new.
        if *self.last() != apart {
            let [counted, swept] = &apart;
            reading.insert(Place::Counters, self.seen(origins.counters, connections(counted)));
            reading.insert(Place::Swept, self.seen(origins.swept, connections(swept)));
            *self.last() = apart;
        }
        let held = HELD.into_iter().zip(reader.held()?);
        reading.insert(Place::Held, self.seen(origins.held, held.map(|(outcome, n)| (nobody(outcome), n))));
        // Before the sum of which they are parts, so that the sum is never the smaller one.
        let told = reader.told()?;
        let totals = reader.totals()?;
        let total = |outcome, total: Total| (nobody(outcome), totals[total as usize]);
        let totals = [
            total(Outcome::NotSent, Total::NotSent),
            total(Outcome::Unfollowed, Total::Untracked),
            total(Outcome::EventsLost, Total::EventsLost),
        ];
        reading.insert(Place::Totals, self.seen(origins.totals, totals));
        let told = told.into_iter().flat_map(|(lane, told)| {
            let lane = u8::try_from(lane).unwrap_or_default();
            let meter = |outcome| Meter { lane, source: 0, outcome };
            [(meter(Outcome::Local), told.local), (meter(Outcome::Policy), told.policy)]
        });
        reading.insert(Place::Told, self.seen(origins.told, told));
        Ok(())
    }

    fn table(&self, reading: &mut Reading, table: &nft::Counts) {
        let Some(handle) = table.table else { return };
        let values =
            table.known.iter().filter_map(|(counter, packets)| Some((counted_by(*counter)?, *packets)));
        reading.insert(Place::Table, self.seen(handle, values.chain(pairs(table))));
    }

    fn seen(&self, origin: impl std::fmt::Display, values: impl IntoIterator<Item = (Meter, u64)>) -> Seen {
        let values = values.into_iter().filter(|(_, value)| *value > 0).collect();
        Seen { origin: format!("{}/{origin}", self.boot), values }
    }

    fn last(&self) -> MutexGuard<'_, Apart> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> Option<MutexGuard<'_, Reader>> {
        Some(self.reader.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Connections that these maps saw begin and not end.
fn open(apart: &Apart, names: &Names) -> BTreeMap<IpAddr, u64> {
    let mut pairs: BTreeMap<(u16, u16), (u64, u64)> = BTreeMap::new();
    for (key, counters) in apart.iter().flatten() {
        let (begun, ended) = pairs.entry((key.lane, key.source)).or_default();
        *begun += counters.attempts;
        *ended += counters.closed;
    }
    let mut open = BTreeMap::new();
    for ((_, source), (begun, ended)) in pairs {
        if let Some(public) = names.sources.get(&source) {
            *open.entry(*public).or_default() += begun.saturating_sub(ended);
        }
    }
    open
}

/// Brings what is known of the config's sources up to date.
fn facts(published: &Published, sources: &mut Arc<BTreeMap<IpAddr, SourceFacts>>, now: Timestamp) {
    for source in published.world.pool_sources() {
        let known = sources.get(&source.public);
        if known.is_some_and(|known| known.name == source.name && known.local == source.local) {
            continue;
        }
        let facts = SourceFacts {
            name: source.name.clone(),
            local: source.local,
            first_seen: known.map_or(now, |known| known.first_seen),
            last_served: known.and_then(|known| known.last_served),
        };
        Arc::make_mut(sources).insert(source.public, facts);
    }
}

/// Notes which sources connections left from.
fn served(growth: &BTreeMap<Name, u64>, sources: &mut Arc<BTreeMap<IpAddr, SourceFacts>>, now: Timestamp) {
    let left = growth.keys().filter(|name| name.outcome == Outcome::Attempted);
    for public in left.filter_map(|name| name.source) {
        if let Some(facts) = Arc::make_mut(sources).get_mut(&public) {
            facts.last_served = Some(now);
        }
    }
}

/// A reading that lacks something says nothing of growth: the last whole one stands.
fn grow(growth: &mut BTreeMap<String, Growth>, counts: &mut Counts, now: Timestamp) {
    if counts.faults.is_empty() {
        let stopped = STOPPED.into_iter().map(|outcome| counts.total(outcome)).sum();
        for (what, count) in [(WRONG_LEFT, counts.total(Outcome::Wrong)), (WRONG_STOPPED, stopped)] {
            let next = grown(growth.get(what).copied(), count, now);
            growth.insert(what.to_owned(), next);
        }
    }
    let of = |what| growth.get(what).copied().unwrap_or_default();
    (counts.wrong, counts.stopped) = (of(WRONG_LEFT), of(WRONG_STOPPED));
}

/// A count that should be 0, with a new one taken in. What was never looked at before has no time.
fn grown(before: Option<Growth>, count: u64, now: Timestamp) -> Growth {
    match before {
        Some(before) if count > before.count => Growth { count, last: Some(now) },
        // The clock may have been set back while no agent ran.
        Some(before) => Growth { count, last: before.last.map(|last| last.min(now)) },
        None => Growth { count, last: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_looked_at_did_not_grow_now() {
        let (first, now) =
            (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9));
        let found = grown(None, 3, first);
        assert_eq!(found, Growth { count: 3, last: None });
        let same = grown(Some(found), 3, now);
        assert_eq!(same, found);
        let more = grown(Some(same), 4, now);
        assert_eq!(more, Growth { count: 4, last: Some(now) });
        let later = now + jiff::SignedDuration::from_secs(9);
        assert_eq!(grown(Some(more), 4, later), more, "the time stays");
        assert_eq!(grown(Some(more), 4, first).last, Some(first), "the clock was set back");
    }
}
