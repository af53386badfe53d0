//! Effects in: what the kernel says of links, addresses, routes, connections and our own rules.
//!
//! Owns: reading. Must not: change anything, or import `act`.

pub mod bpf;
pub mod countries;
pub mod dns;
pub mod doctor;
pub mod feed;
pub mod init;
pub mod log;
mod looker;
pub mod net;
pub mod nft;
pub mod port25;
pub mod probe;

pub use looker::{Look, LookError, Looker};
