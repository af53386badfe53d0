//! What the service manager is told, and what it hands over.
//!
//! Owns: the words of sd_notify(3), the socket that was passed in, the signals. Must not: decide when; the loop does,
//! so that a watchdog is fed by the loop's own turns and by nothing else. Without a service manager all of it does
//! nothing.

use std::os::fd::FromRawFd as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, warn};

/// The service manager, if one started us.
#[derive(Debug)]
pub(super) struct Manager {
    watchdog: Option<Duration>,
    said: String,
}

impl Manager {
    /// Reads what it put into the environment.
    pub(super) fn find() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), said: String::new() }
    }

    /// How often it wants to hear from the loop: twice as often as it would take us for hung.
    pub(super) fn pulse(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The agent serves.
    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The config is read again; [`Manager::ready`] ends it.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "no monotonic clock"),
        }
    }

    /// The agent ends; the locks stay.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The loop has come round.
    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// What `systemctl status` shows; said again only where it differs.
    pub(super) fn status(&mut self, sentence: &str) {
        if self.said != sentence {
            sentence.clone_into(&mut self.said);
            tell(&[NotifyState::Status(sentence)]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("the service manager cannot be told: {error}");
    }
}

/// The control socket, where the service manager made it.
///
/// # Errors
/// Where it passed something else than one socket.
pub(super) fn passed_socket() -> Result<Option<UnixListener>> {
    let mut passed = sd_notify::listen_fds().context("cannot read what the service manager passed in")?;
    let Some(first) = passed.next() else { return Ok(None) };
    if passed.next().is_some() {
        bail!("the service manager passed several sockets: mailsteer.socket has one ListenStream=");
    }
    // SAFETY: the service manager passed this descriptor to us and to nobody else (LISTEN_PID is ours), and it is
    // taken once.
    Ok(Some(unsafe { UnixListener::from_raw_fd(first) }))
}

/// The signals that the agent answers to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

impl Signals {
    pub(super) fn watch() -> Result<Self> {
        let watch = |kind, name| signal(kind).with_context(|| format!("cannot watch for {name}"));
        Ok(Self {
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
            hangup: watch(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
