//! What the tables of lists, logs, feeds, names and DNS mean, once they have passed the checks.
//!
//! Owns: plain data. Must not: ask anybody, as its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::SignedDuration;

use crate::signal::dns::Check;
use crate::signal::feeds::JsonRule;
use crate::signal::lists::{List, Pace};
use crate::signal::log::Mta;
use crate::signal::providers::Wanted;

/// How addresses of providers are found by the names of mail servers.
#[derive(Clone, PartialEq, Debug)]
pub struct Learning {
    /// Who is asked.
    pub resolver: SocketAddr,
    /// Whose which name is, and what is looked up how often.
    pub wanted: Wanted,
}

/// The networks of countries, by two letters.
pub type CountryNetworks = BTreeMap<String, Vec<IpNet>>;

/// When a stream's mail from a source is stopped, because too much of it comes back. Shares in millionths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fuse {
    /// Permanent failures that are not about the address.
    pub bounces: u32,
    /// Replies that refuse the address.
    pub blocks: u32,
    /// Complaints.
    pub complaints: u32,
    /// Attempts below which nothing is done.
    pub attempts: u64,
    /// How far back is looked.
    pub window: SignedDuration,
}

impl Default for Fuse {
    fn default() -> Self {
        // 5 % is the mission's; 0.3 % is where Gmail's and Yahoo's rules for bulk senders end (2024-02); blocks as Momentum's
        // sweep suspends (10 % an hour).
        let window = SignedDuration::from_hours(24);
        Self { bounces: 50_000, blocks: 100_000, complaints: 3_000, attempts: 200, window }
    }
}

/// Which DNS lists are asked, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct ListSettings {
    /// Who is asked.
    pub resolver: SocketAddr,
    /// The lists, keys not yet in place.
    pub lists: Vec<List>,
    /// How often.
    pub pace: Pace,
    /// Where the key of a list is.
    pub keys: BTreeMap<String, String>,
}

/// Whom a new source is tried with at port 25, before mail depends on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preflight {
    /// Addresses and host names, each once.
    pub receivers: Vec<String>,
}

/// How DNS compliance is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsSettings {
    /// Who is asked.
    pub resolver: SocketAddr,
    /// From one run to the next.
    pub interval: SignedDuration,
    /// Checks without which a source does not serve.
    pub require: BTreeSet<Check>,
    /// Domains that mail is sent from.
    pub domains: Vec<Domain>,
}

/// A domain that mail is sent from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The domain of its envelopes.
    pub envelope: String,
    /// Where its DKIM keys are.
    pub keys: Vec<String>,
    /// The pools that it leaves from; empty: every one.
    pub pools: Vec<String>,
}

/// Who is told of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Kinds of events; `None`: those that tell of trouble.
    pub events: Option<BTreeSet<String>>,
    /// By what way.
    pub way: HookWay,
    /// How long a delivery may take.
    pub timeout: SignedDuration,
    /// How long nothing more is told of one kind about one subject.
    pub repeat: SignedDuration,
}

/// The way to a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HookWay {
    /// Posted to a URL.
    Url {
        /// http or https.
        url: String,
        /// A header, and the file or credential that holds what it says.
        secret: Option<(String, String)>,
        /// Certificates to trust in place of the host's.
        ca: Option<String>,
    },
    /// A program by its absolute path, and its arguments.
    Command(Vec<String>),
}

/// What is published of the pools' addresses.
#[derive(Clone, PartialEq, Debug)]
pub struct Feed {
    /// Its name.
    pub name: String,
    /// What it is, and where.
    pub kind: FeedKind,
    /// The file or credential that holds the key, and the header that bears it; none: it stands in the URL.
    pub key: Option<(String, Option<String>)>,
    /// Certificates to trust in place of the host's.
    pub ca: Option<String>,
    /// Whose opinion it is; `None`: everybody's.
    pub provider: Option<String>,
    /// From one look to the next.
    pub interval: SignedDuration,
    /// How long a bad word counts.
    pub max_age: SignedDuration,
    /// How long an answer may take.
    pub timeout: SignedDuration,
}

/// What a feed is. URLs with places for the key and for an address.
#[derive(Clone, PartialEq, Debug)]
pub enum FeedKind {
    /// Microsoft's tables.
    Snds {
        /// Of days.
        data: String,
        /// Of blocks.
        status: Option<String>,
    },
    /// A JSON for each address.
    Json {
        /// Where.
        url: String,
        /// What is looked for in it.
        rule: JsonRule,
    },
}

/// A log of an MTA that is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub mta: Mta,
    /// Where it is.
    pub place: LogPlace,
}

/// Where a log is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogPlace {
    /// A file of lines.
    File(String),
    /// Entries of the journal that have this field and value.
    Journal(String),
    /// Docker's `json-file` of a container.
    ContainerFile(String),
    /// A container's output in the journal, by the container's name.
    ContainerJournal(String),
}

impl LogPlace {
    /// Whether process numbers in it are those of another namespace.
    #[must_use]
    pub const fn is_container(&self) -> bool {
        matches!(self, Self::ContainerFile(_) | Self::ContainerJournal(_))
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::ContainerFile(path) => f.write_str(path),
            Self::Journal(matched) => write!(f, "the journal ({matched})"),
            Self::ContainerJournal(name) => write!(f, "the journal (container {name})"),
        }
    }
}
