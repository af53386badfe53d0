//! What another version of mailsteer left pinned: taken over where its maps have our shape, and then taken away.
//!
//! Owns: the order that keeps the guard closed. Another version's programs stay attached until ours stand in their
//! place, told what ours are to know; only when everything is as desired is the rest of it removed. A start that
//! fails half-way leaves the other version's guard and maps as they were. Must not: read a map of another shape.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap};
use aya::{Ebpf, Pod};
use mailsteer_ebpf::{
    ABI, CONN_DONE, Conn, CounterKey, Counters, FlowKey, LANES, LaneEntry, SOURCES, SourceEntry, Told,
};

use super::hooks::Hooks;
use super::settings::map_of;
use super::{BpfError, access, pin_error};
use crate::bpf_maps::{self, Given, MAPS, with_patience};

/// The directory of another version's pins.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub(super) abi: u32,
    pub(super) pins: PathBuf,
}

/// Every other version that left something below our directory.
pub(super) fn find(root: &Path) -> Vec<Earlier> {
    let entries = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    let versions = entries.filter_map(|entry| {
        let abi = entry.file_name().to_str()?.strip_prefix('v')?.parse().ok()?;
        Some(Earlier { abi, pins: entry.path() })
    });
    versions.filter(|earlier| earlier.abi != ABI).collect()
}

impl Earlier {
    /// Whether its map is one that we could have made.
    fn has(&self, name: &str) -> bool {
        let shape = MAPS.iter().find(|shape| shape.name == name);
        self.pins.join(name).exists() && shape.is_some_and(|shape| bpf_maps::check(&self.pins, shape).is_ok())
    }

    fn open<M: TryFrom<Map, Error = MapError>>(&self, name: &'static str) -> Result<M, BpfError> {
        let path = self.pins.join(name);
        let map = MapData::from_pin(&path).and_then(Map::from_map_data).map_err(access(name))?;
        M::try_from(map).map_err(access(name))
    }

    /// Copies the numbers that living connections bear: sources and lanes. They are believed only where we have none.
    pub(super) fn give_numbers(&self, object: &mut Ebpf) -> Result<(), BpfError> {
        if self.has("SOURCES") && self.has("LANES") {
            self.copy::<SourceEntry>(object, "SOURCES", SOURCES)?;
            self.copy::<LaneEntry>(object, "LANES", LANES)?;
        }
        Ok(())
    }

    fn copy<V: Pod>(&self, object: &mut Ebpf, name: &'static str, entries: u32) -> Result<(), BpfError> {
        let theirs: Array<MapData, V> = self.open(name)?;
        let mut ours: Array<&mut MapData, V> = map_of(object, name)?;
        for index in 0..entries {
            let value = theirs.get(&index, 0).map_err(access(name))?;
            ours.set(index, value, 0).map_err(access(name))?;
        }
        Ok(())
    }

    /// The kernel's id of a map that is given; 0 where it is not.
    fn id(&self, name: &'static str) -> Result<u32, BpfError> {
        if !self.has(name) {
            return Ok(0);
        }
        let map = MapData::from_pin(self.pins.join(name)).map_err(access(name))?;
        Ok(map.info().map_err(access(name))?.id())
    }

    /// Notes whose counts ours begin with, before they do: who sums them up has counted those already.
    fn note(&self, ours: &Path) -> Result<(), BpfError> {
        let both = self.has("COUNTERS") && self.has("SWEPT");
        let of = |name| if both { self.id(name) } else { Ok(0) };
        let given = Given { counters: of("COUNTERS")?, swept: of("SWEPT")?, told: self.id("TOLD")? };
        given.note(ours).map_err(pin_error("make", ours))
    }

    /// Adds what it counted to what we count. Its programs count no more.
    fn give_counts(&self, object: &mut Ebpf) -> Result<(), BpfError> {
        if self.has("COUNTERS") && self.has("SWEPT") {
            let counters: PerCpuHashMap<MapData, CounterKey, Counters> = self.open("COUNTERS")?;
            let swept: HashMap<MapData, CounterKey, Counters> = self.open("SWEPT")?;
            let mut ours: HashMap<&mut MapData, CounterKey, Counters> = map_of(object, "SWEPT")?;
            for entry in counters.iter() {
                let (key, values) = entry.map_err(access("COUNTERS"))?;
                values.iter().try_for_each(|value| give(&mut ours, key, value))?;
            }
            for entry in swept.iter() {
                let (key, value) = entry.map_err(access("SWEPT"))?;
                give(&mut ours, key, &value)?;
            }
        }
        if self.has("CONNS") {
            // Nobody follows them any more: what lived through the upgrade counts as ended.
            let conns: HashMap<MapData, FlowKey, Conn> = self.open("CONNS")?;
            let mut ours: HashMap<&mut MapData, CounterKey, Counters> = map_of(object, "SWEPT")?;
            for entry in conns.iter() {
                let (_, conn) = entry.map_err(access("CONNS"))?;
                if conn.flags & CONN_DONE == 0 {
                    give(
                        &mut ours,
                        CounterKey::of_mark(conn.mark),
                        &Counters { closed: 1, ..Counters::default() },
                    )?;
                }
            }
        }
        if self.has("TOLD") {
            let theirs: Array<MapData, Told> = self.open("TOLD")?;
            let mut ours: Array<&mut MapData, Told> = map_of(object, "TOLD")?;
            for lane in 0..LANES {
                let (more, sum) = (
                    theirs.get(&lane, 0).map_err(access("TOLD"))?,
                    ours.get(&lane, 0).map_err(access("TOLD"))?,
                );
                let sum = Told { policy: sum.policy + more.policy, local: sum.local + more.local };
                ours.set(lane, sum, 0).map_err(access("TOLD"))?;
            }
        }
        Ok(())
    }

    /// Takes its programs off and its counts over, and removes its pins.
    pub(super) fn retire(&self, object: &mut Ebpf, ours: &Path) -> Result<(), BpfError> {
        Hooks::remove_version(&self.pins, self.abi)?;
        for entry in fs::read_dir(&self.pins).into_iter().flatten().filter_map(Result::ok) {
            // Links of the cgroup: maps are still needed.
            if entry.file_name().to_string_lossy().starts_with("link_") {
                fs::remove_file(entry.path()).map_err(pin_error("remove", &entry.path()))?;
            }
        }
        self.note(ours)?;
        self.give_counts(object)?;
        fs::remove_dir_all(&self.pins).map_err(pin_error("remove", &self.pins))
    }
}

fn give(
    ours: &mut HashMap<&mut MapData, CounterKey, Counters>,
    key: CounterKey,
    more: &Counters,
) -> Result<(), BpfError> {
    let mut sum = ours.get(&key, 0).unwrap_or_default();
    sum.add(more);
    with_patience(|| ours.insert(key, sum, 0)).map_err(access("SWEPT"))
}
