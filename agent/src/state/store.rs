//! The handle by which everybody speaks to the thread that has the database open.
//!
//! Owns: what can be asked of that thread, and what is said of it. Nothing here makes the caller wait but the end: events
//! go through a bounded channel, of checkpoints only the newest counts. Must not: touch the database (`owner`), or know
//! what events or counters mean.

use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::civil::Date;
use mailsteer_core::config::Retention;
use mailsteer_core::decide::Beliefs;
use tokio::sync::oneshot;
use tracing::warn;

use super::days::KeptDays;
use super::open::{self, StateError};
use super::owner::{FILE, Owner, WAITING};
use super::rows::{Checkpoint, Heard, Kept, Word};
use crate::api::view::EventRow;

/// A write that takes longer is a disk that hangs.
const HANGS: Duration = Duration::from_secs(10);
/// How long an orderly stop waits for the last write.
const LAST: Duration = Duration::from_secs(5);
/// How long between two tries to hand in the last word.
const PAUSE: Duration = Duration::from_millis(5);

/// What an orderly answer to "was it kept?" is.
pub type Receipt = oneshot::Receiver<Result<(), String>>;

/// What the thread is told.
pub(super) enum Message {
    Event(Box<EventRow>),
    Word(Word, oneshot::Sender<Result<(), String>>),
    Days(Date, oneshot::Sender<Result<KeptDays, String>>),
    Heard(Option<Box<Beliefs>>, Box<Heard>),
    Started,
    Finish(SyncSender<()>),
}

/// What the thread lets others see.
#[derive(Default)]
pub(super) struct Health {
    pub(super) fault: Option<String>,
    pub(super) writing: Option<Instant>,
    pub(super) damages: Vec<Damage>,
    /// Events that neither thread nor disk took.
    pub(super) lost: u64,
}

/// A damaged database that was moved aside, or could not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In words: what, where it is now, and what could not be read from it.
    pub what: String,
}

/// What handle and thread share.
#[derive(Default)]
pub(super) struct Common {
    pub(super) health: Mutex<Health>,
    pub(super) checkpoint: Mutex<Option<Checkpoint>>,
    pub(super) keep: Mutex<Retention>,
}

/// The handle.
pub struct Store {
    common: Arc<Common>,
    messages: SyncSender<Message>,
}

impl Store {
    /// Opens what is kept in a directory and starts the thread. Whatever the disk does, there is a store; what it
    /// could not read or cannot write is said by [`Store::fault`] and [`Store::damages`].
    ///
    /// # Errors
    /// [`StateError::Newer`], and no other: a newer version's state is not for this one to touch.
    pub fn open(dir: &Path, keep: Retention) -> Result<(Self, Kept), StateError> {
        let common = Arc::new(Common { keep: Mutex::new(keep), ..Common::default() });
        let (owner, kept) = Owner::open(dir, Arc::clone(&common))?;
        Ok((Self::start(owner, common), kept))
    }

    /// As [`Store::open`], for the boot, at which no lock at all would be worse than any state: of a newer version's, what
    /// can be read is in force, and nothing is written.
    #[must_use]
    pub fn open_at_boot(dir: &Path, keep: Retention) -> (Self, Kept) {
        let common = Arc::new(Common { keep: Mutex::new(keep), ..Common::default() });
        match Owner::open(dir, Arc::clone(&common)) {
            Ok((owner, kept)) => (Self::start(owner, common), kept),
            Err(newer) => {
                let mut owner = Owner::new(dir, Arc::clone(&common));
                warn!("{newer}");
                owner.unread = Some(newer.to_string());
                (Self::start(owner, common), open::salvage(&dir.join(FILE)).0)
            }
        }
    }

    fn start(owner: Owner, common: Arc<Common>) -> Self {
        let (messages, inbox) = sync_channel(WAITING);
        let spawned = thread::Builder::new().name("state".to_owned()).spawn(move || owner.run(&inbox));
        if let Err(error) = spawned {
            lock(&common.health).fault = Some(format!("state is not kept: no thread for it: {error}"));
        }
        Self { common, messages }
    }

    /// Keeps an event.
    pub fn event(&self, event: &EventRow) {
        if let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Event(Box::new(event.clone()))) {
            lock(&self.common.health).lost += 1;
        }
    }

    /// Keeps what the operator said, all of it; the receipt says whether it stands on the disk.
    pub fn word(&self, word: Word) -> Receipt {
        let (sender, receipt) = oneshot::channel();
        if let Err(error) = self.messages.try_send(Message::Word(word, sender)) {
            let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = error;
            if let Message::Word(_, sender) = message {
                let _gone = sender.send(Err("the state database does not answer".to_owned()));
            }
        }
        receipt
    }

    /// Keeps what was heard, all of it, and where they changed the beliefs that followed from it: in one transaction, and in
    /// the order in which they are given, so that nothing is believed twice of one line. Beliefs are written at once, what
    /// was heard with the counters. Where the thread does not take it, the next change brings it again.
    pub fn heard(&self, beliefs: Option<Beliefs>, heard: Heard) {
        let _next_time = self.messages.try_send(Message::Heard(beliefs.map(Box::new), Box::new(heard)));
    }

    /// What addresses did from a day on, as far as it was written.
    pub fn days(&self, first: Date) -> oneshot::Receiver<Result<KeptDays, String>> {
        let (sender, receiver) = oneshot::channel();
        // Where the thread does not take it, the receiver hears of its end.
        let _busy = self.messages.try_send(Message::Days(first, sender));
        receiver
    }

    /// The agent steers. What an earlier version kept is taken over only now: where a start fails, that version is gone
    /// back to, and finds it.
    pub fn started(&self) {
        // Where the thread does not take it, the next start does it.
        let _next_time = self.messages.try_send(Message::Started);
    }

    /// Offers what was counted. Only the newest is written.
    pub fn offer(&self, checkpoint: Checkpoint) {
        *lock(&self.common.checkpoint) = Some(checkpoint);
    }

    /// How much history is kept from now on.
    pub fn retain(&self, keep: Retention) {
        *lock(&self.common.keep) = keep;
    }

    /// Why state is not written, and what to do; `None` where it is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let health = lock(&self.common.health);
        let hangs = health.writing.filter(|since| since.elapsed() > HANGS);
        let hanging = hangs.map(|since| {
            format!(
                "state is kept in memory only: its disk has not answered for {} s",
                since.elapsed().as_secs()
            )
        });
        let lost = match health.lost {
            0 => String::new(),
            n => format!(" ({n} events could not be kept)"),
        };
        hanging.or_else(|| health.fault.clone()).map(|fault| fault + &lost)
    }

    /// Damage found since this was last asked.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        std::mem::take(&mut lock(&self.common.health).damages)
    }

    /// Writes all that waits and closes the database; gives up after some seconds.
    pub fn finish(&self, last: Checkpoint) {
        self.offer(last);
        let (sender, done) = sync_channel(1);
        // A full channel empties as long as the thread lives.
        let asked = Instant::now();
        while let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Finish(sender.clone())) {
            if asked.elapsed() > LAST {
                break;
            }
            thread::sleep(PAUSE);
        }
        drop(sender);
        if done.recv_timeout(LAST).is_err() {
            warn!(
                "the state database did not take the last counts in {} s; they are still in the kernel",
                LAST.as_secs()
            );
        }
    }
}

/// A panic elsewhere does not make what is kept wrong.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
