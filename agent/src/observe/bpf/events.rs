//! The ring buffer, as records: what became of each connection attempt, and what receivers said.

use std::io;
use std::path::Path;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use mailsteer_ebpf::{Event, Said, Turned};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ReadError;
use crate::bpf_maps::{self, pin_dir};

/// For how long events gather. The kernel wakes a reader only for a record that it finds next; while one waits, the
/// programs pay for none. To be woken for each took a connection 17 us on a virtual machine.
const GATHERING: Duration = Duration::from_millis(20);

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// Something became of a connection attempt.
    Event(Event),
    /// A receiver said 4xx or 5xx.
    Said(Said),
    /// A process turned to a connection.
    Turned(Turned),
}

/// A reader of the ring buffer. There must be only one: a record is taken by who reads it first.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Opens the pinned ring buffer; must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where it is not there, or cannot be waited for.
    pub fn open(bpffs: &Path) -> Result<Self, ReadError> {
        let map = bpf_maps::open(&pin_dir(bpffs), "EVENTS")?;
        let access = |source| ReadError::Access { name: "EVENTS", source };
        let map = Map::from_map_data(map).map_err(access)?;
        let ring = RingBuf::try_from(map).map_err(access)?;
        // SAFETY: the ring buffer owns its descriptor, which stays open and the same as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| ReadError::Wait(error.into()))? })
    }

    /// Waits for records, lets some gather, and returns all that are there. Safe to drop at any time: one is taken only
    /// once it is about to be returned.
    ///
    /// # Errors
    /// Where the ring buffer cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Vec<Record>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            tokio::time::sleep(GATHERING).await;
            let records = all(ready.get_inner_mut());
            ready.clear_ready();
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }
}

impl Events {
    /// All that are there now, at once.
    pub fn take(&mut self) -> Vec<Record> {
        all(self.ring.get_mut())
    }
}

fn all(ring: &mut RingBuf<MapData>) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(bytes) = ring.next() {
        records.extend(record(&bytes));
    }
    records
}

/// A record, told apart by its length; `None` where it has that of none.
pub(crate) fn record(bytes: &[u8]) -> Option<Record> {
    const {
        assert!(size_of::<Event>() != size_of::<Said>());
        assert!(size_of::<Turned>() != size_of::<Said>() && size_of::<Turned>() != size_of::<Event>());
    };
    if bytes.len() == size_of::<Event>() {
        // SAFETY: as long as an `Event`, which is plain integers: every bit pattern is one, and it need not be aligned.
        return Some(Record::Event(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Event>()) }));
    }
    if bytes.len() == size_of::<Said>() {
        // SAFETY: likewise.
        return Some(Record::Said(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Said>()) }));
    }
    if bytes.len() == size_of::<Turned>() {
        // SAFETY: likewise.
        return Some(Record::Turned(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Turned>()) }));
    }
    None
}
