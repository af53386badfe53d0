//! The config: what the operator writes, checked as a whole, and what it means.
//!
//! Owns: the TOML format, every check with its message, and [`Config`], which only holds what passed. Must not:
//! read files or ask the host: what the checks need of it comes in as [`HostView`].

mod check;
pub(crate) mod dated;
mod load;
pub(crate) mod problem;
mod raw;
pub(crate) mod read;
mod schema;
mod settings;

pub(crate) use check::{Kind, address_network, is_full_host_name, is_interface, kind, provider_name};
pub use load::{Checked, CountriesAsked, countries_asked, load};
pub(crate) use load::{document, finish};
pub use problem::{CODES, Label, Problem, Severity};
pub use schema::{reference, schema};
pub use settings::{
    Balance, Config, ControlAccess, CountryNetworks, DnsSettings, Domain, Ebpf, Feed, FeedKind, Fuse, Hook,
    HookWay, HostView, Ipv6, Learning, ListSettings, Log, LogPlace, Mode, OTHER, OnExhausted, OnFlip,
    OnRelapse, OwnTable, Plumbing, Pool, PoolSource, Preflight, Provider, Retention, Safety, Stream, Tier,
    Uplink,
};
