//! Connections as fast as they go, for a moment: what to ask of the `lab-burst` program, and what it does.
//!
//! Owns: the dialogue with a child that stays, since a user's process is not made within a burst, and the connections. Must
//! not: wait for anything but the far end: connect, read its greeting, close: the shortest that mail knows.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::load::tool;
use crate::scene::MAIL;

/// One burst.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Burst {
    /// Threads, each with one connection at a time.
    pub threads: usize,
    /// For how long new ones are begun.
    pub millis: u64,
    /// Receivers, used in turn.
    pub to: Vec<IpAddr>,
    /// Their port.
    pub port: u16,
}

/// What the child is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Connections.
    Connections(Burst),
    /// Datagrams to a port that nobody listens at: packets that are none of mailsteer's.
    Datagrams {
        /// The receiver.
        to: IpAddr,
        /// How many.
        count: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Connections that were made, or datagrams that were sent.
    pub connections: u64,
    /// Those that failed.
    pub failed: u64,
    /// Why the last of them did.
    pub why: String,
    /// Seconds from the first to the end of the last.
    pub seconds: f64,
    /// Microseconds until connected, half of them.
    pub p50_us: f64,
    /// Microseconds until connected, 99 % of them.
    pub p99_us: f64,
}

/// The child.
pub(super) struct Worker {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// On the mail host, as the user whose mail is steered, in the lab's cgroup.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.mail.command(tool("lab-burst")?);
        command.arg(MAIL.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Cgroup::enter(lab.cgroup()?, &mut command)?;
        let mut child = command.spawn().context("cannot start lab-burst")?;
        let (ask, answers) = (child.stdin.take(), child.stdout.take());
        let (ask, answers) = ask.zip(answers).context("no dialogue")?;
        Ok(Self { child, ask, answers: BufReader::new(answers) })
    }

    pub(super) fn burst(&mut self, burst: &Burst) -> Result<Done> {
        self.ask(&Ask::Connections(burst.clone()))
    }

    /// Says how many were sent.
    pub(super) fn datagrams(&mut self, to: IpAddr, count: u64) -> Result<u64> {
        Ok(self.ask(&Ask::Datagrams { to, count })?.connections)
    }

    fn ask(&mut self, ask: &Ask) -> Result<Done> {
        writeln!(self.ask, "{}", serde_json::to_string(ask)?)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("lab-burst said {answer:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Does in this process what was asked for.
///
/// # Errors
/// When a thread or a socket cannot be had.
pub fn run(ask: &Ask) -> Result<Done> {
    match ask {
        Ask::Connections(burst) => connections(burst),
        Ask::Datagrams { to, count } => datagrams(*to, *count),
    }
}

fn connections(burst: &Burst) -> Result<Done> {
    let began = Instant::now();
    let threads: Vec<_> = (0..burst.threads)
        .map(|first| {
            let burst = burst.clone();
            thread::spawn(move || connect(&burst, first, began))
        })
        .collect();
    let (mut done, mut times) = (Done::default(), Vec::new());
    for thread in threads {
        let (one, its_times) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        done.failed += one.failed;
        done.why = if one.why.is_empty() { done.why } else { one.why };
        times.extend(its_times);
    }
    done.seconds = began.elapsed().as_secs_f64();
    done.connections = times.len() as u64 + done.failed;
    times.sort_unstable();
    let at =
        |part: f64| times.get((times.len() as f64 * part) as usize).map_or(0.0, |t| t.as_secs_f64() * 1e6);
    (done.p50_us, done.p99_us) = (at(0.5), at(0.99));
    Ok(done)
}

fn connect(burst: &Burst, first: usize, began: Instant) -> (Done, Vec<Duration>) {
    let (mut done, mut times) = (Done::default(), Vec::with_capacity(8192));
    let until = began + Duration::from_millis(burst.millis);
    // Threads begin at different receivers, so that they do not follow each other.
    let start = first * burst.to.len() / burst.threads.max(1);
    for to in burst.to.iter().cycle().skip(start) {
        let asked = Instant::now();
        if asked >= until {
            break;
        }
        match TcpStream::connect_timeout(&SocketAddr::new(*to, burst.port), Duration::from_secs(5)) {
            Ok(mut stream) => {
                let took = asked.elapsed();
                // The greeting, then the end: the sink closes first, so that the port is free again on this side.
                match greeted(&mut stream) {
                    Ok(()) => times.push(took),
                    Err(error) => (done.failed, done.why) = (done.failed + 1, error.to_string()),
                }
            }
            Err(error) => {
                done.failed += 1;
                done.why = error.to_string();
            }
        }
    }
    (done, times)
}

/// Reads until the far end closes.
fn greeted(stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut said, mut some) = (0, [0; 64]);
    loop {
        match stream.read(&mut some)? {
            0 if said > 0 => return Ok(()),
            0 => return Err(std::io::Error::other("closed without a greeting")),
            more => said += more,
        }
    }
}

fn datagrams(to: IpAddr, count: u64) -> Result<Done> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut done = Done::default();
    for _ in 0..count {
        // An answer that nobody listens there fails the next one: it was not sent, and is not counted.
        done.connections += u64::from(socket.send_to(b"none of ours", (to, 9)).is_ok());
    }
    Ok(done)
}
