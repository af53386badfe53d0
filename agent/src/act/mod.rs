//! Effects out: one interpreter of the plan's actions, each verified by reading back.
//!
//! Owns: every change to the kernel, and telling others of events. Must not: decide anything, or import `observe`.

pub mod bpf;
mod executor;
mod guard;
pub mod hook;
pub mod live;
pub mod net;
pub mod nft;
mod sysctls;

pub use executor::{ActError, Carried, Executor, Teardown, Written, teardown};
pub use guard::Told;
