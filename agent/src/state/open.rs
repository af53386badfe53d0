//! Opening the database, whatever became of it.
//!
//! Owns: what is done with a file that is newer, damaged, or on a disk that cannot be written. Must not: give up
//! anything that can still be read.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;

use super::rows::{self, Kept};
use super::schema::{self, MIGRATIONS};

/// How long another program's transaction is waited for: an operator's `sqlite3` takes milliseconds.
const BUSY: Duration = Duration::from_secs(1);

/// Why the database cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// A newer version made it.
    #[error(
        "{} has schema {found}, made by mailsteer {made_by}; this is mailsteer {}, which knows schemas up to {known}. \
         Nothing was changed, and both locks stand as they were. Install {made_by} again, {}or move the file away and \
         start with an empty one, which forgets counters, events and suspensions: \
         `mkdir {}.away && mv {}* {}.away/`",
        path.display(), env!("CARGO_PKG_VERSION"), way_back(path, copy.as_deref()),
        path.display(), path.display(), path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The last schema that this version knows.
        known: u32,
        /// The version that wrote it last.
        made_by: String,
        /// A copy from before it was migrated.
        copy: Option<PathBuf>,
    },
    /// What is in it is no database of ours any more.
    #[error("{} is damaged ({cause})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The disk or another program keeps us from it.
    #[error("{}: {cause}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        cause: String,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

fn way_back(path: &Path, copy: Option<&Path>) -> String {
    let copy = copy.map(|copy| {
        let (copy, path) = (copy.display(), path.display());
        format!("or put the copy back that was made before the upgrade (`mv {path} {path}.newer; cp {copy} {path}`), ")
    });
    copy.unwrap_or_default()
}

impl StateError {
    /// By what SQLite says, and by what the directory itself says when it is written to.
    pub(super) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_damage(&source) {
            return Self::Damaged { path, cause: source.to_string() };
        }
        let code = source.sqlite_error_code().unwrap_or(ErrorCode::Unknown);
        Self::Unusable { cause: why(&path, code, &source), path, source }
    }
}

/// The cause in words, and what to do.
fn why(path: &Path, code: ErrorCode, source: &rusqlite::Error) -> String {
    if let Err(error) = path.parent().map_or(Ok(()), probe) {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its file system",
            io::ErrorKind::ReadOnlyFilesystem => "mount it writable again; `dmesg` may say why it is not",
            io::ErrorKind::PermissionDenied => "let the agent's user write to the directory",
            io::ErrorKind::NotFound => "make the directory again",
            _ => "`dmesg` may say more",
        };
        return format!("{error}: {advice}");
    }
    let advice = match code {
        ErrorCode::DiskFull => "make room on its file system",
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            "another program holds it: end that one's transaction (`fuser` names it)"
        }
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
            "let the agent's user write to the file"
        }
        _ => "`dmesg` may say more",
    };
    format!("{source}: {advice}")
}

/// Whether the directory takes a file of a few pages.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(".mailsteer-probe");
    let written = fs::File::create(&path).and_then(|mut file| file.write_all(&[0; 64 << 10]));
    let removed = fs::remove_file(&path);
    written.and(removed)
}

/// A database that can be written.
pub(super) struct Ready {
    pub(super) connection: Connection,
    /// It was made just now.
    pub(super) fresh: bool,
}

/// Opens it for writing, and makes or migrates it where that is due. `look`: every page is looked at, which takes
/// about a second for 100 MB.
pub(super) fn writable(path: &Path, look: bool) -> Result<Ready, StateError> {
    let failed = |error| StateError::of(path, error);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    schema::refuse_newer(&connection, path, schema::last(MIGRATIONS))?;
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; \
                    PRAGMA cache_size = -1024; PRAGMA journal_size_limit = 4194304";
    connection.execute_batch(settings).map_err(failed)?;
    if look {
        check(&connection, path)?;
    }
    let fresh = schema::migrate(&mut connection, path, MIGRATIONS)?;
    if connection.is_readonly("main").map_err(failed)? {
        // SQLite opens what it cannot write for reading and says nothing: asked to write, it says so.
        connection.execute("UPDATE meta SET written_by = written_by", []).map_err(failed)?;
    }
    Ok(Ready { connection, fresh })
}

fn check(connection: &Connection, path: &Path) -> Result<(), StateError> {
    let said: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| StateError::of(path, error))?;
    if said == "ok" { Ok(()) } else { Err(StateError::Damaged { path: path.to_owned(), cause: said }) }
}

/// Reads a database that cannot be written; nothing where there is none.
pub(super) fn read_only(path: &Path) -> Result<Kept, StateError> {
    if fs::metadata(path).is_ok_and(|file| file.len() == 0)
        || fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(Kept::default());
    }
    let connection = reading(path)?;
    if schema::refuse_newer(&connection, path, schema::last(MIGRATIONS))? == 0 {
        return Ok(Kept::default());
    }
    rows::read(&connection).map_err(|error| StateError::of(path, error))
}

/// A connection that only reads. Even a reader of a WAL database writes to its index, which a full or read-only disk
/// may not take; where no log lies beside the file, nothing is missing without one.
fn reading(path: &Path) -> Result<Connection, StateError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let plain = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY)?;
        schema::version(&connection)?;
        Ok(connection)
    });
    let no_log = fs::metadata(beside(path, "-wal")).map_or(true, |log| log.len() == 0);
    match plain {
        Err(error) if no_log && !is_damage(&error) => {
            let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
                .map_err(|error| StateError::of(path, error))
        }
        other => other.map_err(|error| StateError::of(path, error)),
    }
}

/// SQLite finds its own structure broken, or what is read is of another type or form than any version wrote.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        || matches!(
            error,
            FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | Utf8Error(..)
        )
}

/// What a damaged file still tells, and in words what it does not.
pub(super) fn salvage(path: &Path) -> (Kept, Vec<&'static str>) {
    match reading(path) {
        Ok(connection) => rows::salvage(&connection),
        Err(_) => (Kept::default(), rows::PARTS.to_vec()),
    }
}

/// Moves a damaged file and its log out of the way, and returns where to.
pub(super) fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let aside = beside(path, &format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    fs::rename(path, &aside)?;
    // The log goes along, so that the file can be looked into; the index is made anew.
    for (end, keep) in [("-wal", true), ("-shm", false)] {
        let moved = if keep {
            fs::rename(beside(path, end), beside(&aside, end))
        } else {
            fs::remove_file(beside(path, end))
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
