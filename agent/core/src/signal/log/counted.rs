//! What is counted of a log, and what of it is news.
//!
//! Owns: sorting lines. Must not: know which connection a delivery was.

use serde::{Deserialize, Serialize};

use super::{Delivery, Line};
use crate::signal::follow::Read;

/// A delivery to more recipients is counted as one to so many.
pub const RECIPIENTS: u32 = 100;

/// Lines of a log since it was first followed, by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogCounts {
    /// All.
    pub lines: u64,
    /// A receiver said something.
    pub deliveries: u64,
    /// No receiver said anything.
    pub no_reply: u64,
    /// Their fields could be a stranger's.
    pub ambiguous: u64,
    /// Too long, or begun before anybody read.
    pub cut: u64,
    /// Not UTF-8.
    pub not_utf8: u64,
    /// Without the envelope that they ought to have.
    pub bare: u64,
    /// How often something was written that nobody will read.
    pub missed: u64,
}

impl LogCounts {
    /// And more.
    pub const fn add(&mut self, more: &Self) {
        self.lines += more.lines;
        self.deliveries += more.deliveries;
        self.no_reply += more.no_reply;
        self.ambiguous += more.ambiguous;
        self.cut += more.cut;
        self.not_utf8 += more.not_utf8;
        self.bare += more.bare;
        self.missed += more.missed;
    }

    /// What the follower says of lines.
    pub const fn read(&mut self, read: Read) {
        self.lines += read.lines;
        self.cut += read.cut;
        self.not_utf8 += read.not_utf8;
        self.bare += read.bare;
    }

    /// Counts a line, and hands on what is news.
    pub fn take(&mut self, line: Line) -> Option<Delivery> {
        match line {
            Line::Delivery(one) => {
                self.deliveries += 1;
                return Some(one);
            }
            Line::NoReply => self.no_reply += 1,
            Line::Ambiguous => self.ambiguous += 1,
            Line::Other | Line::Connecting { .. } | Line::Over { .. } => {}
        }
        None
    }

    /// What is odd about a log's lines, by its word in metrics.
    #[must_use]
    pub const fn odd(&self) -> [(&'static str, u64); 4] {
        [
            ("ambiguous", self.ambiguous),
            ("cut", self.cut),
            ("not-utf8", self.not_utf8),
            ("no-envelope", self.bare),
        ]
    }
}
