//! Counters, summed over the CPUs and over what the sweep ended.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::util::nr_cpus;
use mailsteer_ebpf::{CONN_DONE, Conn, CounterKey, Counters, FlowKey, HELD_REASONS, TOTALS, Told};

use super::batch;
use crate::bpf_maps::{self, PinnedMapError, pin_dir};

/// Why what the programs counted cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A pin is not there, or is another version's.
    #[error(transparent)]
    Map(#[from] PinnedMapError),
    /// A map cannot be read.
    #[error("cannot read the eBPF map {name}")]
    Access {
        /// The map.
        name: &'static str,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// A map cannot be read as a whole.
    #[error("cannot read the whole eBPF map {name}")]
    Whole {
        /// The map.
        name: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The number of CPUs is not to be had, and so not how long the values of a map are.
    #[error("cannot tell how many CPUs there may be ({file})")]
    Cpus {
        /// Where it should stand.
        file: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The ring buffer cannot be waited for.
    #[error("cannot wait for events of the eBPF programs")]
    Wait(#[source] io::Error),
}

/// A reader of the pinned counters.
pub struct Reader {
    cpus: usize,
    counters: MapData,
    held: PerCpuArray<MapData, u64>,
    totals: PerCpuArray<MapData, u64>,
    pub(super) conns: HashMap<MapData, FlowKey, Conn>,
    pub(super) swept: HashMap<MapData, CounterKey, Counters>,
    /// The same map, to be read as a whole.
    all_swept: MapData,
    told: Array<MapData, Told>,
    /// The same map, to be read as a whole.
    all_told: MapData,
    origins: Origins,
}

/// The kernel's ids of the maps that are read: none is given out twice between two boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origins {
    /// What the programs counted.
    pub counters: u32,
    /// What the sweep ended.
    pub swept: u32,
    /// What the guard held.
    pub held: u32,
    /// What belongs to no lane.
    pub totals: u32,
    /// What became of connections of which no SYN left.
    pub told: u32,
}

impl Reader {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// Where they are not there, or another version's.
    pub fn open(bpffs: &Path) -> Result<Self, ReadError> {
        let dir = pin_dir(bpffs);
        Ok(Self {
            cpus: nr_cpus().map_err(|(file, source)| ReadError::Cpus { file, source })?,
            counters: bpf_maps::open(&dir, "COUNTERS")?,
            held: typed(&dir, "HELD")?,
            totals: typed(&dir, "TOTALS")?,
            conns: typed(&dir, "CONNS")?,
            swept: typed(&dir, "SWEPT")?,
            all_swept: bpf_maps::open(&dir, "SWEPT")?,
            told: typed(&dir, "TOLD")?,
            all_told: bpf_maps::open(&dir, "TOLD")?,
            origins: Origins {
                counters: id(&dir, "COUNTERS")?,
                swept: id(&dir, "SWEPT")?,
                held: id(&dir, "HELD")?,
                totals: id(&dir, "TOTALS")?,
                told: id(&dir, "TOLD")?,
            },
        })
    }

    /// What became of the connections of each lane from each source.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<CounterKey, Counters>, ReadError> {
        let [mut sums, swept] = self.apart()?;
        for (key, value) in &swept {
            sums.entry(*key).or_default().add(value);
        }
        Ok(sums)
    }

    /// Which maps these are.
    #[must_use]
    pub const fn origins(&self) -> Origins {
        self.origins
    }

    /// What the programs counted by themselves, and what the sweep ended, apart; [`Reader::counters`] is their sum.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn apart(&self) -> Result<[BTreeMap<CounterKey, Counters>; 2], ReadError> {
        let (mut counted, mut swept): (BTreeMap<CounterKey, Counters>, BTreeMap<_, _>) = Default::default();
        batch::entries(&self.counters, self.cpus, |key, values: &[Counters]| {
            let sum = counted.entry(key).or_default();
            values.iter().for_each(|value| sum.add(value));
        })
        .map_err(whole("COUNTERS"))?;
        batch::entries(&self.all_swept, 1, |key, value: &[Counters]| {
            swept.extend(value.iter().map(|v| (key, *v)));
        })
        .map_err(whole("SWEPT"))?;
        Ok([counted, swept])
    }

    /// Packets that the guard held (or would have held, while it is not armed), by [`mailsteer_ebpf::Held`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn held(&self) -> Result<[u64; HELD_REASONS as usize], ReadError> {
        sums(&self.held, "HELD")
    }

    /// Counts that belong to no lane, by [`mailsteer_ebpf::Total`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn totals(&self) -> Result<[u64; TOTALS as usize], ReadError> {
        sums(&self.totals, "TOTALS")
    }

    /// What connections of each lane turned out to be of which no SYN left; lanes without any are left out.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn told(&self) -> Result<BTreeMap<u32, Told>, ReadError> {
        let mut told = BTreeMap::new();
        batch::entries(&self.all_told, 1, |lane: u32, entries: &[Told]| {
            told.extend(
                entries.iter().filter(|entry| **entry != Told::default()).map(|entry| (lane, *entry)),
            );
        })
        .map_err(whole("TOLD"))?;
        Ok(told)
    }

    /// Adds to a lane's. To be called by one process.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub fn tell(&mut self, lane: u32, more: Told) -> Result<(), ReadError> {
        let entry = self.told.get(&lane, 0).map_err(access("TOLD"))?;
        let sum = Told { policy: entry.policy + more.policy, local: entry.local + more.local };
        self.told.set(lane, sum, 0).map_err(access("TOLD"))
    }

    /// Connections that are open now, each with its tuple on the wire.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn connections(&self) -> Result<Vec<(FlowKey, Conn)>, ReadError> {
        let open = self.conns.iter().filter(|entry| entry.as_ref().map_or(true, |(_, conn)| !ended(conn)));
        open.collect::<Result<_, _>>().map_err(access("CONNS"))
    }

    /// How many connections are open now.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn open_connections(&self) -> Result<u64, ReadError> {
        Ok(self.connections()?.len() as u64)
    }
}

fn ended(conn: &Conn) -> bool {
    conn.flags & CONN_DONE != 0
}

pub(super) fn access(name: &'static str) -> impl Fn(MapError) -> ReadError {
    move |source| ReadError::Access { name, source }
}

fn whole(name: &'static str) -> impl Fn(io::Error) -> ReadError {
    move |source| ReadError::Whole { name, source }
}

fn id(dir: &Path, name: &'static str) -> Result<u32, ReadError> {
    let info = bpf_maps::open(dir, name)?.info().map_err(access(name))?;
    Ok(info.id())
}

fn typed<M>(dir: &Path, name: &'static str) -> Result<M, ReadError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = Map::from_map_data(bpf_maps::open(dir, name)?).map_err(access(name))?;
    M::try_from(map).map_err(access(name))
}

fn sums<const N: usize>(map: &PerCpuArray<MapData, u64>, name: &'static str) -> Result<[u64; N], ReadError>
where
    u64: Pod,
{
    let mut sums = [0; N];
    for (index, sum) in (0u32..).zip(&mut sums) {
        *sum = map.get(&index, 0).map_err(access(name))?.iter().sum();
    }
    Ok(sums)
}
