//! Which number stands for which source, lane and uplink.
//!
//! Owns: giving out numbers and keeping them. A number is in the marks of living connections, in the pinned maps
//! and in the counters, so it is never given to something else while it may still be borne: sources that left the
//! config are retired, and their numbers are used again only when all others are used up. Must not: decide who is
//! eligible.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::world::moved;
use crate::model::{LaneId, SourceId, UplinkId};

/// Highest source id; those above are refusals (`mailsteer_ebpf::FIRST_REFUSAL`).
const MAX_SOURCE: u16 = 0xff0 - 1;
/// Highest uplink id: 4 bits of the mark.
const MAX_UPLINK: u8 = 15;

/// The numbers in use.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ids {
    sources: BTreeMap<IpAddr, SourceEntry>,
    lanes: BTreeMap<(String, String), u8>,
    uplinks: BTreeMap<String, u8>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct SourceEntry {
    id: SourceId,
    retired: Option<Timestamp>,
}

impl Ids {
    /// Takes over what an earlier agent gave out, as the pinned maps or the table tell it: living connections bear it,
    /// and nobody bears what this one gave out before it looked. To be followed by `assign`.
    pub fn restore(
        &mut self,
        sources: &BTreeMap<SourceId, IpAddr>,
        lanes: &BTreeMap<LaneId, (String, String)>,
        now: Timestamp,
    ) {
        self.sources.clear();
        self.lanes.clear();
        for (&id, &address) in sources {
            self.sources.entry(address).or_insert(SourceEntry { id, retired: Some(now) });
        }
        for (&id, name) in lanes {
            self.lanes.entry(name.clone()).or_insert(id.0);
        }
    }

    /// Makes these the sources, lanes and uplinks in use; what is missing from them is retired at `now`.
    pub(super) fn assign(
        &mut self,
        sources: &BTreeSet<IpAddr>,
        lanes: &[(String, String)],
        uplinks: &[String],
        now: Timestamp,
    ) {
        for (address, entry) in &mut self.sources {
            entry.retired = match (sources.contains(address), entry.retired) {
                (true, _) => None,
                (false, earlier) => earlier.or(Some(now)),
            };
        }
        for &address in sources {
            self.source_for(address);
        }
        lanes.iter().for_each(|lane| number(&mut self.lanes, lane, lanes, u8::MAX));
        uplinks.iter().for_each(|uplink| number(&mut self.uplinks, uplink, uplinks, MAX_UPLINK));
    }

    /// Retired sources stay as long as they would have by the clock before it was set.
    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        let retired = self.sources.values_mut().filter_map(|entry| entry.retired.as_mut());
        retired.for_each(|at| *at = moved(*at, by));
    }

    fn source_for(&mut self, address: IpAddr) {
        if self.sources.contains_key(&address) {
            return;
        }
        let used: BTreeSet<u16> = self.sources.values().map(|entry| entry.id.0).collect();
        let free = (1..=MAX_SOURCE).find(|id| !used.contains(id)).map(SourceId);
        let Some(id) = free.or_else(|| self.evict_oldest_retired()) else { return };
        self.sources.insert(address, SourceEntry { id, retired: None });
    }

    fn evict_oldest_retired(&mut self) -> Option<SourceId> {
        let retired = |(address, entry): (&IpAddr, &SourceEntry)| entry.retired.map(|at| (at, *address));
        let (_, address) = self.sources.iter().filter_map(retired).min()?;
        self.sources.remove(&address).map(|entry| entry.id)
    }

    /// A source's number.
    #[must_use]
    pub fn source(&self, address: IpAddr) -> Option<SourceId> {
        self.sources.get(&address).map(|entry| entry.id)
    }

    /// Every source that has a number, with the time since which the config no longer has it.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, IpAddr, Option<Timestamp>)> + '_ {
        self.sources.iter().map(|(&address, entry)| (entry.id, address, entry.retired))
    }

    /// A lane's number.
    #[must_use]
    pub fn lane(&self, stream: &str, provider: &str) -> Option<LaneId> {
        self.lanes.get(&(stream.to_owned(), provider.to_owned())).copied().map(LaneId)
    }

    /// Every lane that has a number.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &(String, String))> + '_ {
        self.lanes.iter().map(|(name, &id)| (LaneId(id), name))
    }

    /// An uplink's number.
    #[must_use]
    pub fn uplink(&self, name: &str) -> Option<UplinkId> {
        self.uplinks.get(name).copied().map(UplinkId)
    }
}

/// Gives `name` a number from 1 to `max`: a free one, or that of a name which is no longer wanted.
fn number<K: Ord + Clone>(given: &mut BTreeMap<K, u8>, name: &K, wanted: &[K], max: u8) {
    if given.contains_key(name) {
        return;
    }
    let used: BTreeSet<u8> = given.values().copied().collect();
    let free = (1..=max).find(|id| !used.contains(id));
    let stale = given.keys().find(|other| !wanted.contains(other)).cloned();
    if let Some(id) = free.or_else(|| given.remove(&stale?)) {
        given.insert(name.clone(), id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n))
    }

    #[test]
    fn a_number_stays_with_its_address_while_others_come_and_go() {
        let mut ids = Ids::default();
        ids.assign(&BTreeSet::from([address(1), address(2)]), &[], &[], at(0));
        let second = ids.source(address(2));
        ids.assign(&BTreeSet::from([address(2), address(3)]), &[], &[], at(1));
        assert_eq!(ids.source(address(2)), second);
        assert!(ids.source(address(1)).is_some(), "a retired source keeps its number");
        assert_ne!(ids.source(address(3)), ids.source(address(1)));
    }

    #[test]
    fn numbers_run_out_only_when_the_oldest_retired_is_used_again() {
        let mut ids = Ids::default();
        let all: BTreeSet<IpAddr> = (0..u32::from(MAX_SOURCE)).map(address).collect();
        ids.assign(&all, &[], &[], at(0));
        let first = ids.source(address(0));
        let mut next: BTreeSet<IpAddr> = all.iter().copied().skip(1).collect();
        next.insert(address(9_999));
        ids.assign(&next, &[], &[], at(1));
        assert_eq!(ids.source(address(9_999)), first);
        assert_eq!(ids.source(address(0)), None);
    }

    #[test]
    fn a_restart_takes_over_what_was_given_out() {
        let mut ids = Ids::default();
        let lanes = BTreeMap::from([(LaneId(7), ("bulk".to_owned(), "other".to_owned()))]);
        ids.restore(&BTreeMap::from([(SourceId(9), address(1))]), &lanes, at(0));
        let wanted = [("bulk".to_owned(), "other".to_owned()), ("news".to_owned(), "other".to_owned())];
        ids.assign(&BTreeSet::from([address(1), address(2)]), &wanted, &[], at(1));
        assert_eq!(ids.source(address(1)), Some(SourceId(9)));
        assert_eq!(ids.lane("bulk", "other"), Some(LaneId(7)));
        assert_eq!(ids.lane("news", "other"), Some(LaneId(1)));
    }

    #[test]
    fn what_living_connections_bear_wins_over_what_was_given_out_before_the_look() {
        let mut ids = Ids::default();
        let wanted = ["bulk", "news"].map(|name| (name.to_owned(), "other".to_owned()));
        let config = BTreeSet::from([address(1), address(2)]);
        ids.assign(&config, &wanted, &[], at(0));
        assert_eq!((ids.source(address(2)), ids.lane("news", "other")), (Some(SourceId(2)), Some(LaneId(2))));
        // The first source and the first stream are new since the earlier agent.
        let lanes = BTreeMap::from([(LaneId(1), wanted[1].clone())]);
        ids.restore(&BTreeMap::from([(SourceId(1), address(2))]), &lanes, at(0));
        ids.assign(&config, &wanted, &[], at(0));
        assert_eq!((ids.source(address(2)), ids.source(address(1))), (Some(SourceId(1)), Some(SourceId(2))));
        assert_eq!(
            (ids.lane("news", "other"), ids.lane("bulk", "other")),
            (Some(LaneId(1)), Some(LaneId(2)))
        );
    }
}
