//! What would happen to one connection, why, and what did happen to one that was tried.
//!
//! Owns: the shape of both. Must not: decide it.

use std::net::IpAddr;

use mailsteer_core::config::Tier;
use mailsteer_core::decide::Who;
use mailsteer_core::model::Family;
use serde::{Deserialize, Serialize};

use super::ConnectionRow;

/// Where a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What should happen to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It leaves as it would without mailsteer.
    #[default]
    Alone,
    /// It leaves from a source of the pool.
    Steered,
    /// It is refused at once, by decision.
    Refused,
    /// Its SYN is dropped until there is a source.
    Held,
}

/// What happens to one connection, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Whose.
    pub who: Who,
    /// Where to.
    pub destination: Destination,
    /// Why no stream is even asked (port not steered, destination excluded); `None`: they are.
    pub not_steered: Option<String>,
    /// Every stream asked, in order, up to and including the one that matched.
    pub streams: Vec<StreamStep>,
    /// Whose receiver the destination is; `None` where nothing is steered.
    pub provider: Option<String>,
    /// By what that is known: a network, or the name that leads there.
    pub provider_by: Option<String>,
    /// The pool of the stream that matched.
    pub pool: Option<String>,
    /// The family that the destination needs.
    pub family: Family,
    /// Each source of the pool in that family, and why it is taken or not.
    pub sources: Vec<SourceStep>,
    /// What happens, in a sentence.
    pub result: String,
    /// Facts of the host were not asked: a file was explained away from a running agent.
    pub assumed: Vec<String>,
    /// The stream that matched.
    pub stream: Option<String>,
    /// What happens to the share of it that is steered.
    pub fate: Fate,
    /// That share, in thousandths; 0 where it is left alone.
    pub share: u32,
}

/// A stream that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamStep {
    /// The stream.
    pub stream: String,
    /// It matched.
    pub matched: bool,
    /// Why, or why not.
    pub why: String,
}

/// A source of the pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SourceStep {
    /// The source.
    pub source: String,
    /// The address on the wire.
    pub address: IpAddr,
    /// Its tier.
    pub tier: Tier,
    /// Its share of the connections, 0 to 1; 0: none.
    pub share: f64,
    /// Why it has none; empty where it has some.
    pub why: String,
}

/// A real connection made in a stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TryResult {
    /// The stream asked for.
    pub stream: String,
    /// What the connecting process saw.
    pub probe: Probe,
    /// What the agent would do with it, and why.
    pub explanation: Explanation,
    /// What the agent saw of it; `None`: no event came in time.
    pub connection: Option<ConnectionRow>,
    /// What became of it is what the explanation says: it left from a source that it names, or was refused, held or
    /// left alone where that was to be.
    pub as_wanted: bool,
    /// In a sentence.
    pub result: String,
}

/// What the connecting process saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Where to.
    pub destination: Destination,
    /// The socket's own address, before translation.
    pub local: Option<std::net::SocketAddr>,
    /// Socket cookie.
    pub cookie: u64,
    /// From `connect()` to its return, in milliseconds.
    pub connect_ms: f64,
    /// The receiver's first line.
    pub banner: Option<String>,
    /// Why there was no connection or no banner.
    pub error: Option<String>,
}
