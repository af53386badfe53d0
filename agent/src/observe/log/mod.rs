//! Logs of MTAs, as they grow.
//!
//! Owns: reading files and the journal, and what a failure to do so means in words. Must not: say which lines were read before
//! (the core's follower and the journal's cursor do), or know which connection a delivery was.
//!
//! Files are looked at four times a second, and not watched by inotify: two `stat`s of a file cost microseconds, hold where
//! notifications do not come (network and overlay file systems, bind mounts of single files), and nothing is lost with them.

mod files;
mod journal;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::config::{Log, LogPlace};
use mailsteer_core::signal::follow::{Bookmark, Follower, Format, Loss};
use mailsteer_core::signal::log::{self, Delivery, LogCounts, Mta, Sessions};
use thiserror::Error;

use files::Directory;
use journal::Journal;

/// How long a look waits where there is nothing to read.
pub const LOOK: Duration = Duration::from_millis(250);
/// What is read at once: some thousands of lines, which take milliseconds.
const BUDGET: usize = 1 << 20;

/// Why a log is not read.
#[derive(Debug, Error)]
pub enum LogError {
    /// No file bears its name.
    #[error("there is no such file: let the MTA or syslog write it, or write another path into `[log]`")]
    NoFile,
    /// It may not be read.
    #[error(
        "{0}: let the agent's user read it: the unit has the groups `adm` and `systemd-journal` (docs/operating.md, \
         \"Following logs\")"
    )]
    Denied(#[source] io::Error),
    /// It is none.
    #[error("it is no file that can be followed: {0}")]
    NoLog(&'static str),
    /// It cannot be read.
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// journalctl cannot be started.
    #[error("journalctl cannot be started: {0}")]
    NoJournalctl(#[source] io::Error),
    /// journalctl ended.
    #[error("journalctl ended ({status}): {said}")]
    Ended {
        /// How.
        status: String,
        /// Its last words.
        said: String,
    },
}

impl LogError {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied(error),
            io::ErrorKind::InvalidInput => Self::NoLog("it is a directory, a pipe or a device"),
            _ => Self::Failed(error),
        }
    }
}

/// What one look came to.
#[derive(Debug, Default)]
pub struct Batch {
    /// What receivers said.
    pub deliveries: Vec<Delivery>,
    /// What was counted.
    pub counts: LogCounts,
    /// How far the log is taken in with this batch.
    pub bookmark: Bookmark,
    /// Bytes that are not read yet; `None`: nobody knows.
    pub behind: Option<u64>,
    /// There is more to read now.
    pub more: bool,
    /// It is being read: nothing keeps anybody from it.
    pub up: bool,
    /// What nobody will read.
    pub lost: Vec<Loss>,
}

enum Place {
    Files(Box<Follower<Directory>>),
    Journal(Box<Journal>),
}

/// Reads one log.
pub struct Reader {
    mta: Mta,
    container: bool,
    zone: TimeZone,
    sessions: Sessions,
    place: Place,
}

impl Reader {
    /// Goes on where a bookmark lies. Nothing is opened yet.
    #[must_use]
    pub fn new(log: &Log, before: Option<&Bookmark>) -> Self {
        let of = log.place.to_string();
        let files = |path: &str, format| {
            let folder = Directory::of(Path::new(path));
            Place::Files(Box::new(Follower::new(folder, &of, format, before.cloned())))
        };
        let journal = |wanted: String| Place::Journal(Box::new(Journal::new(wanted, &of, before.cloned())));
        let place = match &log.place {
            LogPlace::File(path) => files(path, Format::Plain),
            LogPlace::ContainerFile(path) => files(path, Format::Container),
            LogPlace::Journal(wanted) => journal(wanted.clone()),
            LogPlace::ContainerJournal(name) => journal(format!("CONTAINER_NAME={name}")),
        };
        Self {
            mta: log.mta,
            container: log.place.is_container(),
            zone: TimeZone::system(),
            sessions: Sessions::default(),
            place,
        }
    }

    /// Reads what is there; waits up to [`LOOK`] where it is a journal and there is nothing.
    ///
    /// # Errors
    /// It cannot be read now; the next call tries again.
    pub fn read(&mut self) -> Result<Batch, LogError> {
        let (mta, container, zone, now) = (self.mta, self.container, &self.zone, Timestamp::now());
        let mut batch = Batch::default();
        let (deliveries, counts, sessions) = (&mut batch.deliveries, &mut batch.counts, &mut self.sessions);
        match &mut self.place {
            Place::Files(follower) => {
                let polled = follower.poll(BUDGET, &mut |raw| {
                    let line = log::read(mta, raw.text, zone, now);
                    let line =
                        if container { line.told_at(raw.time.parse().ok()).in_container() } else { line };
                    deliveries.extend(counts.take(sessions.complete(line)));
                });
                counts.read(polled.read);
                // What was read before an error is taken in first; the error comes again.
                if polled.read.lines == 0 && polled.lost.is_empty() {
                    match polled.error {
                        Some(error) => return Err(LogError::of(error)),
                        None if !polled.there => return Err(LogError::NoFile),
                        None => {}
                    }
                }
                batch.up = true;
                (batch.behind, batch.more, batch.lost) = (Some(polled.behind), polled.more, polled.lost);
                batch.bookmark = follower.bookmark();
            }
            Place::Journal(journal) => {
                batch.more = journal.read(LOOK, &mut |entry| {
                    let line = if container {
                        let text = entry.message.as_deref().unwrap_or_default();
                        log::read(mta, text, zone, now).told_at(entry.at).in_container()
                    } else {
                        log::read_entry(mta, entry, zone, now)
                    };
                    counts.lines += 1;
                    deliveries.extend(counts.take(sessions.complete(line)));
                })?;
                batch.up = journal.is_up();
                batch.bookmark = journal.bookmark();
            }
        }
        batch.counts.missed = batch.lost.len() as u64;
        Ok(batch)
    }

    /// Whether a look waits by itself.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self.place, Place::Journal(_))
    }
}
