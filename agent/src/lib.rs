//! The agent and its command line.
//!
//! One way: `observe` -> decide (in the core) -> plan (in the core) -> `act` -> verify -> `observe`. Effects stay in
//! `observe` (in) and `act` (out), which never import each other; `daemon` alone wires them. What both need to speak
//! to the kernel, or to servers by HTTP, is in neutral modules beside them.

pub mod act;
pub mod api;
pub mod bpf_maps;
pub mod cli;
pub mod conntrack;
pub mod daemon;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod netlink;
pub mod nftnl;
pub mod observe;
pub mod secret;
pub mod sockdiag;
pub mod state;
pub mod telemetry;
