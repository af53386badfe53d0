//! Counting: exact, also when a softirq interrupts a program on the same CPU.

// Rust offers no read-modify-write on atomics for this target, although the instructions exist (kernel 5.12).
use core::intrinsics::{AtomicOrdering, atomic_or, atomic_xadd};

use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use mailsteer_ebpf::{Conn, CounterKey, Counters, Event, FlowKey, Mark, Outcome, Said, Total, Turned};

use super::maps::{COUNTERS, EVENTS, TOTALS};

/// Nanoseconds of CLOCK_BOOTTIME.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Nanoseconds of CLOCK_MONOTONIC at the kernel's last tick.
#[inline(always)]
pub(crate) fn tick() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Adds to a counter in a map.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, n: u64) {
    // SAFETY: points into a map value, which is aligned to eight and lives as long as the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n) };
}

/// Sets bits of a connection and says which stood before.
#[inline(always)]
pub(crate) fn set_flags(conn: *mut Conn, bits: u32) -> u32 {
    // SAFETY: points into a map value, aligned to four.
    unsafe { atomic_or::<u32, u32, { AtomicOrdering::AcqRel }>(&raw mut (*conn).flags, bits) }
}

/// Adds to a total.
#[inline(always)]
pub(crate) fn total(which: Total) {
    if let Some(counter) = TOTALS.get_ptr_mut(which as u32) {
        add(counter, 1);
    }
}

/// Which counters a mark's connections go to: those of its lane and source, or of lane 0 without a mark of ours.
#[inline(always)]
fn key(mark: u32) -> CounterKey {
    match Mark::unpack(mark) {
        Some(mark) => CounterKey { lane: mark.lane as u16, source: mark.source },
        None => CounterKey { lane: 0, source: 0 },
    }
}

/// The counters of a mark, made if they are missing; null where the map is full.
#[inline(always)]
pub(crate) fn counters(mark: u32) -> Option<*mut Counters> {
    let key = key(mark);
    if let Some(found) = COUNTERS.get_ptr_mut(&key) {
        return Some(found);
    }
    // Another CPU may have been first: then its entry stands, and the lookup finds it.
    let _ = COUNTERS.insert(&key, Counters::default(), u64::from(aya_ebpf::bindings::BPF_NOEXIST));
    let found = COUNTERS.get_ptr_mut(&key);
    if found.is_none() {
        total(Total::Uncounted);
    }
    found
}

/// Counts the end of a connection, with the bytes that it moved.
#[inline(always)]
pub(crate) fn ended(conn: *mut Conn) -> Option<*mut Counters> {
    // SAFETY: a live map value.
    let (mark, out, into) = unsafe { ((*conn).mark, (*conn).bytes_out, (*conn).bytes_in) };
    let counters = counters(mark)?;
    // SAFETY: the lookup gave a live map value.
    let (closed, bytes_out, bytes_in) = unsafe {
        (&raw mut (*counters).closed, &raw mut (*counters).bytes_out, &raw mut (*counters).bytes_in)
    };
    add(closed, 1);
    add(bytes_out, out);
    add(bytes_in, into);
    Some(counters)
}

/// Adds one to a field of counters, if there are any.
macro_rules! also {
    ($counters:expr, $field:ident) => {
        if let Some(counters) = $counters {
            // SAFETY: a live map value.
            $crate::programs::count::add(unsafe { &raw mut (*counters).$field }, 1);
        }
    };
}
pub(crate) use also;

/// Adds one to a field of a mark's counters.
macro_rules! bump {
    ($mark:expr, $($field:ident),+) => {
        if let Some(counters) = $crate::programs::count::counters($mark) {
            $(
                // SAFETY: the lookup gave a live map value.
                $crate::programs::count::add(unsafe { &raw mut (*counters).$field }, 1);
            )+
        }
    };
}
pub(crate) use bump;

/// Tells what became of a connection whose SYN left.
#[inline(always)]
pub(crate) fn tell(key: &FlowKey, conn: &Conn, outcome: Outcome) {
    tell_event(&Event {
        started: conn.started,
        decided: now(),
        cookie: conn.cookie,
        cgroup: conn.cgroup,
        daddr: bytes(key.daddr),
        saddr: bytes(key.saddr),
        pid: conn.pid,
        uid: conn.uid,
        mark: conn.mark,
        sport: key.sport,
        local_port: conn.local_port,
        dport: key.dport,
        outcome: outcome as u8,
        retransmits: if conn.retransmits > 255 { 255 } else { conn.retransmits as u8 },
        gid: conn.gid,
    });
}

/// Puts one event into the ring buffer, or counts it lost.
#[inline(always)]
pub(crate) fn tell_event(event: &Event) {
    if EVENTS.output_untyped::<Event>(event, 0).is_err() {
        total(Total::EventsLost);
    }
}

/// Puts what a receiver said into the ring buffer, or counts it lost.
#[inline(always)]
pub(crate) fn tell_said(said: &Said) {
    if EVENTS.output_untyped::<Said>(said, 0).is_err() {
        total(Total::EventsLost);
    }
}

/// Puts into the ring buffer that a process turned to a connection, or counts it lost.
#[inline(always)]
pub(crate) fn tell_turned(turned: &Turned) -> bool {
    let told = EVENTS.output_untyped::<Turned>(turned, 0).is_ok();
    if !told {
        total(Total::EventsLost);
    }
    told
}

/// The bytes of an address held in words of network byte order.
#[inline(always)]
pub(crate) fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: four words are sixteen bytes.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}
