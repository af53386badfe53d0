//! A probe: one connection of our own from a given source, as far as the greeting.
//!
//! Owns: making it, and saying what it met. Must not: choose sources, destinations or times (`decide` does), or take our
//! own troubles for the receiver's: a socket that cannot be made, marked, bound or sent from says nothing of an address,
//! and is a [`ProbeError`] and no sign.
//!
//! The socket bears the mark that a slot would have given it, in lane 0, and is bound to the source's address. By both
//! the rules know it (chain `probe`): it is drawn no slot, and leaves from that source though it holds none. No stream
//! counts it. It says nothing but `QUIT`: no EHLO, so that nobody greylists or scores what was no mail.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mailsteer_core::model::{Sign, SourceId, UplinkId};
use mailsteer_core::signal::port25::Met;
use mailsteer_ebpf::Mark;
use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a probe waits for each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For the SYN to be answered.
    pub connect: Duration,
    /// For the greeting, once it stands.
    pub greeting: Duration,
}

impl Default for Patience {
    /// SYNs leave after 0, 1, 3 and 7 s (before Linux 6.5; later more of them): four that nobody answers in 10 s. Receivers
    /// that let callers wait on purpose do so for 6 s (Postfix postscreen, `postscreen_greet_wait`) to 30 s (common with
    /// sendmail's `greet_pause`); a client has to wait 5 minutes (RFC 5321, section 4.5.3.2.1), a probe need not.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), greeting: Duration::from_secs(40) }
    }
}

/// From which source, by which way, to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The source and its uplink, by whose mark the rules know a probe; `None` where no rules of ours stand.
    pub slot: Option<(SourceId, UplinkId)>,
    /// Its address on this host.
    pub from: IpAddr,
    /// The receiver, of the same family.
    pub to: SocketAddr,
}

/// Why no probe could be made. It says nothing of the source.
#[derive(Debug, Error)]
#[error("a probe from {from} to {to}: {what}")]
pub struct ProbeError {
    from: IpAddr,
    to: SocketAddr,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// How much of a greeting is read: a line may be 512 bytes long (RFC 5321, section 4.5.3.1.5), and there may be several.
const GREETING: usize = 4096;
/// How much of it is told.
const TOLD: usize = 120;
/// How long `QUIT` may take to leave, and its answer to come: a receiver that is left without a word may hold it against
/// the address.
const FAREWELL: Duration = Duration::from_secs(2);

impl Probe {
    /// Makes it, and says what it met.
    ///
    /// # Errors
    /// Where this host could not make it.
    pub async fn run(self, patience: Patience) -> Result<Sign, ProbeError> {
        Ok(match self.meet(patience).await? {
            Met::Greeting => Sign::ProbeGreeted,
            Met::Silence => failed(format!("no answer within {} s", seconds(patience.connect))),
            // The words are whole.
            Met::Other(why) => failed(why),
            met => failed(met.to_string()),
        })
    }

    /// The same, in the words of the preflight.
    ///
    /// # Errors
    /// Where this host could not make it.
    pub async fn meet(self, patience: Patience) -> Result<Met, ProbeError> {
        let mut stream = match self.connect(patience.connect).await? {
            Ok(stream) => stream,
            Err(met) => return Ok(met),
        };
        let heard = timeout(patience.greeting, greeting(&mut stream)).await;
        let met = match heard {
            Ok(Ok(text)) => judge(&text),
            Ok(Err(error)) => Met::Other(format!("connected, and then {}", in_words(&error))),
            Err(_) => {
                Met::Other(format!("connected, and no greeting within {} s", seconds(patience.greeting)))
            }
        };
        let _whatever_it_says = timeout(FAREWELL, part(&mut stream)).await;
        Ok(met)
    }

    /// Connects, and no more: whoever listens there need not speak SMTP.
    ///
    /// # Errors
    /// Where this host could not send the SYN.
    pub async fn connect(self, patience: Duration) -> Result<Result<TcpStream, Met>, ProbeError> {
        let stream = self.begin()?;
        Ok(match timeout(patience, stands(&stream)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(not_connected(&error)),
            Err(_) => Err(Met::Silence),
        })
    }

    /// Sends the SYN. What goes wrong until then is this host's doing.
    fn begin(&self) -> Result<TcpStream, ProbeError> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM.nonblocking(), None);
        let socket = socket.map_err(self.cannot("cannot make a socket"))?;
        if let Some((source, uplink)) = self.slot {
            let mark = Mark { uplink: uplink.0, lane: 0, source: source.0 }.pack();
            socket.set_mark(mark).map_err(self.cannot("cannot set the packet mark"))?;
        }
        let from = SocketAddr::new(self.from, 0);
        socket.bind(&from.into()).map_err(self.cannot("cannot be bound to the source's address"))?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                return Err(self.cannot("cannot connect")(error));
            }
            _ => {}
        }
        TcpStream::from_std(socket.into()).map_err(self.cannot("cannot be waited for"))
    }

    fn cannot(&self, what: &'static str) -> impl Fn(io::Error) -> ProbeError + use<> {
        let (from, to) = (self.from, self.to);
        move |source| ProbeError { from, to, what, source }
    }
}

/// Waits until the SYN was answered, by whatever.
async fn stands(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// What the far side, or the way to it, said to the SYN.
fn not_connected(error: &io::Error) -> Met {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Met::Refused,
        Some(libc::ETIMEDOUT) => Met::Silence,
        _ => Met::Unreachable(in_words(error)),
    }
}

fn failed(why: String) -> Sign {
    Sign::ProbeFailed { why }
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// The system's words, without its number.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed without a greeting".to_owned(),
        io::ErrorKind::ConnectionReset => "reset without a greeting".to_owned(),
        _ => error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase(),
    }
}

/// All lines of the greeting, or as much of it as is read.
async fn greeting(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut chunk = [0; 512];
    loop {
        match stream.read(&mut chunk).await? {
            0 if text.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(text),
            read => text.extend_from_slice(&chunk[..read]),
        }
        if is_whole(&text) || text.len() >= GREETING {
            return Ok(text);
        }
    }
}

/// Whether the last line is there and none follows: `220-` says that one does.
fn is_whole(text: &[u8]) -> bool {
    let lines = text.strip_suffix(b"\n").map(|text| text.rsplit(|byte| *byte == b'\n').next());
    lines.flatten().is_some_and(|last| last.get(3) != Some(&b'-'))
}

fn judge(text: &[u8]) -> Met {
    // A stranger's words, which go on into tables and records.
    let all = String::from_utf8_lossy(text);
    let line = all.lines().last().unwrap_or_default();
    let said: String = line.trim_end().chars().filter(|c| !c.is_control()).take(TOLD).collect();
    match text.first() {
        Some(b'2') if code(text).is_some() => Met::Greeting,
        Some(b'4' | b'5') if code(text).is_some() => Met::Other(format!("greeted with {said}")),
        _ => Met::Other(format!("greeted with what is no SMTP: {said}")),
    }
}

fn code(text: &[u8]) -> Option<u16> {
    let digits = text.first_chunk::<3>()?;
    let ends = matches!(text.get(3), None | Some(b' ' | b'-' | b'\r' | b'\n'));
    ends.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Says goodbye, and waits until the other side has.
async fn part(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"QUIT\r\n").await?;
    stream.shutdown().await?;
    let mut rest = [0; 512];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> Option<String> {
        match judge(text.as_bytes()) {
            Met::Greeting => None,
            Met::Other(why) => Some(why),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn a_greeting_is_judged_by_its_code() {
        assert_eq!(why("220 mx.example ESMTP\r\n"), None);
        assert_eq!(why("220-mx.example\r\n220 ready\r\n"), None);
        let listed = "554 5.7.1 Service unavailable; client [192.0.2.11] blocked";
        assert_eq!(why(&format!("{listed}\r\n")).unwrap(), format!("greeted with {listed}"));
        assert_eq!(why("421\r\n").unwrap(), "greeted with 421");
        assert_eq!(why("SSH-2.0-OpenSSH\r\n").unwrap(), "greeted with what is no SMTP: SSH-2.0-OpenSSH");
        assert_eq!(why("2200 \u{1b}[2J\r\n").unwrap(), "greeted with what is no SMTP: 2200 [2J");
        assert!(why(&format!("554 {}\r\n", "x".repeat(900))).unwrap().len() < 150);
    }

    #[test]
    fn a_greeting_ends_with_its_last_line() {
        for (text, whole) in [
            ("", false),
            ("220 mx", false),
            ("220-mx\r\n", false),
            ("220-mx\r\n220 ", false),
            ("220 mx\r\n", true),
            ("220-mx\r\n220 mx\r\n", true),
            ("220\n", true),
        ] {
            assert_eq!(is_whole(text.as_bytes()), whole, "{text:?}");
        }
    }
}
