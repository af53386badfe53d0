//! Handing messages in, by SMTP as a web application does: at once, or at a pace.
//!
//! Owns: the sessions with the MTA's own port. Must not: wait for delivery.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::SUBMIT;
use crate::netns::NetNs;
use crate::poll;

/// How fast messages are handed in.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How many in all.
    pub count: usize,
    /// How many each second, over all sessions.
    pub rate: usize,
    /// Over how many sessions at a time.
    pub sessions: usize,
}

/// From whom a message is, and to whom.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Sender.
    pub from: String,
    /// Recipients, a blank between.
    pub to: String,
}

impl From<String> for Envelope {
    fn from(to: String) -> Self {
        Self { from: "sender@example.com".into(), to }
    }
}

/// Sessions that hand in messages.
#[derive(Debug)]
pub struct Submitting(Vec<JoinHandle<Result<()>>>);

impl Submitting {
    /// Waits until all messages are handed in.
    ///
    /// # Errors
    /// When one was not taken.
    pub fn finish(self) -> Result<()> {
        for session in self.0 {
            session.join().map_err(|_| anyhow!("a session panicked"))??;
        }
        Ok(())
    }
}

/// Hands in `count` messages at this address over one session, as fast as they are taken.
pub(super) fn at_once(
    ns: &NetNs,
    at: &str,
    count: usize,
    envelope: impl Fn(usize) -> Envelope + Sync,
) -> Result<()> {
    ns.run(|| -> Result<()> {
        let mut session = Session::open(at)?;
        (0..count).try_for_each(|n| session.message(n, &envelope(n)))?;
        session.say("QUIT", "221")
    })?
}

/// Starts to hand in messages, message `n` when it is due.
pub(super) fn at(
    ns: &NetNs,
    pace: Pace,
    to: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Result<Submitting> {
    let (began, to) = (Instant::now(), Arc::new(to));
    let sessions = (0..pace.sessions).map(|first| {
        let to = Arc::clone(&to);
        ns.thread("submit", move || {
            let mut session = Session::open(SUBMIT)?;
            for n in (first..pace.count).step_by(pace.sessions) {
                let due = began + Duration::from_secs_f64(n as f64 / pace.rate as f64);
                let left = due.saturating_duration_since(Instant::now());
                poll::until_true(left + Duration::from_secs(1), "the next message's time", || {
                    Instant::now() >= due
                })?;
                session.message(n, &to(n).into())?;
            }
            session.say("QUIT", "221")
        })
    });
    Ok(Submitting(sessions.collect::<Result<_>>()?))
}

struct Session {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Session {
    fn open(at: &str) -> Result<Self> {
        let address: SocketAddr = at.parse()?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        let mut session = Self { reader: BufReader::new(stream.try_clone()?), writer: stream };
        session.expect("220")?;
        session.say("EHLO lab", "250")?;
        Ok(session)
    }

    fn message(&mut self, n: usize, Envelope { from, to }: &Envelope) -> Result<()> {
        self.say(&format!("MAIL FROM:<{from}>"), "250")?;
        for one in to.split(' ') {
            self.say(&format!("RCPT TO:<{one}>"), "250")?;
        }
        self.say("DATA", "354")?;
        self.say(&format!("Subject: {n}\r\nX-Lab: {n}\r\n\r\nmessage {n}\r\n."), "250")
    }

    fn say(&mut self, line: &str, code: &str) -> Result<()> {
        self.writer.write_all(format!("{line}\r\n").as_bytes())?;
        self.expect(code)
    }

    fn expect(&mut self, code: &str) -> Result<()> {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if !line.starts_with(code) {
                bail!("the MTA said {line:?}, not {code}");
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}
