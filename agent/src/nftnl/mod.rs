//! nf_tables by netlink: what both the reading and the writing side need to speak to our table.
//!
//! Owns: the connection, the names of everything in the table, how elements are laid out, and dumps of what stands.
//! Must not: decide what should stand, and know neither `act` nor `observe`, which both build on it.

mod connection;
pub(crate) mod dump;
mod element;
mod names;
mod ours;
mod pairs;

pub use connection::{Connection, NetlinkError, Reply};
pub(crate) use connection::{NFGEN, NLMSG_DONE, NLMSG_ERROR, attributes, frames, string, u32_be};
pub use dump::{
    ChainInfo, Contents, Fingerprint, TableInfo, chains, contents, counters, fingerprint, lane_names, lookup,
    rule_count, sets, table,
};
pub(crate) use element::refusal;
pub use element::{
    Element, receiver, receiver_element, slot_element, slot_of, source_address, translation_elements,
};
pub use names::{Counter, PairSet, RejectCause, chain, map, timeout};
pub use ours::Ours;
pub use pairs::{Counted, Pair, pairs};
pub(crate) use pairs::{declared as declared_pairs, elements as pair_elements, nested};

/// Name of our table, of family inet.
pub const TABLE: &str = "mailsteer";
/// Flag of a table that only its owner's socket may change.
pub const FLAG_OWNER: u32 = 2;
/// Flag of a table that outlives its owner.
pub const FLAG_PERSIST: u32 = 4;
/// Flag of a table whose hooks are off.
pub const FLAG_DORMANT: u32 = 1;
