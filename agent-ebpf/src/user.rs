//! Leave for the user side to copy the shared types to and from the kernel as bytes.

use crate::{
    Asker, CgroupEntry, Conn, CounterKey, Counters, Event, FlowKey, LaneEntry, Said, Settings, SourceEntry,
    Told, Turned,
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
    LaneEntry,
    Said,
    Settings,
    SourceEntry,
    Told,
    Turned,
);

impl Counters {
    /// Adds another's counts to these.
    pub fn add(&mut self, more: &Self) {
        self.attempts += more.attempts;
        self.established += more.established;
        self.refused += more.refused;
        self.unreachable += more.unreachable;
        self.reset += more.reset;
        self.unanswered += more.unanswered;
        self.closed += more.closed;
        self.bytes_out += more.bytes_out;
        self.bytes_in += more.bytes_in;
        self.wrong += more.wrong;
        self.retransmits += more.retransmits;
    }
}

impl CounterKey {
    /// Which counters a mark's connections go to: those of lane 0 without a mark of ours.
    #[must_use]
    pub fn of_mark(mark: u32) -> Self {
        let mark = crate::Mark::unpack(mark);
        Self { lane: mark.map_or(0, |mark| mark.lane.into()), source: mark.map_or(0, |mark| mark.source) }
    }
}
