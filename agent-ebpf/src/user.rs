//! Leave for the user side to copy the shared types to and from the kernel as bytes.

use crate::{
    Asker, CgroupEntry, Conn, CounterKey, Counters, Event, FlowKey, Histogram, LaneEntry, Settings,
    SourceEntry, Told,
};

/// The compiled programs, as committed: see `prebuilt/TOOLCHAIN.toml` for what made them.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/prebuilt/mailsteer.bpf.o"));

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `#[repr(C)]`, integers and arrays of integers only, no padding: every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod!(
    Asker,
    CgroupEntry,
    Conn,
    CounterKey,
    Counters,
    Event,
    FlowKey,
    Histogram,
    LaneEntry,
    Settings,
    SourceEntry,
    Told,
);
