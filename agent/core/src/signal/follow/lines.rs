//! From bytes to lines.
//!
//! Owns: where lines end, what is kept of one that has not ended, and what is left out. Memory is bounded: of a line longer than
//! [`LONGEST`] nothing is kept but that it is one. Must not: know what a line says, or where bytes come from.

use super::bookmark::{FileId, Reached};
use super::container::{self, Envelope};

/// Of longer lines nothing is kept: no reader reads one (`signal::log` reads up to 16 KiB; Docker's envelope adds a little, and
/// doubles what it escapes).
pub(super) const LONGEST: usize = 64 << 10;

/// How lines are written in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// One after the other.
    #[default]
    Plain,
    /// Each in Docker's envelope.
    Container,
}

/// A line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raw<'l> {
    /// Without its end. Empty where it was cut.
    pub text: &'l [u8],
    /// What its envelope says of the time, RFC 3339; empty without one.
    pub time: &'l str,
}

/// What was read, by what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Read {
    /// Lines, whatever they were.
    pub lines: u64,
    /// Of these, too long to be kept, or begun where nobody read.
    pub cut: u64,
    /// Of these, not UTF-8: what is not is read as `\u{fffd}`.
    pub not_utf8: u64,
    /// Of these, without the envelope that they ought to have.
    pub bare: u64,
}

impl Read {
    /// And more.
    pub const fn add(&mut self, more: Self) {
        self.lines += more.lines;
        self.cut += more.cut;
        self.not_utf8 += more.not_utf8;
        self.bare += more.bare;
    }
}

/// What of a file is read and not a whole line yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Unfinished {
    kept: Vec<u8>,
    /// Bytes since the last end of a line, kept or not.
    pub(super) length: u64,
    /// It is too long already.
    endless: bool,
}

impl Unfinished {
    /// Takes the next bytes of a file in: hands on whole lines, and moves `reached` behind them.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        format: Format,
        reached: &mut Reached,
        read: &mut Read,
        take: &mut impl FnMut(Raw<'_>),
    ) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (rest, after) = (&bytes[..end], &bytes[end + 1..]);
            let part = if self.kept.is_empty() { without_nuls(rest) } else { rest };
            let fits = !self.endless && !reached.within && self.kept.len() + part.len() <= LONGEST;
            let text = if self.kept.is_empty() {
                part
            } else {
                self.kept.extend_from_slice(if fits { part } else { &[] });
                &self.kept
            };
            line(fits.then_some(text), format, reached, read, take);
            reached.offset += self.length + rest.len() as u64 + 1;
            reached.within = false;
            self.forget();
            bytes = after;
        }
        self.length += bytes.len() as u64;
        // A writer that goes on behind the end of a file that was emptied leaves a hole: any number of these.
        let bytes = if self.kept.is_empty() { without_nuls(bytes) } else { bytes };
        if self.endless || reached.within || self.kept.len() + bytes.len() > LONGEST {
            self.endless = !reached.within;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    #[cfg(test)]
    pub(super) const fn kept(&self) -> usize {
        self.kept.capacity()
    }

    /// What was read is of no line.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
        (self.length, self.endless) = (0, false);
    }
}

/// Lines of what comes by a pipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    unfinished: Unfinished,
    reached: Reached,
}

impl Default for Stream {
    fn default() -> Self {
        let no_file = FileId { device: 0, inode: 0 };
        Self { unfinished: Unfinished::default(), reached: Reached::beginning(no_file) }
    }
}

impl Stream {
    /// Takes the next bytes in, and hands on whole lines.
    pub fn feed(&mut self, bytes: &[u8], take: &mut impl FnMut(Raw<'_>)) {
        self.unfinished.feed(bytes, Format::Plain, &mut self.reached, &mut Read::default(), take);
    }
}

fn without_nuls(bytes: &[u8]) -> &[u8] {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    &bytes[first..]
}

/// One whole line; `None`: it is not kept.
fn line(
    text: Option<&[u8]>,
    format: Format,
    reached: &mut Reached,
    read: &mut Read,
    take: &mut impl FnMut(Raw<'_>),
) {
    read.lines += 1;
    let Some(text) = text else {
        read.cut += 1;
        return;
    };
    read.not_utf8 += u64::from(std::str::from_utf8(text).is_err());
    match format {
        Format::Plain => take(Raw { text: text.strip_suffix(b"\r").unwrap_or(text), time: "" }),
        Format::Container => match container::envelope(text) {
            Some(Envelope { log, stream, time }) => {
                // Docker divides what is longer than 16 KiB, which no reader reads: none of its parts is a line.
                let (ended, was_cut) = (log.ends_with('\n'), reached.cut & stream != 0);
                reached.cut = if ended { reached.cut & !stream } else { reached.cut | stream };
                if ended && !was_cut {
                    take(Raw { text: log.trim_end_matches(['\r', '\n']).as_bytes(), time: &time });
                } else {
                    read.cut += 1;
                }
            }
            None => read.bare += 1,
        },
    }
}
