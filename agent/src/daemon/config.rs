//! Reading the config file, with what the checks need to know of the host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mailsteer_core::config::{self, Config, CountriesAsked, CountryNetworks, HostView, Problem};
use mailsteer_core::signal::lists::{self, ListTable};
use mailsteer_core::signal::providers::{self, ProviderTable};
use mailsteer_core::signal::reply::{DEFAULT, ReplyTable};
use thiserror::Error;
use tracing::warn;

use crate::cli::host_view::{LISTS, NamesError, PROVIDERS, REPLIES, table_beside, users_and_groups};
use crate::observe::countries;

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
    /// It matches by cgroup where nobody knows cgroups.
    #[error(
        "stream {stream} is matched by its cgroup, which takes eBPF, and there is none here ({why}): match it by `user`, \
         `group`, `tag` or `mark`, or let the kernel load eBPF programs"
    )]
    Cgroup {
        /// The stream.
        stream: String,
        /// Why there is no eBPF.
        why: String,
    },
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
    /// The file as it was read; empty without one.
    pub(super) text: String,
    pub(super) warnings: Vec<String>,
    /// The rules for replies: the operator's own, or those that come with mailsteer.
    pub(super) replies: Arc<ReplyTable>,
    pub(super) loaded_at: Timestamp,
}

/// Reads and checks the file; without one, mailsteer observes.
pub(super) async fn load(path: Option<&Path>) -> Result<Loaded, LoadError> {
    let loaded_at = Timestamp::now();
    let Some(path) = path else {
        return Ok(Loaded {
            config: Config::observe_only(),
            text: String::new(),
            warnings: Vec::new(),
            replies: default_replies(),
            loaded_at,
        });
    };
    let text = read(path).await?;
    judge(path, path, text, &countries::read, loaded_at)
}

async fn read(path: &Path) -> Result<String, LoadError> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}

/// What a database has of the countries that are asked for, or why it cannot be used.
type Countries<'f> = &'f dyn Fn(&CountriesAsked) -> Result<CountryNetworks, String>;

/// `beside`: where the operator's own tables are.
fn judge(
    path: &Path,
    beside: &Path,
    text: String,
    countries: Countries<'_>,
    loaded_at: Timestamp,
) -> Result<Loaded, LoadError> {
    let own = table_beside(beside, REPLIES);
    let replies = own.as_ref().and_then(|(name, text)| ReplyTable::load(name, text).table);
    let view = HostView {
        lists: table_beside(beside, LISTS),
        replies: own,
        providers: table_beside(beside, PROVIDERS),
        countries: config::countries_asked(&text).map(|asked| countries(&asked)),
        ..users_and_groups()?
    };
    let checked = config::load(&path.display().to_string(), &text, &view);
    let (errors, warnings): (Vec<Problem>, Vec<Problem>) =
        checked.problems.into_iter().partition(Problem::is_error);
    match checked.config {
        Some(config) => {
            let replies = replies.map_or_else(default_replies, Arc::new);
            let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            warnings.extend(old("rules for replies", &replies.stale(day(loaded_at)), REPLIES));
            if config.lists.is_some() {
                let (name, text) =
                    view.lists.as_ref().map_or((LISTS, lists::DEFAULT), |(name, text)| (name, text));
                let table = ListTable::load(name, text).table;
                let stale = table.as_ref().map(|table| table.stale(day(loaded_at))).unwrap_or_default();
                warnings.extend(old("DNS lists", &stale, LISTS));
            }
            if config.learning.is_some() {
                let own = view.providers.as_ref();
                let (name, text) = own.map_or((PROVIDERS, providers::DEFAULT), |(name, text)| (name, text));
                let table = ProviderTable::load(name, text).table;
                let stale = table.as_ref().map(|table| table.stale(day(loaded_at))).unwrap_or_default();
                warnings.extend(old("groups of providers", &stale, PROVIDERS));
            }
            Ok(Loaded { config, text, warnings, replies, loaded_at })
        }
        None => Err(LoadError::Wrong { path: path.to_owned(), problems: errors }),
    }
}

fn day(now: Timestamp) -> Date {
    now.to_zoned_datetime(TimeZone::UTC).date()
}

/// That what a table says may not hold any more.
fn old(what: &str, stale: &[&str], file: &str) -> Option<String> {
    let (first, all) = (stale.first()?, stale.len());
    Some(format!(
        "{all} {what} were last checked more than a year ago (`{first}` for one): a newer mailsteer has newer ones, or look at \
         their sources and put a {file} beside the config"
    ))
}

/// The rules that come with mailsteer, which a test reads.
fn default_replies() -> Arc<ReplyTable> {
    Arc::new(ReplyTable::load("config/replies.toml", DEFAULT).table.unwrap_or_default())
}

/// The file of the config that was last in force, for a boot at which the config itself is broken.
fn last_good_file(state: &Path) -> PathBuf {
    state.join("last-good.toml")
}

/// The database of countries that it was read with.
fn last_good_countries(state: &Path) -> PathBuf {
    state.join("last-good.mmdb")
}

/// Keeps a config that came into force, and its database of countries. What cannot be kept is said and changes nothing else.
pub(super) async fn keep(state: &Path, text: &str) {
    if text.is_empty() {
        return;
    }
    keep_file(&last_good_file(state), text.as_bytes()).await;
    if let Some(asked) = config::countries_asked(text) {
        match tokio::fs::read(&asked.database).await {
            Ok(bytes) => keep_file(&last_good_countries(state), &bytes).await,
            // It was read a moment ago, and is being replaced.
            Err(error) => warn!("{}: {error}; the one that was kept before stays", asked.database),
        }
    }
}

async fn keep_file(path: &Path, bytes: &[u8]) {
    if tokio::fs::read(path).await.is_ok_and(|kept| kept == bytes) {
        return;
    }
    let next = path.with_extension("next");
    let kept = async {
        tokio::fs::write(&next, bytes).await?;
        tokio::fs::File::open(&next).await?.sync_all().await?;
        tokio::fs::rename(&next, path).await
    };
    if let Err(error) = kept.await {
        warn!("{}: {error}; a boot with a broken config would have no other to start from", path.display());
    }
}

/// The config that was last in force.
pub(super) async fn last_good(state: &Path, config: Option<&Path>) -> Result<Loaded, LoadError> {
    let path = last_good_file(state);
    let text = read(&path).await?;
    let database = last_good_countries(state).display().to_string();
    // The database may be what is broken.
    let countries = |asked: &CountriesAsked| {
        let kept = CountriesAsked { database: database.clone(), codes: asked.codes.clone() };
        countries::read(asked).or_else(|why| countries::read(&kept).map_err(|_none| why))
    };
    // Or the tables beside the config: the boot has no use for them.
    let with_tables = judge(&path, config.unwrap_or(&path), text.clone(), &countries, Timestamp::now());
    with_tables.or_else(|_broken| judge(&path, &path, text, &countries, Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_nobody_looked_at_for_a_year_are_said() {
        let replies = default_replies();
        assert!(!replies.is_empty());
        let on = |text: &str| old("rules", &replies.stale(text.parse().unwrap()), REPLIES);
        assert_eq!(on("2026-12-01"), None);
        let said = on("2028-01-01").unwrap();
        assert!(said.contains("more than a year ago"), "{said}");
    }
}
