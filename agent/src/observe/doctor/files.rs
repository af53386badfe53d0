//! Files below a root, and why one could not be read.

use std::io;
use std::path::{Path, PathBuf};

use mailsteer_core::doctor::{Read, Unread};

/// Where services have their files.
pub(super) struct Places {
    pub(super) root: PathBuf,
}

impl Places {
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// The file's text; `None` where there is none.
    pub(super) fn text(&self, absolute: &str) -> Read<Option<String>> {
        text(&self.path(absolute))
    }

    pub(super) fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// Names within a directory, sorted; none where it is not there.
    pub(super) fn names(&self, absolute: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(absolute)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// The text of a file; `None` where there is none. It need not be UTF-8.
pub(super) fn text(path: &Path) -> Read<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(&path.display().to_string(), &error)),
    }
}

/// The text of a file that must be there.
pub(super) fn needed(path: &str) -> Read<String> {
    text(Path::new(path))?.ok_or_else(|| Unread { why: format!("there is no {path}"), needs_root: false })
}

pub(super) fn unread(what: &str, error: &io::Error) -> Unread {
    let needs_root = error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root();
    Unread { why: format!("{what}: {error}"), needs_root }
}
