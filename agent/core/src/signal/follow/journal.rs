//! journald's entries as `journalctl -o json` writes them.
//!
//! Owns: the fields that are read of one (systemd.journal-fields(7), and <https://systemd.io/JOURNAL_EXPORT_FORMATS/> for what
//! becomes of bytes that are no text). Must not: read the message.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// An entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The journal's own word for its place.
    pub cursor: String,
    /// When journald took it.
    pub at: Option<Timestamp>,
    /// Who says so.
    pub program: Option<String>,
    /// The process, as the kernel told journald.
    pub pid: Option<u32>,
    /// What is said; `None` where it is nothing, or too long for journalctl to show.
    pub message: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    realtime: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

/// Reads an entry; `None` where it is none.
#[must_use]
pub fn entry(line: &[u8]) -> Option<Entry> {
    let Written { cursor, realtime, identifier, pid, message } = serde_json::from_slice(line).ok()?;
    let micros = realtime.as_str().and_then(|text| text.parse().ok());
    Some(Entry {
        cursor,
        at: micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        program: identifier.as_str().map(str::to_owned),
        pid: pid.as_str().and_then(|text| text.parse().ok()),
        message: bytes(message),
    })
}

/// A text, or an array of bytes where it is none, or null where it is too long.
fn bytes(message: Value) -> Option<Vec<u8>> {
    match message {
        Value::String(text) => Some(text.into_bytes()),
        Value::Array(all) => {
            all.iter().map(|one| one.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
        }
        _ => None,
    }
}
