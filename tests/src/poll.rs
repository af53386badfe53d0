//! Waiting for something to become true, with a deadline: the only place of the lab that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Multiplies every deadline: a kernel that is emulated takes its time.
const PATIENCE: &str = "MAILSTEER_TEST_PATIENCE";

fn patience() -> u32 {
    std::env::var(PATIENCE).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Asks `look` again and again until it has an answer.
///
/// # Errors
/// When `within` has passed without one (`what` says what was waited for), or `look` fails.
pub fn until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let within = within * patience();
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`until`] for a condition.
///
/// # Errors
/// When `within` has passed and it still does not hold.
pub fn until_true(within: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(within, what, || Ok(holds().then_some(())))
}
