//! Ends connections whose end no program sees: forwarded ones that nobody answered, and ones that fell silent.
//!
//! A connection is counted by who ends it: the programs by setting a bit, the sweep by removing the entry, and only
//! where nothing happened for so long that the two do not meet. What it counts goes to a map of its own, for the
//! programs' counters are per CPU and only they may add to them.

use std::time::Duration;

use aya::maps::MapError;
use mailsteer_ebpf::{
    CONN_DONE, CONN_ESTABLISHED, CONN_FIN_IN, CONN_FIN_OUT, CONN_ORPHAN, Conn, CounterKey, Counters, Event,
    FlowKey, Outcome,
};

use crate::bpf_maps::with_patience;

use super::ReadError;
use super::reader::{Reader, access};

/// A SYN is given up after the longest gap between two of them, and some.
const UNANSWERED: Duration = Duration::from_secs(130);
/// Its socket is closed, and no reset followed.
const ORPHANED: Duration = Duration::from_secs(5);
/// One side has closed and the other never did.
const HALF_CLOSED: Duration = Duration::from_secs(600);
/// Longer than any mail server waits for a command, and longer than TCP's keepalive.
const SILENT: Duration = Duration::from_secs(3 * 3600);
/// Its end is counted, and a SYN sent again would be no new attempt.
const FORGOTTEN: Duration = Duration::from_secs(130);

/// What the sweep makes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It may go on.
    Stay,
    /// It was never answered.
    Unanswered,
    /// It has ended.
    Closed,
    /// Its end was counted before.
    Forget,
}

/// `tick` is [`Moment::running`]'s.
fn fate(conn: &Conn, tick: u64) -> Fate {
    let silent = Duration::from_nanos(tick.saturating_sub(conn.last));
    let has = |bits: u32| conn.flags & bits != 0;
    let (limit, fate) = if has(CONN_DONE) {
        (FORGOTTEN, Fate::Forget)
    } else if !has(CONN_ESTABLISHED) {
        (UNANSWERED, Fate::Unanswered)
    } else if has(CONN_ORPHAN) {
        (ORPHANED, Fate::Closed)
    } else if has(CONN_FIN_IN | CONN_FIN_OUT) {
        (HALF_CLOSED, Fate::Closed)
    } else {
        (SILENT, Fate::Closed)
    };
    if silent > limit { fate } else { Fate::Stay }
}

impl Reader {
    /// Ends what has ended by silence, and returns an event for each attempt that nobody answered. To be called every few
    /// seconds, by one process.
    ///
    /// # Errors
    /// Where a map cannot be read or written; what was ended until then is counted.
    pub fn sweep(&mut self, now: Moment) -> Result<Vec<Event>, ReadError> {
        let mut ended = Vec::new();
        for entry in self.conns.iter() {
            let (key, conn) = entry.map_err(access("CONNS"))?;
            let fate = fate(&conn, now.running);
            if fate != Fate::Stay {
                ended.push((key, conn, fate));
            }
        }
        let mut events = Vec::new();
        for (key, conn, fate) in ended {
            match self.conns.remove(&key) {
                Ok(()) => {}
                // A program was first, and has counted it.
                Err(MapError::KeyNotFound | MapError::ElementNotFound) => continue,
                Err(error) if not_found(&error) => continue,
                Err(error) => return Err(access("CONNS")(error)),
            }
            self.count(&conn, fate)?;
            if fate == Fate::Unanswered {
                events.push(event(&key, &conn, Outcome::Unanswered, now.since_boot));
            }
        }
        Ok(events)
    }

    /// The connections that stand now, as they would be told.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn standing(&self) -> Result<Vec<Event>, ReadError> {
        let mut standing = Vec::new();
        for entry in self.conns.iter() {
            let (key, conn) = entry.map_err(access("CONNS"))?;
            if conn.flags & (CONN_ESTABLISHED | CONN_DONE) == CONN_ESTABLISHED {
                standing.push(event(&key, &conn, Outcome::Established, conn.sent));
            }
        }
        Ok(standing)
    }

    fn count(&mut self, conn: &Conn, fate: Fate) -> Result<(), ReadError> {
        if fate == Fate::Forget {
            return Ok(());
        }
        let key = CounterKey::of_mark(conn.mark);
        let mut sum = self.swept.get(&key, 0).unwrap_or_default();
        let unanswered = u64::from(fate == Fate::Unanswered);
        let (bytes_out, bytes_in) = (conn.bytes_out, conn.bytes_in);
        sum.add(&Counters { closed: 1, unanswered, bytes_out, bytes_in, ..Counters::default() });
        with_patience(|| self.swept.insert(key, sum, 0)).map_err(access("SWEPT"))
    }
}

fn not_found(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(call) if call.io_error.kind() == std::io::ErrorKind::NotFound)
}

fn event(key: &FlowKey, conn: &Conn, outcome: Outcome, decided: u64) -> Event {
    Event {
        started: conn.started,
        decided,
        cookie: conn.cookie,
        cgroup: conn.cgroup,
        daddr: bytes(key.daddr),
        saddr: bytes(key.saddr),
        pid: conn.pid,
        uid: conn.uid,
        mark: conn.mark,
        sport: key.sport,
        local_port: conn.local_port,
        dport: key.dport,
        outcome: outcome as u8,
        retransmits: u8::try_from(conn.retransmits).unwrap_or(u8::MAX),
        gid: conn.gid,
    }
}

/// The bytes of an address whose words hold network byte order.
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    for (place, word) in all.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    all
}

/// One moment by the two clocks of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Nanoseconds of CLOCK_BOOTTIME, by which records are dated.
    pub since_boot: u64,
    /// Nanoseconds of CLOCK_MONOTONIC at the last tick, the clock of [`Conn::last`].
    pub running: u64,
}

impl Moment {
    /// As both clocks are now.
    #[must_use]
    pub fn now() -> Self {
        let running = nanoseconds(libc::CLOCK_MONOTONIC_COARSE);
        Self { since_boot: nanoseconds(libc::CLOCK_BOOTTIME), running }
    }

    /// A later one.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let more = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self { since_boot: self.since_boot.saturating_add(more), running: self.running.saturating_add(more) }
    }
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call fills in; both clocks exist on every kernel that has eBPF.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(flags: u32) -> Conn {
        Conn { flags, last: 1_000, ..Conn::default() }
    }

    fn after(silence: Duration) -> u64 {
        1_000 + u64::try_from(silence.as_nanos()).unwrap()
    }

    #[test]
    fn a_connection_stays_until_its_limit_and_ends_after_it() {
        for (flags, limit, end) in [
            (0, UNANSWERED, Fate::Unanswered),
            (CONN_ESTABLISHED, SILENT, Fate::Closed),
            (CONN_ESTABLISHED | CONN_ORPHAN, ORPHANED, Fate::Closed),
            (CONN_ESTABLISHED | CONN_FIN_OUT, HALF_CLOSED, Fate::Closed),
            (CONN_DONE, FORGOTTEN, Fate::Forget),
            (CONN_DONE | CONN_ESTABLISHED, FORGOTTEN, Fate::Forget),
        ] {
            assert_eq!(fate(&conn(flags), after(limit)), Fate::Stay, "flags {flags}");
            assert_eq!(fate(&conn(flags), after(limit) + 1), end, "flags {flags}");
        }
    }

    #[test]
    fn a_clock_that_jumps_back_ends_nothing() {
        assert_eq!(fate(&conn(0), 0), Fate::Stay);
    }
}
