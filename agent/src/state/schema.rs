//! Migrations of the database.
//!
//! Owns: which schema this version knows, and the way to it from each earlier one. A migration is a file of SQL, so
//! that no type of the program can change under it; it is never edited once released, only followed by another.
//! Must not: read or write rows.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};

use super::open::StateError;

/// The way to each schema from the one before it.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_beliefs.sql"),
    include_str!("migrations/0003_days.sql"),
    include_str!("migrations/0004_logs.sql"),
    include_str!("migrations/0005_fuses.sql"),
];

/// The schema that migrations lead to.
pub(super) fn last(migrations: &[&str]) -> u32 {
    u32::try_from(migrations.len()).unwrap_or(u32::MAX)
}

/// The schema of a database; 0: it is empty.
pub(super) fn version(connection: &Connection) -> Result<u32, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Refuses a schema that `known` migrations do not lead to.
pub(super) fn refuse_newer(connection: &Connection, path: &Path, known: u32) -> Result<u32, StateError> {
    let found = version(connection).map_err(|error| StateError::of(path, error))?;
    if found <= known {
        return Ok(found);
    }
    let by = connection.query_row("SELECT written_by FROM meta", [], |row| row.get::<_, String>(0));
    let made_by = by.optional().ok().flatten().unwrap_or_else(|| "a newer version".to_owned());
    let copy = Some(copy_of(path, known)).filter(|copy| copy.exists());
    Err(StateError::Newer { path: path.to_owned(), found, known, made_by, copy })
}

/// Brings a database to the last of `migrations`; says whether it was empty. Before one that holds something is
/// changed, a copy is put beside it, so that the version before can be gone back to.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<bool, StateError> {
    let known = last(migrations);
    let found = refuse_newer(connection, path, known)?;
    if found > 0 && found < known {
        copy(connection, &copy_of(path, found)).map_err(|error| StateError::of(path, error))?;
    }
    let mut steps = || {
        for (place, sql) in (1..).zip(migrations).skip(found as usize) {
            let step = connection.transaction()?;
            step.execute_batch(sql)?;
            step.pragma_update(None, "user_version", place)?;
            step.commit()?;
        }
        sign(connection)
    };
    steps().map_err(|error| StateError::of(path, error))?;
    Ok(found == 0)
}

/// Notes which version writes.
fn sign(connection: &Connection) -> Result<(), rusqlite::Error> {
    let version = env!("CARGO_PKG_VERSION");
    let by: Option<String> =
        connection.query_row("SELECT written_by FROM meta", [], |row| row.get(0)).optional()?;
    if by.as_deref() != Some(version) {
        connection.execute("INSERT OR REPLACE INTO meta (only, written_by) VALUES (1, ?1)", [version])?;
    }
    Ok(())
}

fn copy(connection: &Connection, to: &Path) -> Result<(), rusqlite::Error> {
    if to.exists() {
        return Ok(());
    }
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map(drop)
}

/// Where the copy of an earlier schema is.
pub(super) fn copy_of(path: &Path, schema: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{schema}"));
    name.into()
}
