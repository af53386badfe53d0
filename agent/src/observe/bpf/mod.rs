//! What the eBPF programs counted and told.
//!
//! Owns: reading counters, events and live connections, and the sweep of connections whose end no program saw.
//! Must not: load, attach or tell the programs anything, that is `act`'s. The only maps it writes are `SWEPT`, which
//! is its own, and `CONNS`, from which the sweep takes what has ended.

mod batch;
mod events;
mod reader;
mod sweep;

pub(crate) use events::record;
pub use events::{Events, Record};
pub use reader::{Origins, ReadError, Reader};
pub use sweep::Moment;
