//! Where the pinned eBPF maps are and what shape they have, for the part that writes and the part that reads.
//!
//! Owns: pin paths, the check of a pinned map's shape before anybody uses it, and for how long a new element is tried
//! again. Must not: know what a value means. A library that opens a pin by name takes whatever lies there; another
//! version's map read as ours would be a wrong address in the end.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{MapData, MapError, MapInfo, MapType};
use mailsteer_ebpf::{
    ABI, Asker, CGROUPS, CgroupEntry, Conn, CounterKey, Counters, ExcludeKey, FlowKey, HELD_REASONS, LANES,
    LaneEntry, SOURCES, Settings, SourceEntry, TOTALS, Told,
};

/// The shape of one map.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MapShape {
    /// Its name in the object, and of its pin.
    pub name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
}

const fn shape<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapShape {
    MapShape { name, kind, key: size_of::<K>() as u32, value: size_of::<V>() as u32, entries }
}

/// Every map, as this version of the agent expects it.
pub const MAPS: [MapShape; 15] = [
    shape::<u32, Settings>("SETTINGS", MapType::Array, 1),
    shape::<u32, SourceEntry>("SOURCES", MapType::Array, SOURCES),
    shape::<u32, LaneEntry>("LANES", MapType::Array, LANES),
    shape::<ExcludeKey, u32>("EXCLUDE", MapType::LpmTrie, 4096),
    shape::<u32, u32>("UPLINKS", MapType::Hash, 64),
    shape::<u64, u32>("CGROUPS", MapType::Hash, CGROUPS),
    shape::<u32, CgroupEntry>("CGROUP_PATHS", MapType::Array, CGROUPS),
    shape::<FlowKey, Conn>("CONNS", MapType::Hash, 262_144),
    shape::<CounterKey, Counters>("COUNTERS", MapType::PerCpuHash, 16_384),
    shape::<CounterKey, Counters>("SWEPT", MapType::Hash, 16_384),
    shape::<u32, u64>("HELD", MapType::PerCpuArray, HELD_REASONS),
    shape::<u32, u64>("TOTALS", MapType::PerCpuArray, TOTALS),
    shape::<u32, Told>("TOLD", MapType::Array, LANES),
    shape::<(), ()>("EVENTS", MapType::RingBuf, 4 << 20),
    shape::<u32, Asker>("ASKERS", MapType::SkStorage, 0),
];

/// Why a pinned map could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PinnedMapError {
    /// There is no such pin, or it cannot be opened.
    #[error("cannot open the pinned map {path}: is the agent running, and is this its --bpffs?")]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// It is another version's.
    #[error(
        "the pinned map {path} has another shape ({found}) than this version uses ({wanted}): it was left by \
         another build; run `mailsteer teardown` with that one, or remove {path}, and start again"
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was expected.
        wanted: String,
    },
}

/// How often an element is tried again, and how long after: an interrupt fills the kernel's stock up, some microseconds
/// later, or a thread where the kernel is a real-time one.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// Adds an element to a map whose elements are allocated one by one: `BPF_F_NO_PREALLOC`, or a trie. The kernel takes them
/// from a small stock of each CPU and says that there is no memory when that is empty, with gigabytes free
/// (kernel/bpf/memalloc.c; seen on 6.18).
///
/// # Errors
/// The last try's, or the first one that is about something else.
pub fn with_patience<T>(mut add: impl FnMut() -> Result<T, MapError>) -> Result<T, MapError> {
    for _ in 1..TRIES {
        match add() {
            Err(error) if is_out_of_memory(&error) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    add()
}

fn is_out_of_memory(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(call) if call.io_error.kind() == ErrorKind::OutOfMemory)
}

/// The directory of this version's pins.
#[must_use]
pub fn pin_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("mailsteer").join(format!("v{ABI}"))
}

/// Compares a pinned map with what is expected of it. A pin that is not there fits.
///
/// # Errors
/// Where it cannot be asked, or has another shape.
pub fn check(dir: &Path, wanted: &MapShape) -> Result<(), PinnedMapError> {
    let path = dir.join(wanted.name);
    if !path.exists() {
        return Ok(());
    }
    let info =
        MapInfo::from_pin(&path).map_err(|source| PinnedMapError::Open { path: path.clone(), source })?;
    fits(path, &info, wanted)
}

fn fits(path: PathBuf, info: &MapInfo, wanted: &MapShape) -> Result<(), PinnedMapError> {
    let kind = info.map_type().map_err(|source| PinnedMapError::Open { path: path.clone(), source })?;
    let found = (kind, info.key_size(), info.value_size(), info.max_entries());
    let right = (wanted.kind, wanted.key, wanted.value, wanted.entries);
    if found == right {
        return Ok(());
    }
    let say = |(kind, key, value, entries): (MapType, u32, u32, u32)| {
        format!("{kind:?}, key of {key} bytes, value of {value}, {entries} entries")
    };
    Err(PinnedMapError::Shape { path, found: say(found), wanted: say(right) })
}

/// Opens a pinned map after checking its shape.
///
/// # Errors
/// Where there is none, or it has another shape.
pub fn open(dir: &Path, name: &str) -> Result<MapData, PinnedMapError> {
    if let Some(wanted) = MAPS.iter().find(|shape| shape.name == name) {
        check(dir, wanted)?;
    }
    let path = dir.join(name);
    MapData::from_pin(&path).map_err(|source| PinnedMapError::Open { path, source })
}

/// Maps of another version whose counts were given to ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// The kernel's id of its `COUNTERS`; 0: not given.
    pub counters: u32,
    /// Of its `SWEPT`.
    pub swept: u32,
    /// Of its `TOLD`.
    pub told: u32,
}

impl Given {
    const PREFIX: &'static str = "given_";

    /// Notes it beside our pins, as an empty directory: nothing else can be written there, and it lives as long as the
    /// maps do.
    ///
    /// # Errors
    /// Where the directory cannot be made.
    pub fn note(self, dir: &Path) -> std::io::Result<()> {
        match std::fs::create_dir(dir.join(self.name())) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// All that were noted.
    #[must_use]
    pub fn all(dir: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| Self::of_name(entry.file_name().to_str()?)).collect()
    }

    pub(crate) fn name(self) -> String {
        let Self { counters, swept, told } = self;
        format!("{}{counters}_{swept}_{told}", Self::PREFIX)
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let mut ids = name.strip_prefix(Self::PREFIX)?.split('_').map(str::parse);
        let mut next = || ids.next()?.ok();
        Some(Self { counters: next()?, swept: next()?, told: next()? })
    }
}

/// Whether another version's maps still stand, whose counts are to be given to ours.
#[must_use]
pub fn others_stand(bpffs: &Path) -> bool {
    let entries = std::fs::read_dir(bpffs.join("mailsteer")).into_iter().flatten().filter_map(Result::ok);
    let ours = format!("v{ABI}");
    entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| {
        name != ours && name.strip_prefix('v').is_some_and(|version| version.parse::<u32>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn error(kind: ErrorKind) -> MapError {
        MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error: kind.into() })
    }

    #[test]
    fn an_empty_stock_is_waited_for_and_nothing_else_is() {
        let mut tries = 0;
        let added = with_patience(|| {
            tries += 1;
            if tries < 3 { Err(error(ErrorKind::OutOfMemory)) } else { Ok(()) }
        });
        assert!(added.is_ok());
        assert_eq!(tries, 3);

        let mut tries = 0;
        let full = with_patience(|| -> Result<(), _> {
            tries += 1;
            Err(error(ErrorKind::ArgumentListTooLong))
        });
        assert!(full.is_err());
        assert_eq!(tries, 1);
    }

    #[test]
    fn memory_that_is_really_gone_is_said() {
        let mut tries = 0;
        let gone = with_patience(|| -> Result<(), _> {
            tries += 1;
            Err(error(ErrorKind::OutOfMemory))
        });
        assert!(gone.is_err_and(|error| is_out_of_memory(&error)));
        assert_eq!(tries, TRIES);
    }
}
