//! Who we are in the eyes of nf_tables: sockets and child processes whose changes are our own.
//!
//! Owns: the register that the writing side fills and the watch asks. Must not: guess by program name: `nft` run by
//! a stranger is a stranger.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Notifications may come later than the process lives; so many of our last ones stay known.
const REMEMBERED: usize = 16;

/// Sockets and processes of ours. Clones share one register.
#[derive(Clone, Debug, Default)]
pub struct Ours(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    ports: VecDeque<u32>,
    pids: VecDeque<u32>,
}

impl Ours {
    /// A netlink port of ours.
    pub fn add_port(&self, port: u32) {
        remember(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).ports, port);
    }

    /// A child process of ours.
    pub fn add_pid(&self, pid: u32) {
        remember(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).pids, pid);
    }

    /// Whether a change made through this port by this process is ours.
    #[must_use]
    pub fn made(&self, port: u32, pid: Option<u32>) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel gives a program's first socket its pid as port, as its own pid namespace counts, which is also
        // ours; the pid in the notification is as the first namespace counts.
        known.ports.contains(&port)
            || known.pids.contains(&port)
            || pid.is_some_and(|pid| known.pids.contains(&pid))
    }
}

fn remember(list: &mut VecDeque<u32>, entry: u32) {
    if list.contains(&entry) {
        return;
    }
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(entry);
}
