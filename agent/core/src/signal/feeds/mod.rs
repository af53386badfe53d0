//! Feeds: what receivers and others publish of an address, hours to days late.
//!
//! Owns: the parsers (Microsoft's SNDS, and numbers out of any JSON), and what a feed that cannot be read is said to be. Must not:
//! fetch anything, or decide what follows.
//!
//! **Late.** SNDS tells of yesterday, or of the day before (mail-facts 3.5). What was so then is no reason to move traffic now:
//! a source that is healthy loses nothing for it. But who was isolated, for whatever reason, and of whom a feed still says that
//! nine tenths were spam, has no business to come back at once: so a bad reading gates the return, for some days at most.

mod csv;
mod json;
mod snds;
mod standing;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use json::JsonRule;
pub use snds::{Status, data, readings, statuses};
pub use standing::Standing;

/// What is thought of an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opinion {
    /// Nothing against it.
    Good,
    /// Neither.
    Middling,
    /// It gates the return.
    Bad,
}

/// What a feed said of an address last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// The public address.
    pub address: IpAddr,
    /// Of which time it tells.
    pub at: Timestamp,
    /// In one word.
    pub opinion: Opinion,
    /// In its own words.
    pub words: String,
}

/// Why what came is no reading of anything.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedError {
    /// Not the format: another page, most often one that says that the key is wrong.
    #[error("line {line} is not what the feed should have: {what}")]
    Format {
        /// From 1.
        line: usize,
        /// What is wrong; the text itself is not shown, for it may repeat the key.
        what: &'static str,
    },
    /// No JSON.
    #[error("no JSON")]
    NoJson,
    /// Nothing there.
    #[error("nothing at {pointer}")]
    Nothing {
        /// Where it was looked for.
        pointer: String,
    },
    /// Something else there.
    #[error("no number at {pointer}")]
    NoNumber {
        /// Where it was looked for.
        pointer: String,
    },
}

/// What a feed tells the loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedEvent {
    /// It was read. Of an address that is in none of these it says nothing, and what it said last stands.
    Read {
        /// The feed.
        feed: String,
        /// Of each address at most one.
        readings: Vec<Reading>,
    },
    /// It cannot be read, and not for the first time.
    Failed {
        /// The feed.
        feed: String,
        /// Why.
        why: String,
    },
    /// It can again.
    Back {
        /// The feed.
        feed: String,
    },
}

/// A feed's words, as they may be shown.
fn shown(text: &str) -> String {
    const SHOWN: usize = 200;
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect::<String>().trim().to_owned()
}
