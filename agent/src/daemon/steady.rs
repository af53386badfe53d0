//! Time that goes on whatever becomes of the clock.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// A clock that nobody can set.
pub(super) struct Steady {
    began: Timestamp,
    since: Instant,
}

impl Steady {
    /// Begins at what the host's clock says.
    pub(super) fn begin() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.began.checked_add(passed).unwrap_or(self.began)
    }
}
