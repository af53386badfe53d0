//! Load from the mail host: what to ask of the `lab-load` program, and its answer.
//!
//! Owns: the words of that dialogue, and the child's life. Must not: connect itself. It takes a process of its own,
//! since the user of a connection is the credential at `socket()`, and a test process must stay root.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::netns::NetNs;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Connections per second, started whether the earlier ones have ended or not.
    pub rate: u32,
    /// How many in all; 0: until stopped.
    pub count: u64,
    /// User to become before the first socket.
    pub uid: u32,
    /// Group to become before the first socket.
    pub gid: u32,
    /// Address to bind, such as a tag.
    pub bind: Option<IpAddr>,
    /// Packet mark of each socket; only root may set one, so `uid` has to be 0.
    pub mark: Option<u32>,
    /// Receivers, used in turn.
    pub to: Vec<IpAddr>,
    /// Port to connect to.
    pub port: u16,
    /// cgroup to enter first.
    pub cgroup: Option<PathBuf>,
    /// How long to hold each connection after the banner.
    pub hold_ms: u64,
    /// How long connecting and the banner may take.
    pub timeout_ms: u64,
    /// Instead: this many connections with constant data both ways, until stopped.
    pub live: u32,
    /// Instead of a rate: this many at a time, and when one ends the next begins.
    pub parallel: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rate: 100,
            count: 100,
            uid: 65534,
            gid: 65534,
            bind: None,
            mark: None,
            to: Vec::new(),
            port: 25,
            cgroup: None,
            hold_ms: 0,
            timeout_ms: 10_000,
            live: 0,
            parallel: 0,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections tried.
    pub attempts: u64,
    /// Those that got a banner which is none of 4xx or 5xx (live: those still open at the end).
    pub ok: u64,
    /// The others, by errno name or what else went wrong.
    pub failed: BTreeMap<String, u64>,
    /// Milliseconds until connected, half of them.
    pub p50_ms: f64,
    /// Milliseconds until connected, 99 % of them.
    pub p99_ms: f64,
    /// Milliseconds until connected, the slowest.
    pub max_ms: f64,
    /// Connections by the address that `getsockname` tells.
    pub local: BTreeMap<IpAddr, u64>,
    /// Those that got a banner, and took longer to connect than a first SYN that is answered: 900 ms.
    pub late: u64,
    /// Seconds from the first start to the last.
    pub seconds: f64,
    /// Live: round trips done.
    pub round_trips: u64,
    /// Live: the longest that any connection waited for its data, in milliseconds.
    pub longest_stall_ms: f64,
}

impl Report {
    /// Both together: of times the longer, of rates the sum.
    pub fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.ok += other.ok;
        self.late += other.late;
        self.round_trips += other.round_trips;
        other.failed.into_iter().for_each(|(error, n)| *self.failed.entry(error).or_default() += n);
        other.local.into_iter().for_each(|(address, n)| *self.local.entry(address).or_default() += n);
        for (own, others) in [
            (&mut self.p50_ms, other.p50_ms),
            (&mut self.p99_ms, other.p99_ms),
            (&mut self.max_ms, other.max_ms),
            (&mut self.seconds, other.seconds),
            (&mut self.longest_stall_ms, other.longest_stall_ms),
        ] {
            *own = own.max(others);
        }
    }

    /// Started connections per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.attempts as f64 / self.seconds } else { 0.0 }
    }
}

/// A running load.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Load {
    /// Starts it inside `ns`.
    ///
    /// # Errors
    /// When the program is not built or cannot start.
    pub fn start(&self, ns: &NetNs) -> Result<Running> {
        self.start_among(ns, None)
    }

    /// The same, as a user of the user namespace that owns `users`: `uid` and `gid` are numbers of that one.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub fn start_among(&self, ns: &NetNs, users: Option<&NetNs>) -> Result<Running> {
        let mut command: Command = ns.command(tool("lab-load")?);
        command.arg(serde_json::to_string(self)?).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(cgroup) = &self.cgroup {
            Cgroup::enter(cgroup, &mut command)?;
        }
        if let Some(users) = users {
            users.as_its_root(&mut command);
        }
        Ok(Running { child: command.spawn().context("cannot start lab-load")? })
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// As [`Load::start`] and [`Running::finish`].
    pub fn run(&self, ns: &NetNs) -> Result<Report> {
        self.start(ns)?.finish()
    }
}

impl Running {
    /// Waits until it is done.
    ///
    /// # Errors
    /// When the program failed.
    pub fn finish(mut self) -> Result<Report> {
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut stdout, &mut text)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("lab-load: {status}");
        }
        serde_json::from_str(&text).with_context(|| format!("lab-load said {text:?}"))
    }

    /// Ends it now: no new connections, the open ones run to their end.
    ///
    /// # Errors
    /// When the program failed.
    pub fn stop(mut self) -> Result<Report> {
        drop(self.child.stdin.take());
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` it has ended, and both calls say so.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A program of this package, found beside the running one.
///
/// # Errors
/// When it is not built.
pub fn tool(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: cargo build -p mailsteer-tests --bins"))
}
