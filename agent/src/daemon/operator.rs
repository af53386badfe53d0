//! The operator's word, kept in a file, so that a crash does not put a suspended source back to work.
//!
//! Owns: `operator.json` in the state directory, replaced whole and atomically. Must not: hold anything that the
//! kernel holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mailsteer_core::decide::{Bypass, Hold, Suspension, World};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the operator's word could not be kept or read.
#[derive(Debug, Error)]
pub(super) enum OperatorFileError {
    /// The file cannot be written or read.
    #[error("{path}: {source}; what was suspended or bypassed would be forgotten at the next start")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged: {source}; move it away to start without suspensions, or mend it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

/// What is kept.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    suspended: BTreeMap<IpAddr, Suspension>,
    bypassed: BTreeMap<String, Bypass>,
    #[serde(default)]
    hold: Option<Hold>,
}

impl Kept {
    pub(super) fn of(world: &World) -> Self {
        Self {
            suspended: world.suspensions().clone(),
            bypassed: world.bypasses().clone(),
            hold: world.hold().cloned(),
        }
    }

    /// Reads the file; nothing is kept where there is none.
    pub(super) fn read(state: &Path) -> Result<Self, OperatorFileError> {
        let path = file(state);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| OperatorFileError::Damaged { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(OperatorFileError::Io { path, source }),
        }
    }

    /// Replaces the file.
    pub(super) fn write(&self, state: &Path) -> Result<(), OperatorFileError> {
        let path = file(state);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(state)?;
            let next = path.with_extension("json.next");
            std::fs::write(&next, serde_json::to_vec_pretty(self)?)?;
            std::fs::File::open(&next)?.sync_all()?;
            std::fs::rename(&next, &path)
        };
        write().map_err(|source| OperatorFileError::Io { path: path.clone(), source })
    }

    pub(super) fn restore(self, world: &mut World) {
        world.restore_operator(self.suspended, self.bypassed, self.hold);
    }
}

fn file(state: &Path) -> PathBuf {
    state.join("operator.json")
}
