//! What MTAs write down of deliveries.
//!
//! Owns: one reader for each MTA, from a line to a [`Delivery`]. Must not: read files, judge a reply, or know which connection it
//! was. What an MTA says in its own words ("connection refused", "lost connection") is no reply of a receiver.
//!
//! **Hostile lines.** A recipient's address and a receiver's reply are written by strangers, and may hold anything, a field of
//! the log line for one. A line is read by its MTA's own grammar, and where a stranger's text could be taken for a field of
//! the line, the line is [`Line::Ambiguous`]: counted, and of no meaning.

mod counted;
mod exim;
mod opensmtpd;
mod postfix;
mod sendmail;
mod sessions;
mod syslog;

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::follow::Entry;

pub use counted::{LogCounts, RECIPIENTS};
pub use sessions::Sessions;

/// Longer lines are not read: Postfix cuts what it logs at 2,000 bytes or so, and syslog at 8,192.
const LONGEST: usize = 16_384;

/// Whose log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mta {
    /// Postfix: `smtp` of any instance, by syslog or maillog_file.
    Postfix,
    /// Exim's main log.
    Exim,
    /// OpenSMTPD.
    OpenSmtpd,
    /// sendmail.
    Sendmail,
}

impl Mta {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Postfix, Self::Exim, Self::OpenSmtpd, Self::Sendmail];

    /// The word for it in config and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Exim => "exim",
            Self::OpenSmtpd => "opensmtpd",
            Self::Sendmail => "sendmail",
        }
    }
}

/// One delivery that reached a receiver, and what the receiver said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// When the line was written; `None` where it does not say.
    pub at: Option<Timestamp>,
    /// The process that had the connection, where the line says it.
    pub pid: Option<u32>,
    /// That process may not be the one that opened it: it was used before.
    pub handed: bool,
    /// The MTA's name for the connection, where several lines tell of it.
    pub session: Option<String>,
    /// When the MTA wrote down that it would connect; [`Sessions`] knows.
    pub connecting: Option<Timestamp>,
    /// The connection's port on this host, where the line says it.
    pub local_port: Option<u16>,
    /// The receiver.
    pub destination: IpAddr,
    /// The name of its mail server by which the MTA called it, as the MX record has it; `None` where the line does not say, or has
    /// a name that the receiver could have chosen.
    pub host: Option<String>,
    /// What it said: code and text.
    pub reply: String,
    /// To how many recipients.
    pub recipients: u32,
}

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A delivery, or an attempt at one, with the receiver's reply.
    Delivery(Delivery),
    /// An attempt of which no receiver said anything.
    NoReply,
    /// A delivery whose fields could be a stranger's.
    Ambiguous,
    /// An MTA is about to connect.
    Connecting {
        /// Its name for the connection.
        session: String,
        /// When the line was written.
        at: Option<Timestamp>,
    },
    /// A connection is over.
    Over {
        /// Its name.
        session: String,
    },
    /// Something else.
    Other,
}

/// Reads a line. `zone` and `now` complete a time that has no zone or no year.
#[must_use]
pub fn read(mta: Mta, line: &[u8], zone: &TimeZone, now: Timestamp) -> Line {
    let line = line.trim_ascii_end();
    if line.len() > LONGEST {
        return Line::Other;
    }
    // Most lines are no deliveries, and are told by a few bytes.
    if !may_be(mta, line) {
        return Line::Other;
    }
    let text = String::from_utf8_lossy(line);
    let clock = Clock { zone, now };
    match mta {
        Mta::Postfix => postfix::read(&text, &clock),
        Mta::Exim => exim::read(&text, &clock),
        Mta::OpenSmtpd => opensmtpd::read(&text, &clock),
        Mta::Sendmail => sendmail::read(&text, &clock),
    }
    .unwrap_or(Line::Other)
}

/// Reads what journald has of a line: its head is in fields of the entry.
#[must_use]
pub fn read_entry(mta: Mta, entry: &Entry, zone: &TimeZone, now: Timestamp) -> Line {
    let Some(message) = &entry.message else { return Line::Other };
    let program = entry.program.as_deref().unwrap_or_default();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
    if mta == Mta::Exim || program.is_empty() || !program.bytes().all(is_name) {
        return read(mta, message, zone, now).told_at(entry.at);
    }
    let at = entry.at.unwrap_or(now);
    let pid = entry.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
    let mut line = format!("{at} journal {program}{pid}: ").into_bytes();
    line.extend_from_slice(message);
    read(mta, &line, zone, now)
}

impl Line {
    /// As somebody else wrote down when it was: a line has whole seconds at times, of a zone that it does not say.
    #[must_use]
    pub fn told_at(mut self, told: Option<Timestamp>) -> Self {
        if let (Self::Delivery(Delivery { at, .. }) | Self::Connecting { at, .. }, Some(told)) =
            (&mut self, told)
        {
            *at = Some(told);
        }
        self
    }

    /// As a container's: its processes have numbers there that are others' here.
    #[must_use]
    pub fn in_container(mut self) -> Self {
        if let Self::Delivery(one) = &mut self {
            one.pid = None;
        }
        self
    }
}

fn may_be(mta: Mta, line: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(line, needle).is_some();
    match mta {
        Mta::Postfix => has(b", status="),
        Mta::Exim => has(b" H="),
        Mta::OpenSmtpd => has(b" mta "),
        Mta::Sendmail => has(b", stat="),
    }
}

/// By which times are completed.
struct Clock<'z> {
    zone: &'z TimeZone,
    now: Timestamp,
}

/// Whether this is what an MTA names a message or a session by: else a stranger's text stands before what follows.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The part between two marks, and what follows; none where a mark is missing.
fn between<'t>(text: &'t str, from: &str, to: &str) -> Option<(&'t str, &'t str)> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to)
}

/// `[ADDRESS]` and what follows it.
fn bracketed(text: &str) -> Option<(IpAddr, &str)> {
    let (inside, rest) = between(text, "[", "]")?;
    // Exim and sendmail write IPv6:... at times.
    let inside = inside.strip_prefix("IPv6:").unwrap_or(inside);
    Some((inside.parse().ok()?, rest))
}

/// The name before `[ADDRESS]`, which the MTA took out of the MX record. One that is none is left out.
fn next_hop(text: &str) -> Option<String> {
    let (name, _) = text.split_once('[')?;
    let name = name.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    crate::config::is_full_host_name(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
