//! The maps, and the few lookups that several programs make.
//!
//! Names, types and sizes are checked against the pins by the user side: see its `bpf_maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage,
};
use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use mailsteer_ebpf::{
    Asker, CgroupEntry, Conn, CounterKey, Counters, FlowKey, LaneEntry, Mark, Settings, SourceEntry, Told,
    Writer,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub(crate) static SOURCES: Array<SourceEntry, 4096> = Array::new();
#[btf_map]
pub(crate) static LANES: Array<LaneEntry, 256> = Array::new();
#[btf_map]
pub(crate) static EXCLUDE: LpmTrie<[u8; 16], u32, 4096> = LpmTrie::new();
#[btf_map]
pub(crate) static UPLINKS: HashMap<u32, u32, 64> = HashMap::new();
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, u32, 256> = HashMap::new();
#[btf_map]
pub(crate) static CGROUP_PATHS: Array<CgroupEntry, 256> = Array::new();
#[btf_map]
pub(crate) static CONNS: HashMap<FlowKey, Conn, 262144, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<CounterKey, Counters, 16384, NO_PREALLOC> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static SWEPT: HashMap<CounterKey, Counters, 16384, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static HELD: PerCpuArray<u64, 5> = PerCpuArray::new();
#[btf_map]
pub(crate) static TOTALS: PerCpuArray<u64, 5> = PerCpuArray::new();
#[btf_map]
pub(crate) static TOLD: Array<Told, 256> = Array::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<(), 4194304> = RingBuf::new();
#[btf_map]
pub(crate) static ASKERS: SkStorage<Asker> = SkStorage::new();
/// Not pinned: what it says is of use to one agent only, and the next begins with an empty one. Who is pushed out of it is
/// told once more.
#[btf_map]
pub(crate) static WRITERS: LruHashMap<u32, Writer, 8192> = LruHashMap::new();

/// Whether a destination is excluded from steering.
#[inline(always)]
pub(crate) fn excluded(daddr: [u32; 4]) -> bool {
    // SAFETY: four words are sixteen bytes; the words hold network byte order already.
    let addr = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(daddr) };
    EXCLUDE.get(&Key::new(128, addr)).is_some()
}

/// How a mark fits the packet that bears it.
pub(crate) enum Fit {
    /// No mark of ours.
    Unmarked,
    /// Ours: seen and not steered.
    Stamp,
    /// Ours, and address and interface are its source's.
    Right,
    /// Ours, and the address is another.
    WrongAddress,
    /// Ours, and the interface is another.
    WrongUplink,
}

/// Compares a mark with the address and the interface that its packet leaves by.
#[inline(always)]
pub(crate) fn fit(mark: u32, saddr: [u32; 4], ifindex: u32) -> Fit {
    if mark & Mark::MAGIC_MASK != Mark::MAGIC {
        return Fit::Unmarked;
    }
    let id = mark & Mark::SOURCE_MASK;
    if id == 0 {
        return Fit::Stamp;
    }
    let Some(source) = SOURCES.get_ptr(id) else {
        return Fit::WrongAddress;
    };
    // SAFETY: the pointer was checked by the lookup; the entry is 16 address bytes at an offset aligned to four.
    let known = unsafe { *source.cast::<[u32; 4]>() };
    let differ =
        (known[0] ^ saddr[0]) | (known[1] ^ saddr[1]) | (known[2] ^ saddr[2]) | (known[3] ^ saddr[3]);
    if differ != 0 {
        return Fit::WrongAddress;
    }
    // SAFETY: as above.
    let wanted = unsafe { (*source).ifindex };
    if wanted != 0 && wanted != ifindex {
        return Fit::WrongUplink;
    }
    Fit::Right
}

/// The storage of a socket; null where it never asked for a steered port.
///
/// # Safety
/// `sk` must be a socket (or a context that stands for one) which the kernel gave this program.
#[inline(always)]
pub(crate) unsafe fn asker<T>(sk: *mut T) -> *mut Asker {
    // SAFETY: the caller's promise; the map's type is a socket storage.
    unsafe {
        bpf_sk_storage_get((&raw const ASKERS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0).cast()
    }
}
