//! What a config check needs to know of this host.
//!
//! Owns: reading users, groups and the network for the checks. Must not: check anything, or take what cannot be read
//! for empty.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use mailsteer_core::config::{CountryNetworks, HostView, countries_asked};
use mailsteer_core::model::Host;

use crate::observe::{Looker, countries};

/// This host's users or groups cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}, so that names of users and groups cannot be looked up: {cause}")]
pub struct NamesError {
    /// The file.
    path: PathBuf,
    /// Why.
    cause: io::Error,
}

/// Users, groups and the network of this host, for checking a file where it will be used. Reading the network
/// needs no privileges.
pub(crate) fn host_view(file: &Path) -> anyhow::Result<HostView> {
    use anyhow::Context as _;
    let host = network().context("cannot read this host's network")?;
    Ok(HostView {
        host: Some(host),
        lists: table_beside(file, LISTS),
        replies: table_beside(file, REPLIES),
        providers: table_beside(file, PROVIDERS),
        countries: countries_of(file),
        ..users_and_groups()?
    })
}

/// The operator's own table of DNS lists.
pub(crate) const LISTS: &str = "lists.toml";
/// The operator's own table of rules for replies.
pub(crate) const REPLIES: &str = "replies.toml";

/// The operator's own table of providers.
pub(crate) const PROVIDERS: &str = "providers.toml";

/// What the database of countries has of those that the config asks for; `None`: it asks for none, or cannot be read itself.
pub(crate) fn countries_of(config: &Path) -> Option<Result<CountryNetworks, String>> {
    countries_asked(&std::fs::read_to_string(config).ok()?).map(|asked| countries::read(&asked))
}

/// A table of the operator's own: beside the config. One that is there and cannot be read is no table, and says so.
pub(crate) fn table_beside(config: &Path, name: &str) -> Option<(String, String)> {
    let table = config.with_file_name(name);
    match std::fs::read_to_string(&table) {
        Ok(text) => Some((table.display().to_string(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some((table.display().to_string(), format!("cannot be read: {error}"))),
    }
}

/// Users and groups alone: an agent takes what the network lacks as a fact of the moment, not as a mistake in the
/// file. A name that appears twice keeps its first id, as `getpwnam` does.
pub(crate) fn users_and_groups() -> Result<HostView, NamesError> {
    Ok(HostView {
        users: ids(Path::new("/etc/passwd"))?,
        groups: ids(Path::new("/etc/group"))?,
        ..HostView::default()
    })
}

fn network() -> anyhow::Result<Host> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(Looker::open()?.look(false).await?.host) })
}

/// Both files hold `name:password:id:...`. They need not be UTF-8: a comment of another age is nobody's fault.
fn ids(path: &Path) -> Result<BTreeMap<String, u32>, NamesError> {
    let bytes = std::fs::read(path).map_err(|cause| NamesError { path: path.to_owned(), cause })?;
    Ok(ids_of(&bytes))
}

pub(super) fn ids_of(bytes: &[u8]) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            found.entry(name.to_owned()).or_insert(id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwd");
        std::fs::write(&file, b"root:x:0:0:r\xf6\xf6t:/root:/bin/sh\n\nbad\na:x:7:7::/:\na:x:8:8::/:\n")
            .unwrap();
        assert_eq!(ids(&file).unwrap(), BTreeMap::from([("root".to_owned(), 0), ("a".to_owned(), 7)]));
        let error = ids(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none, so that names"), "{error}");
    }
}
