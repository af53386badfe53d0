//! Foreign text and JSON, read tolerantly: what has another shape than expected is passed over, never an error.
//!
//! Owns: the formats. Must not: read files or judge what they say.

mod iptables;
mod nft;
mod system;

pub use iptables::iptables;
pub use nft::nftables;
pub(super) use system::kernel_version;
pub use system::{
    accounts, capabilities, has_conntrack_timeouts, lockdown, mounts, nft_version, orders, setting,
};
