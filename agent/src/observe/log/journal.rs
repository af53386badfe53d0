//! The journal, by a `journalctl` that follows it.
//!
//! Owns: that child: it ends with its owner, and is started again where it ended, later after each failure. Must not: know what
//! an entry says.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mailsteer_core::signal::follow::{Bookmark, Entry, Stream, entry};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LogError;

/// By its whole path: the agent trusts no `PATH`.
const JOURNALCTL: &str = "/usr/bin/journalctl";
/// The fields that are read.
const FIELDS: &str = "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,_PID";
/// What is read at once.
const CHUNK: usize = 256 << 10;
/// After how long it is started again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Where there is nothing to say it fails sooner.
const STANDS: Duration = Duration::from_secs(2);
/// Its last words are cut.
const SAID: usize = 300;

struct Running {
    since: Instant,
    child: Child,
    out: ChildStdout,
    err: ChildStderr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Follows entries that match.
pub(super) struct Journal {
    /// `FIELD=VALUE`.
    wanted: String,
    bookmark: Bookmark,
    running: Option<Running>,
    lines: Stream,
    /// When it may be started again, and after how long if it fails again.
    again: Option<(Instant, Duration)>,
    buffer: Vec<u8>,
}

impl Journal {
    pub(super) fn new(wanted: String, of: &str, before: Option<Bookmark>) -> Self {
        let before = before.filter(|before| before.of == of);
        let bookmark = before.unwrap_or_else(|| Bookmark { of: of.to_owned(), ..Bookmark::default() });
        Self {
            wanted,
            bookmark,
            running: None,
            lines: Stream::default(),
            again: None,
            buffer: vec![0; CHUNK],
        }
    }

    pub(super) fn bookmark(&self) -> Bookmark {
        self.bookmark.clone()
    }

    /// Whether it runs longer than one does that fails.
    pub(super) fn is_up(&self) -> bool {
        self.running.as_ref().is_some_and(|running| self.again.is_none() && running.since.elapsed() >= STANDS)
    }

    /// Hands out entries; waits for them as long as `patience`. Says whether there are more.
    pub(super) fn read(
        &mut self,
        patience: Duration,
        take: &mut impl FnMut(&Entry),
    ) -> Result<bool, LogError> {
        if self.running.is_none() {
            if self.again.is_some_and(|(at, _)| Instant::now() < at) {
                std::thread::sleep(patience);
                return Ok(false);
            }
            self.start()?;
        }
        let Some(running) = &mut self.running else { return Ok(false) };
        let wait = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(running.out.as_fd(), PollFlags::POLLIN)], wait);
        if ready.map_err(io::Error::from)? == 0 {
            if running.since.elapsed() >= STANDS {
                self.again = None;
            }
            return Ok(false);
        }
        let got = running.out.read(&mut self.buffer)?;
        if got == 0 {
            return Err(self.ended());
        }
        let cursor = &mut self.bookmark.cursor;
        self.lines.feed(&self.buffer[..got], &mut |raw| {
            if let Some(found) = entry(raw.text) {
                take(&found);
                *cursor = Some(found.cursor);
            }
        });
        self.again = None;
        Ok(got == self.buffer.len())
    }

    fn start(&mut self) -> Result<(), LogError> {
        if self.bookmark.cursor.is_none() {
            self.bookmark.cursor = last_cursor()?;
        }
        let mut command = journalctl();
        command.args(["--follow", "--no-tail", FIELDS]);
        match &self.bookmark.cursor {
            Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
            // An empty journal.
            None => command.arg("--since=now"),
        };
        command.arg(&self.wanted).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(LogError::NoJournalctl)?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { return Ok(()) };
        fcntl(&err, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        self.lines = Stream::default();
        self.running = Some(Running { since: Instant::now(), child, out, err });
        Ok(())
    }

    fn ended(&mut self) -> LogError {
        let wait = self.again.map_or(AGAIN.0, |(_, wait)| (wait * 2).min(AGAIN.1));
        self.again = Some((Instant::now() + wait, wait));
        let Some(mut running) = self.running.take() else {
            return io::Error::from(io::ErrorKind::NotFound).into();
        };
        let status = running.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut said = [0; 4_096];
        let got = running.err.read(&mut said).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..got]);
        let said: String = said.trim().chars().filter(|c| !c.is_control()).take(SAID).collect();
        LogError::Ended { status, said }
    }
}

fn journalctl() -> Command {
    let mut command = Command::new(JOURNALCTL);
    command
        .env_clear()
        .env("LC_ALL", "C")
        .args(["--quiet", "--no-pager", "--output=json"])
        .stdin(Stdio::null());
    command
}

/// The cursor of the journal's last entry, whatever that is; `None`: there is none.
fn last_cursor() -> Result<Option<String>, LogError> {
    let output = journalctl().args(["--lines=1", FIELDS]).output().map_err(LogError::NoJournalctl)?;
    if !output.status.success() {
        let said =
            String::from_utf8_lossy(&output.stderr).chars().filter(|c| !c.is_control()).take(SAID).collect();
        return Err(LogError::Ended { status: output.status.to_string(), said });
    }
    Ok(entry(output.stdout.trim_ascii_end()).map(|last| last.cursor))
}
