//! The ring buffer, as events: one for each connection attempt whose outcome is known.

use std::io;
use std::path::Path;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use mailsteer_ebpf::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ReadError;
use crate::bpf_maps::{self, pin_dir};

/// For how long events gather. The kernel wakes a reader only for a record that it finds next; while one waits, the
/// programs pay for none. To be woken for each took a connection 17 us on a virtual machine.
const GATHERING: Duration = Duration::from_millis(20);

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

    /// Waits for events, lets some gather, and returns all that are there. Safe to drop at any time: an event is taken only once it is
    /// about to be returned.
    ///
    /// # Errors
    /// Where the ring buffer cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            tokio::time::sleep(GATHERING).await;
            let mut events = Vec::new();
            let ring = ready.get_inner_mut();
            while let Some(record) = ring.next() {
                events.extend(event(&record));
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// A record; `None` where it has not the length of one.
pub(crate) fn event(record: &[u8]) -> Option<Event> {
    if record.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: as long as an `Event`, which is plain integers: every bit pattern is one, and it need not be aligned.
    Some(unsafe { std::ptr::read_unaligned(record.as_ptr().cast::<Event>()) })
}
