//! Reading the config file, with what the checks need to know of the host.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mailsteer_core::config::{self, Config, Problem};
use thiserror::Error;

use crate::cli::host_view::{NamesError, users_and_groups};

/// Why a config is not in force.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// This host's users and groups cannot be read.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// It has errors.
    #[error("{path} has {} error(s); `mailsteer check {path}` shows them in place:\n{}", problems.len(), list(problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The errors.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

/// A config that may come into force.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) warnings: Vec<String>,
    pub(super) loaded_at: Timestamp,
}

/// Reads and checks the file; without one, mailsteer observes.
pub(super) async fn load(path: Option<&Path>) -> Result<Loaded, LoadError> {
    let loaded_at = Timestamp::now();
    let Some(path) = path else {
        return Ok(Loaded { config: Config::observe_only(), warnings: Vec::new(), loaded_at });
    };
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    let checked = config::load(&path.display().to_string(), &text, &users_and_groups()?);
    let (errors, warnings): (Vec<Problem>, Vec<Problem>) =
        checked.problems.into_iter().partition(Problem::is_error);
    match checked.config {
        Some(config) => {
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            Ok(Loaded { config, warnings, loaded_at })
        }
        None => Err(LoadError::Wrong { path: path.to_owned(), problems: errors }),
    }
}
