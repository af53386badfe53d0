//! The time of day against the time since boot: when something was, and by how much the clock jumped.
//!
//! Owns: reading both clocks, and the note by which a later agent of the same boot sees a jump that happened while none
//! ran. Must not: say what a jump means. The time since boot also counts while the host sleeps, and nobody can set it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::debug;

/// Less is no jump: a leap second, and what daemons that slew the clock do between two looks.
const JUMP: SignedDuration = SignedDuration::from_secs(1);
/// Two clocks are not read at once. A reading between which and the next this much passed says nothing.
const APART: SignedDuration = SignedDuration::from_millis(100);
/// Two clocks are read at once where no more passes between them.
const CLOSE: SignedDuration = SignedDuration::from_micros(20);
/// So often is tried to read both close together.
const TRIES: usize = 5;

/// Time that goes on whatever becomes of the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    began: Timestamp,
    since: Instant,
}

impl Steady {
    /// From now on.
    pub(super) fn begin() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.began.checked_add(passed).unwrap_or(self.began)
    }
}

/// The time of day at boot, by which times since boot become times of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Clock {
    boot: Timestamp,
}

impl Clock {
    /// As both clocks are now, by the closest of some readings: a thread that has to wait between two clocks reads them apart.
    pub(super) fn now() -> Self {
        let read = || {
            let (before, now, after) = (since_boot(), Timestamp::now(), since_boot());
            let apart = after.saturating_sub(before);
            (apart, Self { boot: now.checked_sub(before + apart / 2).unwrap_or(now) })
        };
        let mut best = read();
        for _ in 1..TRIES {
            if best.0 < CLOSE {
                break;
            }
            best = std::cmp::min_by_key(best, read(), |(apart, _)| *apart);
        }
        best.1
    }

    /// The same, where both were read close together.
    fn exactly() -> Option<Self> {
        let read = || {
            let (before, now, after) = (since_boot(), Timestamp::now(), since_boot());
            let boot = now.checked_sub(before).ok()?;
            (after.saturating_sub(before) < APART).then_some(Self { boot })
        };
        (0..TRIES).find_map(|_| read())
    }

    /// The time of day of a time since boot, in nanoseconds.
    pub(super) fn at(self, nanoseconds: u64) -> Timestamp {
        let since_boot = SignedDuration::from_nanos(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
        self.boot.checked_add(since_boot).unwrap_or(self.boot)
    }

    /// By how much the time of day jumped between two readings.
    fn jump(self, later: Self) -> Option<SignedDuration> {
        let by = later.boot.duration_since(self.boot);
        (by.abs() > JUMP).then_some(by)
    }
}

fn since_boot() -> SignedDuration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(SignedDuration::ZERO, |time| {
        SignedDuration::new(time.tv_sec(), i32::try_from(time.tv_nsec()).unwrap_or_default())
    })
}

/// Sees jumps. Each is seen once.
#[derive(Debug)]
pub(super) struct Jumps {
    last: Option<Clock>,
}

impl Jumps {
    /// From now on.
    pub(super) fn watch() -> Self {
        Self { last: Clock::exactly() }
    }

    /// Whether a look would see one.
    pub(super) fn is_due(&self) -> bool {
        self.last.zip(Clock::exactly()).is_some_and(|(last, now)| last.jump(now).is_some())
    }

    /// The jump since the last look; below 0 where the clock went back.
    pub(super) fn look(&mut self) -> Option<SignedDuration> {
        let now = Clock::exactly()?;
        self.last.replace(now)?.jump(now)
    }
}

/// What is noted for a later agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Note {
    /// Which boot it is of: the time since boot begins anew with each.
    boot_id: String,
    /// The time of day at boot, by the clock as it went then.
    boot: Timestamp,
}

/// The note in the state directory. Where it cannot be written, a jump while no agent runs passes for time.
#[derive(Debug)]
pub(super) struct Noted {
    file: PathBuf,
    last: Option<Note>,
}

impl Noted {
    /// Reads what an earlier agent noted.
    pub(super) fn open(state: &Path) -> Self {
        let file = state.join("clock.json");
        let last = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { file, last }
    }

    /// The jump since it was noted, if that was in this boot.
    pub(super) fn jump(&self) -> Option<SignedDuration> {
        let (last, now) = (self.last.as_ref()?, note()?);
        let same_boot = last.boot_id == now.boot_id;
        Clock { boot: last.boot }.jump(Clock { boot: now.boot }).filter(|_| same_boot)
    }

    /// Notes how the clocks are now, unless it is known. Nobody waits for the disk.
    pub(super) fn keep(&mut self) {
        if self.last.is_some() && self.jump().is_none() && self.of_this_boot() {
            return;
        }
        self.last = note();
        let (file, Ok(text)) = (self.file.clone(), serde_json::to_vec(&self.last)) else { return };
        tokio::task::spawn_blocking(move || {
            // Beside and renamed: a full disk must not leave half a note.
            let next = file.with_extension("json.next");
            if let Err(error) = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &file)) {
                debug!("{}: {error}", file.display());
            }
        });
    }

    fn of_this_boot(&self) -> bool {
        self.last.as_ref().map(|last| &last.boot_id) == boot_id().as_ref()
    }
}

fn note() -> Option<Note> {
    Some(Note { boot_id: boot_id()?, boot: Clock::exactly()?.boot })
}

fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn booted(second: i64) -> Clock {
        Clock { boot: Timestamp::from_second(second).unwrap_or_default() }
    }

    #[test]
    fn a_jump_has_a_direction_and_a_leap_second_is_none() {
        assert_eq!(booted(1_000).jump(booted(87_400)), Some(SignedDuration::from_hours(24)));
        assert_eq!(booted(87_400).jump(booted(1_000)), Some(SignedDuration::from_hours(-24)));
        assert_eq!(booted(1_000).jump(booted(1_001)), None);
    }

    #[test]
    fn nothing_jumps_while_nobody_sets_the_clock() {
        let mut jumps = Jumps::watch();
        assert_eq!((jumps.look(), jumps.look()), (None, None));
    }

    #[test]
    fn a_note_of_another_boot_says_nothing() {
        let note = |boot_id: Option<String>| Noted {
            file: PathBuf::new(),
            last: boot_id.map(|boot_id| Note { boot_id, boot: Timestamp::UNIX_EPOCH }),
        };
        assert!(note(boot_id()).jump().is_some_and(|by| by.is_positive()));
        assert_eq!(note(Some("another".to_owned())).jump(), None);
        assert_eq!(note(None).jump(), None);
    }
}
