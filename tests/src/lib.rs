//! A small internet in network namespaces, for tests that ask the real kernel and a real MTA.
//!
//! Owns: the lab (namespaces, links, addresses), its servers (receivers, DNS), its instruments (wire capture,
//! load), the MTA and the agent under test, and the proof that nothing stays behind. Must not: touch the
//! machine's own network. Everything lives in namespaces that are held by open files alone, so that even a test
//! that is killed leaves no namespace and no link.

pub mod agent;
pub mod alertmanager;
pub mod capture;
pub mod cgroup;
pub mod confine;
pub mod connect;
pub mod debian;
pub mod demo;
pub mod dns;
pub mod docker;
pub mod earlier;
pub mod endurance;
pub mod exec;
pub mod failover;
pub mod host_state;
pub mod lab;
pub mod listserver;
pub mod load;
pub mod mmdb;
pub mod mta;
pub mod netns;
pub mod ordeal;
mod packages;
pub mod pinned;
pub mod poll;

pub mod postfix;
pub mod probe;
pub mod prometheus;
pub mod receiver;
pub mod recipes;
pub mod residue;
pub mod scale;
pub mod scene;
pub mod slots;
pub mod strangers;
pub mod tcx;
pub mod time;
pub mod topology;
pub mod tunnel;
pub mod unit;
pub mod webserver;

pub use agent::Agent;
pub use capture::Capture;
pub use lab::Lab;
pub use netns::NetNs;

pub use postfix::Postfix;
pub use receiver::Receiver;
pub use scene::Scene;
pub use topology::Options;
