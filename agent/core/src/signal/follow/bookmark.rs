//! How far a log was taken in, as it is kept beside what was counted.
//!
//! Owns: its shape. Must not: know how files are read.

use serde::{Deserialize, Serialize};

/// So many of a file's first bytes tell it from others: several lines of any MTA.
pub(super) const HEAD: u64 = 1_024;

/// Device and inode: they tell a file from others that are there at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct FileId {
    /// Number of the device.
    pub device: u64,
    /// Number of the inode.
    pub inode: u64,
}

/// What a file's first bytes were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// How many.
    pub length: u64,
    /// FNV-1a of them: it goes on with further ones, and nobody has to be kept from forging it.
    pub hash: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { length: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Head {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        head.extend(0, bytes);
        head
    }

    /// Goes on with bytes that were read at `at`, as far as they are next and the head is short.
    pub(super) fn extend(&mut self, at: u64, bytes: &[u8]) {
        let Some(skip) = self.length.checked_sub(at).and_then(|skip| usize::try_from(skip).ok()) else {
            return;
        };
        for byte in bytes.iter().skip(skip) {
            if self.length == HEAD {
                return;
            }
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            self.length += 1;
        }
    }
}

/// How far one file was taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// Which file.
    pub file: FileId,
    /// Bytes before this were taken in: whole lines.
    pub offset: u64,
    /// Its first bytes.
    pub head: Head,
    /// When it was last written to as it was met, in nanoseconds: as long as it has no beginning, it is told by that.
    #[serde(default)]
    pub written: i64,
    /// Reading began, or goes on, within a line whose beginning nobody read: up to its end it says nothing.
    #[serde(default)]
    pub within: bool,
    /// The container's standard output (1) and standard error (2) are within a line that was too long.
    #[serde(default)]
    pub cut: u8,
}

impl Reached {
    /// A file from its beginning.
    #[must_use]
    pub fn beginning(file: FileId) -> Self {
        Self { file, offset: 0, head: Head::default(), written: 0, within: false, cut: 0 }
    }
}

/// How far a log was taken in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bookmark {
    /// What was followed, as the config names it: of another log nothing here holds.
    pub of: String,
    /// Its files, the one that bears the log's name last.
    #[serde(default)]
    pub files: Vec<Reached>,
    /// Files that were read to their end and let go, the last ones: they are not begun again.
    #[serde(default)]
    pub done: Vec<Reached>,
    /// Where the log is a journal: its own word for the last entry.
    #[serde(default)]
    pub cursor: Option<String>,
}
