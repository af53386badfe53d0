//! What became of a message to one recipient, as far as it says something of the source that it left from.
//!
//! Owns: the words in which the edges tell the core. Must not: judge a reply (`signal::reply` did), or weigh anything.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::signal::reply::Judgement;

/// One recipient's message, and what the receiver said.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivered {
    /// When the receiver said it.
    pub at: Timestamp,
    /// Whose mail it was.
    pub stream: String,
    /// The source that its connection left from: its address on this host.
    pub source: IpAddr,
    /// Who received.
    pub provider: String,
    /// The receiver's address.
    pub destination: IpAddr,
    /// What the reply asks for.
    pub judgement: Judgement,
    /// Whether it was for good (5xx), so that the message comes back.
    pub permanent: bool,
    /// The recipient complained, later: no delivery, but counted against one.
    pub complaint: bool,
    /// The reply, as it may be shown.
    pub reply: String,
}
