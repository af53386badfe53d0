//! Whole maps in a few system calls.
//!
//! Owns: the kernel's `BPF_MAP_LOOKUP_BATCH` (since 5.6), which aya does not offer. Must not: know what a map holds. One
//! entry at a time is two system calls for each: on a host that idles with thousands of sources that was most of what the
//! agent cost.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use aya::Pod;
use aya::maps::MapData;

/// The command's number in `enum bpf_cmd` (include/uapi/linux/bpf.h).
const LOOKUP_BATCH: libc::c_long = 24;
/// Entries of one call. The kernel needs room for the fullest bucket of a hash; it makes as many buckets as entries fit,
/// so that one of more than some ten is not met.
const AT_ONCE: usize = 512;

/// `struct { ... } batch` of the kernel's `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// Each entry of a map, with one value, or for a map with a value for each CPU so many.
///
/// # Errors
/// Where the kernel refuses, as for a kind of map that has no batches.
pub(super) fn entries<K: Pod, V: Pod>(
    map: &MapData,
    cpus: usize,
    mut take: impl FnMut(K, &[V]),
) -> io::Result<()> {
    // The kernel rounds the value of a CPU up to eight bytes; the place to go on from is four, or as long as the key.
    const { assert!(size_of::<V>().is_multiple_of(8) && size_of::<K>() <= size_of::<[u64; 8]>()) };
    let (mut keys, mut values) = (vec![zeroed::<K>(); AT_ONCE], vec![zeroed::<V>(); AT_ONCE * cpus]);
    let (mut from, mut next) = (None::<[u64; 8]>, [0u64; 8]);
    loop {
        let mut attr = Attr {
            in_batch: from.as_ref().map_or(0, address),
            out_batch: address_mut(&mut next),
            keys: address_mut(keys.as_mut_slice()),
            values: address_mut(values.as_mut_slice()),
            count: AT_ONCE as u32,
            map: map.fd().as_fd().as_raw_fd().unsigned_abs(),
            ..Attr::default()
        };
        // SAFETY: `attr` is the kernel's struct for this command and its size is given; what it points to outlives the
        // call and has room for `count` entries, whose sizes the pinned map's shape was checked for.
        let code = unsafe {
            libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, std::ptr::from_mut(&mut attr), size_of::<Attr>())
        };
        let last = match code {
            0 => false,
            _ => match io::Error::last_os_error() {
                // There is no entry after those.
                error if error.raw_os_error() == Some(libc::ENOENT) => true,
                error => return Err(error),
            },
        };
        let read = (attr.count as usize).min(AT_ONCE);
        keys.iter().zip(values.chunks(cpus)).take(read).for_each(|(key, values)| take(*key, values));
        if last {
            return Ok(());
        }
        from = Some(next);
    }
}

fn zeroed<T: Pod>() -> T {
    // SAFETY: any bytes are a value of a `Pod`.
    unsafe { std::mem::zeroed() }
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<()>().expose_provenance() as u64
}

fn address_mut<T: ?Sized>(of: &mut T) -> u64 {
    std::ptr::from_mut(of).cast::<()>().expose_provenance() as u64
}
