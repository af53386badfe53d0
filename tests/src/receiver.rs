//! Receivers: one SMTP sink that answers on every address of the world, and remembers who came.
//!
//! Owns: the listening sockets, the script (how to treat whom), the record of connections and messages. Must not:
//! judge: tests do, from [`Receiver::connections`].

mod smtp;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use smtp::Manner;

use crate::netns::NetNs;

/// How a receiver treats a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Behaviour {
    /// Speaks SMTP and takes every message.
    #[default]
    Accept,
    /// Speaks SMTP, and answers each recipient by how the address begins: `unknown`, `grey`, `block`; takes others. Every
    /// answer that matters ends with the peer's address.
    Judge,
    /// The same, and it offers STARTTLS.
    JudgeOverTls,
    /// Banner, then closes: for load.
    BannerClose,
    /// This banner, such as `554 5.7.1 listed`, then closes.
    Refuse(String),
    /// Resets the connection at once.
    Reset,
    /// Never says a word.
    Silent,
    /// SMTP after a while.
    Slow(Duration),
    /// Sends back what it gets.
    Echo,
}

/// Whom a behaviour is for; the more exact one wins: the peer, then the receiver, then all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whom {
    /// Connections from this address.
    Peer(IpAddr),
    /// Connections to this address.
    To(IpAddr),
    /// All connections.
    All,
}

/// A message that a receiver took.
#[derive(Clone, Debug)]
pub struct Message {
    /// Envelope sender.
    pub from: String,
    /// Envelope recipients.
    pub to: Vec<String>,
    /// The text, as it came.
    pub data: String,
}

/// A connection as a receiver saw it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who connected.
    pub peer: SocketAddr,
    /// To which receiver.
    pub to: IpAddr,
    /// When it was accepted.
    pub at: Instant,
    /// What it called itself.
    pub ehlo: Option<String>,
    /// What it delivered.
    pub messages: Vec<Message>,
    /// Whether it is still open.
    pub open: bool,
}

#[derive(Default, Debug)]
struct State {
    script: BTreeMap<Whom, Behaviour>,
    connections: Vec<Connection>,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    // A panic elsewhere leaves plain data behind: still worth reading.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running receivers.
#[derive(Debug)]
pub struct Receiver {
    state: Shared,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Receiver {
    /// Listens on every address of `ns` at `port`, IPv4 and IPv6.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(ns: &NetNs, port: u16) -> Result<Self> {
        let state = Shared::default();
        let sockets = ns.run(|| -> Result<Vec<Socket>> {
            [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
                .into_iter()
                .map(|any| listen(SocketAddr::new(any, port)))
                .collect()
        })??;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = ns.thread("receiver", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                for socket in sockets {
                    let listener = TcpListener::from_std(socket.into())?;
                    tokio::spawn(accept(listener, Arc::clone(&shared)));
                }
                stopped.await.ok();
                Ok(())
            })
        })?;
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    /// Says how to treat `whom` from now on.
    pub fn script(&self, whom: Whom, behaviour: Behaviour) {
        lock(&self.state).script.insert(whom, behaviour);
    }

    /// All connections so far, in the order in which they were accepted.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.state).connections.clone()
    }

    /// How many connections there were so far.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.state).connections.len()
    }

    /// How many connections came from each address.
    #[must_use]
    pub fn by_peer(&self) -> BTreeMap<IpAddr, u64> {
        let mut counts = BTreeMap::new();
        for connection in &lock(&self.state).connections {
            *counts.entry(connection.peer.ip()).or_default() += 1;
        }
        counts
    }

    /// How many messages were taken so far.
    #[must_use]
    pub fn messages(&self) -> usize {
        lock(&self.state).connections.iter().map(|c| c.messages.len()).sum()
    }

    /// Forgets the connections that are over; those still open stay.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.connections.retain(|c| c.open);
    }

    /// Stops listening and closes what is open.
    ///
    /// # Errors
    /// When it had failed.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        self.thread.take().map_or(Ok(()), |t| t.join().map_err(|_| anyhow!("the receiver panicked"))?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("lab: receiver: {e:#}");
        }
    }
}

fn listen(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(8192)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, state: Shared) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let Ok(to) = stream.local_addr() else { continue };
        let (key, behaviour) = {
            let mut state = lock(&state);
            let find = |whom| state.script.get(&whom);
            let behaviour = find(Whom::Peer(peer.ip()))
                .or_else(|| find(Whom::To(to.ip())))
                .or_else(|| find(Whom::All))
                .cloned()
                .unwrap_or_default();
            let at = Instant::now();
            let connection =
                Connection { peer, to: to.ip(), at, ehlo: None, messages: Vec::new(), open: true };
            state.connections.push(connection);
            ((peer, at), behaviour)
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // An error is the peer's going away, which `open` tells.
            serve(stream, &behaviour, |change| record(&state, key, change)).await.ok();
            record(&state, key, |connection| connection.open = false);
        });
    }
}

fn record(state: &Shared, key: (SocketAddr, Instant), change: impl FnOnce(&mut Connection)) {
    let mut state = lock(state);
    if let Some(connection) = state.connections.iter_mut().rev().find(|c| (c.peer, c.at) == key) {
        change(connection);
    }
}

type Change<'a> = Box<dyn FnOnce(&mut Connection) + 'a>;

async fn serve(
    mut stream: TcpStream,
    behaviour: &Behaviour,
    note: impl Fn(Change<'_>),
) -> std::io::Result<()> {
    match behaviour {
        Behaviour::Accept => smtp::serve(stream, Manner::default(), &note).await,
        Behaviour::Judge => smtp::serve(stream, Manner { judges: true, tls: false }, &note).await,
        Behaviour::JudgeOverTls => smtp::serve(stream, Manner { judges: true, tls: true }, &note).await,
        Behaviour::Slow(wait) => {
            tokio::time::sleep(*wait).await;
            smtp::serve(stream, Manner::default(), &note).await
        }
        Behaviour::BannerClose => stream.write_all(b"220 sink\r\n").await,
        Behaviour::Refuse(banner) => {
            stream.write_all(format!("{banner}\r\n").as_bytes()).await?;
            drain(&mut stream).await
        }
        Behaviour::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Behaviour::Silent => drain(&mut stream).await,
        Behaviour::Echo => {
            stream.set_nodelay(true)?;
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.map(drop)
        }
    }
}

async fn drain(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
