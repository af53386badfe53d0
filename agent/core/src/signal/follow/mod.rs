//! Following a log: every line once, whatever becomes of its files.
//!
//! Owns: how far each file of a log was taken in, and what follows where it grew, was renamed, copied and emptied, or cut.
//! Must not: open, read or wait; files come by the traits [`Folder`] and [`LogFile`], so that the same code follows real files
//! and those of a test. Nor does it know what a line says (`signal::log` does).
//!
//! | file | holds |
//! |---|---|
//! | `bookmark` | how far a log was taken in, as it is kept |
//! | `lines` | from bytes to lines: the unfinished, the endless and those of another making |
//! | `container` | lines in Docker's `json-file` envelopes |
//! | `journal` | lines in journald's JSON |
//! | `files` | the files of one log, and which of them is read from where |
//! | `identity` | which file is which, and what became of it |
//!
//! **Why a file is known by its first bytes too.** Its number is given to another file once it is deleted, and one that was
//! copied and emptied (logrotate's `copytruncate`) keeps its number and has other contents. A log's first line holds a time, so
//! that two logs of one host that begin alike are the same log.

mod bookmark;
mod container;
mod files;
mod identity;
mod journal;
mod lines;
#[cfg(test)]
mod tests;

pub use bookmark::{Bookmark, FileId, Head, Reached};
pub use container::{Envelope, envelope};
pub use files::{Folder, Follower, LogFile, Loss, Polled};
pub use journal::{Entry, entry};
pub use lines::{Format, Raw, Read, Stream};
