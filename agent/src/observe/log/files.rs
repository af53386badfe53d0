//! The files of a log, for the core's follower.
//!
//! Owns: opening and listing them. Must not: wait, or say what follows.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mailsteer_core::signal::follow::{FileId, Folder, LogFile};

/// What rotation compresses is another file, and holds nothing that was not in one of these.
const COMPRESSED: [&str; 5] = [".gz", ".xz", ".bz2", ".zst", ".Z"];
/// So many of the latest are looked at: as many weeks as anybody keeps uncompressed.
const LATEST: usize = 32;

/// A file that is held open.
pub(super) struct Held {
    file: File,
    id: FileId,
}

fn id(of: &Metadata) -> FileId {
    FileId { device: of.dev(), inode: of.ino() }
}

impl Held {
    /// `None`: there is none.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        // Not blocked by a pipe that nobody writes to.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = file.metadata()?;
        if !stat.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Some(Self { id: id(&stat), file }))
    }
}

impl LogFile for Held {
    fn id(&self) -> FileId {
        self.id
    }

    fn stat(&mut self) -> io::Result<(u64, i64)> {
        let stat = self.file.metadata()?;
        // Until the year 2262.
        let written = stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec());
        Ok((stat.len(), written))
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(into, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// Where a log's files are.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Whether rotation called a file after the log: `mail.log.1`, `mail.log-20261129`.
    fn is_sibling(name: &str, of: &str) -> bool {
        let rest = name.strip_prefix(of).and_then(|rest| rest.strip_prefix(['.', '-']));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && !COMPRESSED.iter().any(|end| name.ends_with(end))
    }
}

impl Folder for Directory {
    type File = Held;

    fn named(&mut self) -> io::Result<Option<FileId>> {
        match fs::metadata(&self.path) {
            Ok(stat) => Ok(Some(id(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&mut self) -> io::Result<Option<Held>> {
        Held::open(&self.path)
    }

    fn siblings(&mut self) -> io::Result<Vec<Held>> {
        // A name that leads elsewhere is rotated there.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let (Some(folder), Some(of)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            return Ok(vec![]);
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let mut found = vec![];
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| Self::is_sibling(name, of)) {
                let written = entry.metadata().and_then(|stat| stat.modified());
                // Deleted since it was listed, it is none.
                found.extend(written.ok().map(|written| (written, entry.path())));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        // One that may not be read, or is none, is not there.
        Ok(found.iter().take(LATEST).filter_map(|(_, path)| Held::open(path).ok().flatten()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Directory;

    #[test]
    fn what_rotation_makes_of_a_name() {
        for (name, is) in [
            ("mail.log.1", true),
            ("mail.log-20261129", true),
            ("mail.log.2.gz", false),
            ("mail.log.bak", false),
            ("mail.log", false),
            ("mail.err.1", false),
        ] {
            assert_eq!(Directory::is_sibling(name, "mail.log"), is, "{name}");
        }
    }
}
