//! The last of something, kept in memory, with a way to follow what comes.
//!
//! Owns: a bounded ring and its followers. Must not: persist; that is the state database's business.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// How far a follower may fall behind before it misses entries (and is told so).
const FOLLOWER_BACKLOG: usize = 4096;

/// The last `capacity` entries.
pub(super) struct Journal<T> {
    entries: Mutex<VecDeque<T>>,
    capacity: usize,
    followers: broadcast::Sender<T>,
}

impl<T: Clone> Journal<T> {
    /// An empty one.
    #[must_use]
    pub(super) fn new(capacity: usize) -> Self {
        let (followers, _) = broadcast::channel(FOLLOWER_BACKLOG);
        Self { entries: Mutex::new(VecDeque::with_capacity(capacity.min(1024))), capacity, followers }
    }

    /// Adds an entry and tells the followers.
    pub(super) fn add(&self, entry: T) {
        {
            let mut entries = self.lock();
            if entries.len() == self.capacity {
                entries.pop_front();
            }
            entries.push_back(entry.clone());
        }
        // Nobody following is no error.
        let _receivers = self.followers.send(entry);
    }

    /// The last `count` entries, oldest first.
    #[must_use]
    pub(super) fn last(&self, count: usize) -> Vec<T> {
        let entries = self.lock();
        entries.iter().skip(entries.len().saturating_sub(count)).cloned().collect()
    }

    /// The last `count` entries and everything that comes after them.
    pub(super) fn follow(&self, count: usize) -> (Vec<T>, broadcast::Receiver<T>) {
        let entries = self.lock();
        let receiver = self.followers.subscribe();
        (entries.iter().skip(entries.len().saturating_sub(count)).cloned().collect(), receiver)
    }

    /// A panic elsewhere does not make the entries wrong.
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_tells_followers() {
        let journal = Journal::new(2);
        journal.add(1);
        let (seen, mut coming) = journal.follow(5);
        assert_eq!(seen, [1]);
        journal.add(2);
        journal.add(3);
        assert_eq!(journal.last(5), [2, 3]);
        assert_eq!(journal.last(1), [3]);
        assert_eq!((coming.try_recv().unwrap(), coming.try_recv().unwrap()), (2, 3));
    }
}
