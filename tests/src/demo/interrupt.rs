//! Ctrl-C: noted, asked for at every wait, so that the demo unwinds and takes everything away.
//!
//! Owns: one flag. Must not: end the process, which would leave an MTA running.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static CAME: AtomicBool = AtomicBool::new(false);

/// How long a pause goes on after the signal, at most.
const GLANCE: Duration = Duration::from_millis(20);

/// Notes SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// When the kernel does not let us.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut int, mut term, mut hup) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
            CAME.store(true, Ordering::Release);
        });
    })?;
    Ok(())
}

/// Whether a signal came.
#[must_use]
pub fn came() -> bool {
    CAME.load(Ordering::Acquire)
}

/// Goes on, unless a signal came.
///
/// # Errors
/// When one did.
pub fn check() -> Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}

/// Lets `span` of the story pass.
///
/// # Errors
/// As [`check`].
pub fn pause(span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(GLANCE));
    }
}
