//! Everything that is counted in the kernel, read at one time and named.
//!
//! Owns: reading the counters of the eBPF maps and of the table, and carrying the table's on when a stranger sets
//! them back. Must not: count anything itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use mailsteer_core::model::{LaneId, SourceId};
use mailsteer_ebpf::{Counters, Event, HELD_REASONS, Held, Told, Total};

use crate::act::bpf::BpfPaths;
use crate::api::view::SourceCounters;
use crate::conntrack;
use crate::nftnl::Counter;
use crate::observe::bpf::{self, ReadError, Reader};
use crate::observe::nft;

/// A reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// By lane and source; lane 0 is what no stream matches, source 0 what is not steered.
    pub(super) connections: BTreeMap<(LaneId, SourceId), Counters>,
    /// Packets held, by reason.
    pub(super) held: BTreeMap<String, u64>,
    /// Connections refused by decision.
    pub(super) refused: BTreeMap<(LaneId, String), u64>,
    /// Connections after whose `connect()` no SYN left, those refused by decision among them.
    pub(super) local: BTreeMap<LaneId, u64>,
    /// Connections that were refused by decision, each once, however often it knocked.
    pub(super) policy: BTreeMap<LaneId, u64>,
    /// Events that were lost; the counters have them all the same.
    pub(super) events_lost: u64,
    /// Connections that could not be followed.
    pub(super) untracked: u64,
    /// Share of the conntrack table in use.
    pub(super) conntrack_used: Option<f64>,
    /// Packets of steered connections that left with a wrong address.
    pub(super) wrong: Grown,
    /// Those that bore one and were stopped, by the guard or by the table.
    pub(super) stopped: Grown,
    /// What could not be read.
    pub(super) faults: Vec<String>,
}

impl Counts {
    /// A source's counters over all lanes.
    pub(super) fn of_source(&self, id: SourceId) -> SourceCounters {
        let mut sum = SourceCounters::default();
        let own = self.connections.iter().filter(|((_, source), _)| *source == id);
        for (_, counters) in own {
            sum.attempts += counters.attempts;
            sum.established += counters.established;
            sum.refused += counters.refused;
            sum.unreachable += counters.unreachable;
            sum.reset += counters.reset;
            sum.unanswered += counters.unanswered;
            sum.open += counters.attempts.saturating_sub(counters.closed);
            sum.bytes_out += counters.bytes_out;
            sum.bytes_in += counters.bytes_in;
        }
        sum
    }
}

/// Counters of the table that survive its being set back: what was counted before is carried on.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    before: BTreeMap<(LaneId, String), u64>,
    last: BTreeMap<(LaneId, String), u64>,
}

impl Carried {
    /// The sums, with a new reading taken in.
    pub(super) fn with(
        &mut self,
        reading: BTreeMap<(LaneId, String), u64>,
    ) -> BTreeMap<(LaneId, String), u64> {
        for (key, last) in &self.last {
            if reading.get(key).copied().unwrap_or_default() < *last {
                *self.before.entry(key.clone()).or_default() += last;
            }
        }
        self.last = reading;
        let mut sums = self.before.clone();
        for (key, value) in &self.last {
            *sums.entry(key.clone()).or_default() += value;
        }
        sums
    }
}

/// A count, and when it was last seen to grow. It may be older than the agent: what the first reading finds has no
/// time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Grown {
    pub(super) count: u64,
    pub(super) last: Option<Timestamp>,
}

impl Grown {
    /// With a new reading taken in.
    fn with(before: Option<Self>, count: u64, now: Timestamp) -> Self {
        match before {
            Some(before) if count > before.count => Self { count, last: Some(now) },
            Some(before) => Self { count, ..before },
            None => Self { count, last: None },
        }
    }
}

/// Reads everything.
pub(super) struct Gatherer {
    reader: Mutex<Reader>,
    carried: Mutex<(Carried, Carried)>,
    /// `wrong` and `stopped` of the last whole reading.
    grown: Mutex<Option<(Grown, Grown)>>,
}

impl Gatherer {
    /// Opens the pinned maps.
    pub(super) fn open(paths: &BpfPaths) -> Result<Self, ReadError> {
        Ok(Self {
            reader: Mutex::new(Reader::open(&paths.bpffs)?),
            carried: Mutex::default(),
            grown: Mutex::default(),
        })
    }

    /// Reads all counters once. What cannot be read is said in the reading and is missing from it.
    pub(super) async fn gather(&self) -> Counts {
        let mut counts = Counts::default();
        if let Err(error) = self.maps(&mut counts) {
            counts.faults.push(format!("counters cannot be read: {error}"));
        }
        match nft::counters().await {
            Ok(table) => self.table(&mut counts, &table.known),
            Err(error) => counts.faults.push(format!("the table's counters cannot be read: {error}")),
        }
        self.grow(&mut counts);
        match conntrack::usage() {
            Ok((_, 0)) => {}
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            Ok((used, max)) => counts.conntrack_used = Some(used as f64 / max as f64),
            Err(error) => counts.faults.push(error.to_string()),
        }
        counts
    }

    /// Ends connections that fell silent, and returns the events of those that were never answered.
    pub(super) fn sweep(&self) -> Result<Vec<Event>, ReadError> {
        self.lock().sweep(bpf::boottime())
    }

    /// A reading that lacks something says nothing of growth: the last whole one stands.
    fn grow(&self, counts: &mut Counts) {
        let mut grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.faults.is_empty() {
            let now = Timestamp::now();
            let wrong = counts.connections.values().map(|counters| counters.wrong).sum();
            let stopped = STOPPED.iter().filter_map(|reason| counts.held.get(*reason)).sum();
            *grown = Some((
                Grown::with(grown.map(|grown| grown.0), wrong, now),
                Grown::with(grown.map(|grown| grown.1), stopped, now),
            ));
        }
        (counts.wrong, counts.stopped) = grown.unwrap_or_default();
    }

    /// Adds a connection of which no SYN left, by what it turned out to be.
    pub(super) fn tell(&self, lane: LaneId, told: Told) {
        if let Err(error) = self.lock().tell(lane.0.into(), told) {
            tracing::warn!("a connection that did not leave is counted under no stream: {error}");
        }
    }

    fn maps(&self, counts: &mut Counts) -> Result<(), ReadError> {
        let reader = self.lock();
        for (key, counters) in reader.counters()? {
            let lane = LaneId(u8::try_from(key.lane).unwrap_or_default());
            counts.connections.insert((lane, SourceId(key.source)), counters);
        }
        for (reason, packets) in HELD.iter().zip(reader.held()?) {
            counts.held.insert((*reason).to_owned(), packets);
        }
        let totals = reader.totals()?;
        let mut untold = totals[Total::NotSent as usize];
        for (lane, told) in reader.told()? {
            let lane = LaneId(u8::try_from(lane).unwrap_or_default());
            counts.local.insert(lane, told.local);
            counts.policy.insert(lane, told.policy);
            untold = untold.saturating_sub(told.local + told.policy);
        }
        // Those whose records were lost, or come in a moment.
        *counts.local.entry(LaneId(0)).or_default() += untold;
        counts.untracked = totals[Total::Untracked as usize];
        counts.events_lost = totals[Total::EventsLost as usize];
        Ok(())
    }

    fn table(&self, counts: &mut Counts, known: &BTreeMap<Counter, u64>) {
        let (mut refused, mut held) = (BTreeMap::new(), BTreeMap::new());
        for (counter, packets) in known {
            match counter {
                Counter::Refused(lane, reason) => {
                    refused.insert((*lane, reason.as_str().to_owned()), *packets);
                }
                Counter::Rejected(lane, cause) => {
                    refused.insert((*lane, cause.as_str().to_owned()), *packets);
                }
                Counter::HeldGap => drop(held.insert((LaneId(0), "gap".to_owned()), *packets)),
                Counter::HeldPending => drop(held.insert((LaneId(0), "pending".to_owned()), *packets)),
                Counter::HeldUnowned => drop(held.insert((LaneId(0), "unowned".to_owned()), *packets)),
                Counter::DroppedWrong => {
                    held.insert((LaneId(0), WRONG_TRANSLATION.to_owned()), *packets);
                }
            }
        }
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        counts.refused = carried.0.with(refused);
        counts.held.extend(carried.1.with(held).into_iter().map(|((_, reason), packets)| (reason, packets)));
    }

    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words for the guard's reasons, in the order of `mailsteer_ebpf::Held`.
const HELD: [&str; HELD_REASONS as usize] =
    ["no_mark", "wrong_address", "wrong_uplink", "unreadable", "undeclared"];
/// The word for packets that the table dropped because a stranger's NAT came first.
const WRONG_TRANSLATION: &str = "wrong_translation";
/// The reasons for which a packet with a wrong address is stopped.
const STOPPED: [&str; 3] =
    [HELD[Held::WrongAddress as usize], HELD[Held::WrongUplink as usize], WRONG_TRANSLATION];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_agent_left_did_not_grow_now() {
        let (first, now) =
            (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9));
        let found = Grown::with(None, 3, first);
        assert_eq!(found, Grown { count: 3, last: None });
        let same = Grown::with(Some(found), 3, now);
        assert_eq!(same, found);
        let more = Grown::with(Some(same), 4, now);
        assert_eq!(more, Grown { count: 4, last: Some(now) });
        assert_eq!(Grown::with(Some(more), 4, first), more, "the time stays");
    }

    #[test]
    fn a_counter_that_was_set_back_is_carried_on() {
        let mut carried = Carried::default();
        let reading = |value| BTreeMap::from([((LaneId(1), "exhausted".to_owned()), value)]);
        assert_eq!(carried.with(reading(5)), reading(5));
        assert_eq!(carried.with(reading(2)), reading(7));
        assert_eq!(carried.with(reading(3)), reading(8));
        assert_eq!(carried.with(BTreeMap::new()), reading(8));
    }
}
