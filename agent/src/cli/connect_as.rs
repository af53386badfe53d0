//! The child of `try`: becomes who it is told, connects, and prints a [`Probe`].
//!
//! Owns: a socket that the kernel takes for one of the stream's. Must not: judge, or ask the agent.

use std::io::{BufRead, BufReader, Read as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, setgid, setgroups, setresuid};
use socket2::Socket;

use super::args::ConnectArgs;
use crate::api::view::{Destination, Probe};

/// How long a receiver may take to answer, and then to speak.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn connect_as(args: &ConnectArgs) -> Result<u8> {
    if let Some(cgroup) = &args.cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot move into the cgroup {}", cgroup.display()))?;
    }
    let socket = socket(args)?;
    let to = args.destination;
    if let Some(address) = args.bind {
        socket.bind(&std::net::SocketAddr::new(address, 0).into()).with_context(|| {
            format!("cannot bind to the tag {address}: is it on this host? See `mailsteer status`")
        })?;
    }
    let cookie = socket.cookie()?;
    let started = Instant::now();
    let connected = socket.connect_timeout(&to.into(), PATIENCE);
    let connect_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let local = socket.local_addr()?.as_socket();
    let (banner, error) = match connected.and_then(|()| banner(socket)) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let destination = Destination { address: to.ip(), port: to.port() };
    let probe = Probe { destination, local, cookie, connect_ms, banner, error };
    super::commands::put(&serde_json::to_string(&probe)?)?;
    Ok(0)
}

/// A socket of the user's. Its owner is who made it, and a packet mark takes root: so the user makes it while root
/// is kept in reserve, root marks it, and then root is given up for good.
fn socket(args: &ConnectArgs) -> Result<Socket> {
    let root = Uid::current();
    if args.uid.is_some() || args.gid.is_some() {
        setgroups(&[])?;
    }
    if let Some(gid) = args.gid {
        setgid(Gid::from_raw(gid))?;
    }
    let user = args.uid.map_or(root, Uid::from_raw);
    setresuid(user, user, root)?;
    let socket = Socket::new(socket2::Domain::for_address(args.destination), socket2::Type::STREAM, None)?;
    if let Some(mark) = args.mark {
        setresuid(user, root, root)?;
        socket.set_mark(mark).context("cannot set the packet mark")?;
    }
    setresuid(user, user, user)?;
    Ok(socket)
}

fn banner(socket: Socket) -> std::io::Result<String> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = vec![];
    BufReader::new(stream).take(512).read_until(b'\n', &mut line).map_err(silent)?;
    // A stranger's words, which go on into tables and records: one line of them, whatever they hold.
    let text = String::from_utf8_lossy(&line).trim_end().replace(char::is_control, "\u{fffd}");
    if text.is_empty() {
        return Err(std::io::Error::other("connected, and the receiver closed without a word"));
    }
    Ok(text)
}

fn silent(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            let seconds = PATIENCE.as_secs();
            std::io::Error::other(format!("connected, and the receiver said nothing for {seconds} s"))
        }
        _ => error,
    }
}
