//! Docker's `json-file`: each line in an envelope of JSON.
//!
//! Owns: that envelope (<https://docs.docker.com/engine/logging/drivers/json-file/>). Must not: read the line.

use std::borrow::Cow;

use serde::Deserialize;

/// What an envelope holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope<'e> {
    /// The line, with its end; without one it goes on in the next envelope of its stream.
    pub log: Cow<'e, str>,
    /// 1: the container's standard output, 2: its standard error.
    pub stream: u8,
    /// When Docker read it, RFC 3339.
    pub time: Cow<'e, str>,
}

#[derive(Deserialize)]
struct Written<'e> {
    #[serde(borrow)]
    log: Cow<'e, str>,
    #[serde(borrow, default)]
    stream: Cow<'e, str>,
    #[serde(borrow, default)]
    time: Cow<'e, str>,
}

/// Opens an envelope; `None` where it is none.
#[must_use]
pub fn envelope(line: &[u8]) -> Option<Envelope<'_>> {
    let Written { log, stream, time } = serde_json::from_slice(line).ok()?;
    let stream = match &*stream {
        "stderr" => 2,
        _ => 1,
    };
    Some(Envelope { log, stream, time })
}
