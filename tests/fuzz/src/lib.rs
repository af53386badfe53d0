//! Hostile and broken input for every parser of foreign bytes and text: one function a target, which holds for
//! anything at all.
//!
//! Owns: how bytes become input, and what must hold of it. Must not: know how inputs are found; `cargo xtask fuzz`
//! lets libFuzzer look for them, and `tests/seeds.rs` runs once through all that are kept in `seeds`.

mod config;
mod dnsrecords;
mod doctor;
mod feeds;
mod follow;
mod init;
mod packet;
mod receivers;
mod replies;
mod state;

/// The kernel's side of `agent-ebpf`, as `packet` stands in for it: the parser is compiled here from its own file, and
/// that names `aya_ebpf`.
extern crate self as aya_ebpf;
pub use packet::{bindings, helpers};

/// What is run on an input; it panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target.
const TARGETS: &[(&str, Target)] = &[
    ("config", config::run),
    ("conntrack", mailsteer::fuzzing::conntrack),
    ("countries", receivers::countries),
    ("dnsrecords", dnsrecords::run),
    ("doctor", doctor::run),
    ("feeds", feeds::run),
    ("follow", follow::run),
    ("init", init::run),
    ("logs", replies::logs),
    ("nf_tables", mailsteer::fuzzing::nf_tables),
    ("packet", packet::run),
    ("receivers", receivers::run),
    ("replies", replies::run),
    ("rpc", rpc),
    ("rtnetlink", mailsteer::fuzzing::rtnetlink),
    ("state", state::run),
    ("words", words),
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// The names of all targets.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TARGETS.iter().map(|(name, _)| *name).collect()
}

/// gRPC: the first byte says which message, the others are it.
fn rpc(data: &[u8]) {
    if let Some((which, message)) = data.split_first() {
        mailsteer::api::fuzzing::message(*which, message);
    }
}

/// Words of the command line, names of users and groups, records and names beside the pins.
fn words(data: &[u8]) {
    mailsteer::fuzzing::bpf(data);
    mailsteer::cli::fuzzing::names(data);
    if let Ok(text) = std::str::from_utf8(data) {
        mailsteer::cli::fuzzing::word(text);
    }
}
