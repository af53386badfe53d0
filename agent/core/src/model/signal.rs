//! What one connection says of the address that it left from.
//!
//! Owns: the words in which the edges tell the core what happened on the wire. Must not: weigh anything; a signal is what
//! was seen, and what follows from many of them is [`crate::decide`]'s.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One thing that was seen of one connection of a steered stream, or of a probe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signal {
    /// When it was seen on the wire, not when it was read.
    pub at: Timestamp,
    /// The source that the connection left from: its address on this host.
    pub source: IpAddr,
    /// Who received: a provider's name, `other` where none is known.
    pub provider: String,
    /// The receiver's address.
    pub destination: IpAddr,
    /// What was seen.
    pub sign: Sign,
}

/// What was seen. A connection gives several, one after the other, and each at most once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "sign")]
pub enum Sign {
    /// Its SYN was answered by a SYN-ACK.
    Established,
    /// Its SYN was answered by a reset whose numbers fit.
    Refused,
    /// It stood, and was ended by a reset from the other side before any greeting.
    Reset,
    /// Its SYN was answered by an ICMP error whose quoted numbers fit.
    Unreachable,
    /// Its SYN was sent a second time and that one was not answered either within 300 ms.
    Silent,
    /// The receiver said 4xx or 5xx, in clear.
    Said {
        /// The code, 400 to 599.
        code: u16,
        /// The first bytes of the text behind it, printable characters only.
        text: String,
        /// Whether this was the greeting, so that nothing but the address can have displeased.
        greeting: bool,
    },
    /// A probe came as far as the greeting.
    ProbeGreeted,
    /// A probe came to nothing: no answer, refused, or greeted with 4xx or 5xx.
    ProbeFailed {
        /// What it met.
        why: String,
    },
}
