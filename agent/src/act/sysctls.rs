//! Kernel parameters that were changed, kept so that teardown can put them back.
//!
//! Owns: `sysctls.json` in the state directory, written before the parameter is. Must not: change a parameter that
//! no uplink needs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use mailsteer_core::plan::RuleSpec;

use super::net::{restore_src_valid_mark, set_src_valid_mark, src_valid_mark};
use crate::netlink::NetError;

/// What was changed, and what it was before.
pub(super) struct Sysctls {
    file: PathBuf,
    before: BTreeMap<String, String>,
    unwritten: bool,
}

impl Sysctls {
    /// Reads what an earlier agent changed.
    pub(super) fn open(state: &Path) -> Result<Self, NetError> {
        let file = state.join("sysctls.json");
        let before = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| setting(&file, error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(setting(&file, error)),
        };
        Ok(Self { file, before, unwritten: false })
    }

    /// Lets a strict reverse path filter accept replies by the mark they get back.
    pub(super) fn accept_marked_replies(&mut self, rule: &RuleSpec) -> Result<(), NetError> {
        let RuleSpec::Replies { interface, .. } = rule else { return Ok(()) };
        if !self.before.contains_key(interface) {
            self.before.insert(interface.clone(), src_valid_mark(interface)?);
            self.unwritten = true;
        }
        // A disk that takes nothing must not keep mail from leaving: what was found is then known to this agent only.
        if self.unwritten {
            match self.write() {
                Ok(()) => self.unwritten = false,
                Err(error) => tracing::warn!("{error}; `teardown` could not restore it after a restart"),
            }
        }
        set_src_valid_mark(interface).map(drop)
    }

    /// Puts everything back. An interface that is gone took its parameters along.
    pub(super) fn restore(&mut self) -> Result<(), NetError> {
        for (interface, before) in &self.before {
            match restore_src_valid_mark(interface, before) {
                Err(NetError::Setting { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.before.clear();
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(setting(&self.file, error)),
            _ => Ok(()),
        }
    }

    fn write(&self) -> Result<(), NetError> {
        let write = || -> std::io::Result<()> {
            self.file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            // Beside and renamed: a full disk must not leave half a file.
            let next = self.file.with_extension("json.next");
            let mut file = std::fs::File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(&self.before)?)?;
            file.sync_all()?;
            std::fs::rename(&next, &self.file)
        };
        write().map_err(|error| setting(&self.file, error))
    }
}

fn setting(path: &Path, source: std::io::Error) -> NetError {
    NetError::Setting { path: path.display().to_string(), source }
}
