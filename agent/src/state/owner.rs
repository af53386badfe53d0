//! The thread that alone has the database open.
//!
//! Owns: when what is written, and what waits for a disk that does not take it. Must not: know what events or counters
//! mean.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::days::{self, KeptDays};
use super::import;
use super::open::{self, Ready, StateError};
use super::rows::{self, Checkpoint, Heard, Kept, Word};
use super::store::{Common, Damage, Message, lock};
use super::written::{self, Changes};

/// Name of the database in the state directory.
pub(super) const FILE: &str = "mailsteer.db";
/// How often counters are written while they move. With the time between two readings (2 s) and a slow disk it stays
/// below the 10 s that may be lost when the power fails.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// How often a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often old history is looked for.
const RETIRE: Duration = Duration::from_secs(3600);
/// How long the thread waits for something to do.
const TICK: Duration = Duration::from_millis(500);
/// Events that wait for the thread, and those that wait for the disk.
pub(super) const WAITING: usize = 10_000;

/// What the thread has.
pub(super) struct Owner {
    path: PathBuf,
    common: Arc<Common>,
    connection: Option<Connection>,
    /// What could not be read at start must not be written over.
    pub(super) unread: Option<String>,
    /// What stands in the database.
    written: Checkpoint,
    written_heard: Heard,
    waiting: Changes,
    receipts: Vec<oneshot::Sender<Result<(), String>>>,
    /// The file of an earlier agent and its word, until this one has started.
    imported: Option<(PathBuf, Word)>,
    /// That file, to be removed once its word stands in the database.
    taken_over: Option<PathBuf>,
    tried: Option<Instant>,
    retired: Option<Instant>,
}

impl Owner {
    pub(super) fn new(dir: &Path, common: Arc<Common>) -> Self {
        Self {
            path: dir.join(FILE),
            common,
            connection: None,
            unread: None,
            written: Checkpoint::default(),
            written_heard: Heard::default(),
            waiting: Changes::default(),
            receipts: Vec::new(),
            imported: None,
            taken_over: None,
            tried: None,
            retired: None,
        }
    }

    pub(super) fn open(dir: &Path, common: Arc<Common>) -> Result<(Self, Kept), StateError> {
        let mut owner = Self::new(dir, common);
        let mut kept = owner.read()?;
        owner.import(dir, &mut kept);
        owner.write();
        Ok((owner, kept))
    }

    /// Opens the database and reads it; from a damaged one what it still tells.
    fn read(&mut self) -> Result<Kept, StateError> {
        let path = self.path.clone();
        let opened = open::writable(&path, true).and_then(|ready| {
            let kept = rows::read(&ready.connection).map_err(|error| StateError::of(&path, error))?;
            Ok((ready.connection, kept))
        });
        let error = match opened {
            Ok((connection, kept)) => {
                self.connection = Some(connection);
                self.stands(&kept);
                return Ok(kept);
            }
            Err(error) => error,
        };
        match error {
            StateError::Newer { .. } => Err(error),
            StateError::Damaged { cause, .. } => Ok(self.recover(&cause)),
            StateError::Unusable { cause, .. } => match open::read_only(&path) {
                Ok(kept) => {
                    self.stands(&kept);
                    self.failed(&cause);
                    Ok(kept)
                }
                Err(StateError::Damaged { cause, .. }) => Ok(self.recover(&cause)),
                Err(newer @ StateError::Newer { .. }) => Err(newer),
                Err(error) => {
                    self.unread = Some(format!(
                        "what was kept could not be read, suspensions among it, and is not written over: {error}; then \
                         `systemctl restart mailsteer`"
                    ));
                    Ok(Kept::default())
                }
            },
        }
    }

    fn stands(&mut self, kept: &Kept) {
        self.written = kept.checkpoint.clone();
        self.written_heard = kept.heard.clone();
    }

    /// Takes what a damaged database still tells, moves it aside, and lets all of that be written to a new one.
    fn recover(&mut self, cause: &str) -> Kept {
        let (kept, lost) = open::salvage(&self.path);
        self.set_aside(cause, &lost);
        self.waiting.events.clone_from(&kept.events);
        self.waiting.word = Some(kept.word.clone());
        self.waiting.beliefs = Some(kept.beliefs.clone());
        self.waiting.heard = Some(kept.heard.clone());
        self.waiting.checkpoint = Some(kept.checkpoint.clone());
        kept
    }

    fn set_aside(&mut self, cause: &str, lost: &[&str]) {
        self.connection = None;
        (self.written, self.written_heard) = (Checkpoint::default(), Heard::default());
        let path = self.path.display();
        let kept = if lost.is_empty() {
            "all that it held could still be read".to_owned()
        } else {
            format!("lost with it: {}", lost.join(", "))
        };
        let suspensions = if lost.contains(&rows::PARTS[0]) {
            "; suspend again what must not send (`mailsteer suspend SOURCE --reason TEXT`)"
        } else {
            ""
        };
        let what = match open::set_aside(&self.path, Timestamp::now()) {
            Ok(aside) => {
                format!("{path} was damaged ({cause}) and is now {}; {kept}{suspensions}", aside.display())
            }
            Err(error) => {
                format!("{path} is damaged ({cause}) and cannot be moved aside: {error}; {kept}{suspensions}")
            }
        };
        warn!("{what}");
        lock(&self.common.health).damages.push(Damage { what });
    }

    /// Reads what an agent before schema 1 kept of the operator's word.
    fn import(&mut self, dir: &Path, kept: &mut Kept) {
        match import::read(dir) {
            Ok(None) => {}
            Ok(Some(word)) => {
                // What the database says is later.
                let Word { mut suspended, mut bypassed, hold } = word;
                suspended.append(&mut kept.word.suspended);
                bypassed.append(&mut kept.word.bypassed);
                kept.word = Word { suspended, bypassed, hold: kept.word.hold.take().or(hold) };
                self.imported = Some((import::file(dir), kept.word.clone()));
            }
            Err(error) => {
                let path = import::file(dir);
                let what = format!(
                    "{} of an earlier version cannot be read ({error}); suspend again what must not send, and remove it",
                    path.display()
                );
                lock(&self.common.health).damages.push(Damage { what });
            }
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let mut done = None;
            match inbox.recv_timeout(TICK) {
                Ok(message) => {
                    done = self.take(message);
                    while done.is_none() {
                        let Ok(message) = inbox.try_recv() else { break };
                        done = self.take(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some(done) = done {
                self.take_offer();
                self.write();
                self.connection = None;
                let _gone = done.send(());
                return;
            }
            if self.is_due() {
                self.take_offer();
                self.write();
            }
        }
    }

    fn take(&mut self, message: Message) -> Option<SyncSender<()>> {
        match message {
            Message::Event(event) => {
                if self.waiting.events.len() == WAITING {
                    self.waiting.events.remove(0);
                    lock(&self.common.health).lost += 1;
                }
                self.waiting.events.push(*event);
            }
            Message::Word(word, receipt) => {
                if let Some((_, imported)) = &mut self.imported {
                    imported.clone_from(&word);
                }
                self.waiting.word = Some(word);
                self.receipts.push(receipt);
            }
            Message::Days(first, asked) => {
                let _gone = asked.send(self.days(first));
            }
            Message::Heard(beliefs, heard) => {
                self.waiting.beliefs = beliefs.map(|beliefs| *beliefs).or(self.waiting.beliefs.take());
                self.waiting.heard = Some(*heard);
            }
            Message::Started => {
                if let Some((file, word)) = self.imported.take() {
                    self.waiting.word = Some(word);
                    self.taken_over = Some(file);
                }
            }
            Message::Finish(done) => return Some(done),
        }
        None
    }

    fn days(&self, first: Date) -> Result<KeptDays, String> {
        let Some(connection) = &self.connection else {
            let fault = lock(&self.common.health).fault.clone();
            return Err(fault.unwrap_or_else(|| "the state database is not open".to_owned()));
        };
        days::since(connection, first).map_err(|error| error.to_string())
    }

    /// Whether the operator waits, an event came, counters are due, or a disk that failed is to be tried again.
    fn is_due(&self) -> bool {
        let since = self.tried.map(|tried| tried.elapsed());
        let failing = self.unread.is_some() || lock(&self.common.health).fault.is_some();
        if !self.receipts.is_empty() {
            return true;
        }
        if failing {
            return since.is_none_or(|since| since >= RETRY);
        }
        self.waiting.is_urgent() || self.begins_a_log() || since.is_none_or(|since| since >= CHECKPOINT)
    }

    /// Whether a log is followed of which no row tells where that began: killed before it is kept, the next agent would begin
    /// at the log's end.
    fn begins_a_log(&self) -> bool {
        let stands = |name: &String, of: &str| {
            self.written_heard.logs.get(name).is_some_and(|log| log.bookmark.of == of)
        };
        let heard = self.waiting.heard.iter().flat_map(|heard| &heard.logs);
        heard.into_iter().any(|(name, log)| !stands(name, &log.bookmark.of))
    }

    fn take_offer(&mut self) {
        if let Some(offered) = lock(&self.common.checkpoint).take()
            && offered != self.written
        {
            self.waiting.checkpoint = Some(offered);
        }
    }

    /// Tries to write all that waits; keeps it where that fails.
    fn write(&mut self) {
        self.tried = Some(Instant::now());
        lock(&self.common.health).writing = self.tried;
        let written = self.try_write();
        lock(&self.common.health).writing = None;
        let answer = match written {
            Ok(()) => {
                self.succeeded();
                Ok(())
            }
            Err(StateError::Damaged { cause, .. }) => {
                // All that is needed is in memory, but for old events.
                self.set_aside(&cause, &rows::PARTS[5..]);
                self.tried = None;
                Err(cause)
            }
            Err(StateError::Unusable { cause, .. }) => {
                self.connection = None;
                self.failed(&cause);
                Err(cause)
            }
            Err(error) => {
                self.connection = None;
                self.failed(&error.to_string());
                Err(error.to_string())
            }
        };
        for receipt in self.receipts.drain(..) {
            let _gone = receipt.send(answer.clone());
        }
    }

    fn try_write(&mut self) -> Result<(), StateError> {
        if let Some(unread) = &self.unread {
            let source = rusqlite::Error::InvalidQuery;
            return Err(StateError::Unusable { path: self.path.clone(), cause: unread.clone(), source });
        }
        let path = self.path.clone();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let Ready { connection, fresh } = open::writable(&path, false)?;
                if fresh {
                    // Another file than the one that was read: all of it has to be written.
                    if self.written != Checkpoint::default() {
                        let all = std::mem::take(&mut self.written);
                        self.waiting.checkpoint.get_or_insert(all);
                    }
                    let heard = std::mem::take(&mut self.written_heard);
                    self.waiting.heard.get_or_insert(heard);
                }
                self.connection.insert(connection)
            }
        };
        let failed = |error| StateError::of(&path, error);
        if !self.waiting.is_empty() {
            written::write(connection, &self.waiting, (&self.written, &self.written_heard), Timestamp::now())
                .map_err(failed)?;
        }
        let done = std::mem::take(&mut self.waiting);
        if let Some(checkpoint) = done.checkpoint {
            self.written = checkpoint;
        }
        if let Some(heard) = done.heard {
            self.written_heard = heard;
        }
        if self.retired.is_none_or(|at| at.elapsed() >= RETIRE) {
            self.retired = Some(Instant::now());
            let keep = *lock(&self.common.keep);
            written::retire(connection, keep, Timestamp::now()).map_err(failed)?;
        }
        Ok(())
    }

    fn succeeded(&mut self) {
        let before = lock(&self.common.health).fault.take();
        if before.is_some() {
            info!("{} is written again", self.path.display());
        }
        if let Some(file) = self.taken_over.take()
            && let Err(error) = std::fs::remove_file(&file)
        {
            warn!("{} was taken over and cannot be removed: {error}", file.display());
        }
    }

    /// Says a cause once, as long as it stays the same.
    fn failed(&self, cause: &str) {
        let fault = format!("state is kept in memory only: {}: {cause}", self.path.display());
        let before = lock(&self.common.health).fault.replace(fault.clone());
        if before.as_deref() != Some(&fault) {
            warn!("{fault}");
        }
    }
}
