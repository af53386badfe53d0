//! What the emulated machine has for a disk: a tree of files, written as the archive that the kernel unpacks.
//!
//! Owns: the tree's entries and the `newc` format (Documentation/driver-api/early-userspace/buffer-format). Must not:
//! know what the files are for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

enum Entry {
    Directory,
    File(PathBuf),
    Text(String),
    Link(String),
}

/// The tree, by path without the leading slash.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// A file of this machine.
    pub(super) fn file(&mut self, at: &str, from: &Path) {
        self.put(at, Entry::File(from.to_owned()));
    }

    /// A program of this machine, with the libraries that it is linked with, where its loader looks for them.
    pub(super) fn program(&mut self, at: &str, from: &Path) -> Result<()> {
        self.file(at, from);
        // A static program has none, and ldd fails.
        let libraries = run::ask(Command::new("ldd").arg(from)).unwrap_or_default();
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let real = fs::canonicalize(path).with_context(|| format!("no {path}"))?;
            self.file(path, &real);
        }
        Ok(())
    }

    /// An executable text.
    pub(super) fn text(&mut self, at: &str, text: String) {
        self.put(at, Entry::Text(text));
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, at: &str, to: &str) {
        self.put(at, Entry::Link(to.to_owned()));
    }

    /// A folder of this machine with all that is in it, where it is here, and the libraries that its programs are linked with.
    pub(super) fn folder(&mut self, from: &Path) -> Result<()> {
        let mut folders = vec![from.to_owned()];
        let libraries = from.join("usr/lib/x86_64-linux-gnu");
        while let Some(folder) = folders.pop() {
            self.directory(&folder.display().to_string());
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let at = path.display().to_string();
                if path.is_symlink() {
                    self.link(&at, &fs::read_link(&path)?.display().to_string());
                } else if path.is_dir() {
                    folders.push(path);
                } else {
                    self.file(&at, &path);
                    self.libraries(&path, &libraries)?;
                }
            }
        }
        Ok(())
    }

    /// What a program or library is linked with, except what lies in this folder too.
    fn libraries(&mut self, of: &Path, own: &Path) -> Result<()> {
        let mut magic = [0; 4];
        let is_elf = File::open(of)?.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
        if !is_elf {
            return Ok(());
        }
        let linked = run::ask(Command::new("ldd").env("LD_LIBRARY_PATH", own).arg(of)).unwrap_or_default();
        for path in linked.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
            if !Path::new(path).starts_with(own) {
                self.file(path, &fs::canonicalize(path).with_context(|| format!("no {path}"))?);
            }
        }
        Ok(())
    }

    /// An empty directory.
    pub(super) fn directory(&mut self, at: &str) {
        self.put(at, Entry::Directory);
    }

    fn put(&mut self, at: &str, entry: Entry) {
        self.0.insert(at.trim_start_matches('/').to_owned(), entry);
    }

    /// The archive: every directory before what is in it, as the kernel makes none by itself.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let above = self.0.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
        let parents: BTreeSet<&str> =
            above.filter_map(Path::to_str).filter(|path| !path.is_empty()).collect();
        let mut archive = Vec::new();
        for path in parents {
            append(&mut archive, path, 0o40_755, &[]);
        }
        for (path, entry) in &self.0 {
            match entry {
                Entry::Directory => append(&mut archive, path, 0o40_755, &[]),
                Entry::File(from) => {
                    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                    append(&mut archive, path, 0o100_755, &bytes);
                }
                Entry::Text(text) => append(&mut archive, path, 0o100_755, text.as_bytes()),
                Entry::Link(to) => append(&mut archive, path, 0o120_777, to.as_bytes()),
            }
        }
        append(&mut archive, "TRAILER!!!", 0, &[]);
        Ok(archive)
    }
}

/// One entry: a header of fourteen numbers in text, the name, the bytes, each padded to four bytes.
fn append(archive: &mut Vec<u8>, path: &str, mode: u32, bytes: &[u8]) {
    // Inode, mode, uid, gid, links, mtime, size, two device numbers of the file and two of the device, name's size,
    // checksum. Only links of files need inodes.
    let numbers = [0, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    archive.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(bytes);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn an_archive_has_directories_first_and_ends_with_its_trailer() {
        let mut tree = Tree::default();
        tree.text("/a/b/init", "hello".to_owned());
        let archive = tree.archive().unwrap_or_default();
        let text = String::from_utf8_lossy(&archive);
        let places: Vec<_> =
            ["a\0", "a/b\0", "a/b/init\0", "hello", "TRAILER!!!\0"].map(|name| text.find(name)).into();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}");
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&text[..14], "07070100000000");
    }
}
