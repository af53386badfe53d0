//! A receiver that costs as little as one can: it accepts, greets and closes.
//!
//! Owns: a listening socket for each core, and how often each address came. Must not: remember connections; what it costs is
//! part of every figure, the same for every way.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use socket2::{Domain, Socket, Type};

use crate::netns::NetNs;

/// What every SMTP server says first (RFC 5321 section 3.1).
const GREETING: &[u8] = b"220 sink.example ESMTP\r\n";

type Peers = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

/// The running sink.
pub(super) struct Sink {
    stop: Arc<AtomicBool>,
    peers: Vec<Peers>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Sink {
    pub(super) fn start(ns: &NetNs) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..std::thread::available_parallelism()?.get() {
            let socket = ns.run(listen)??;
            let (own, stop): (Peers, _) = (Arc::default(), Arc::clone(&stop));
            peers.push(Arc::clone(&own));
            threads.push(ns.thread("sink", move || {
                accept(&socket, &own, &stop);
                Ok(())
            })?);
        }
        Ok(Self { stop, peers, threads })
    }

    /// How often each address came since this was last asked.
    pub(super) fn peers(&self) -> BTreeMap<IpAddr, u64> {
        let mut all = BTreeMap::new();
        for peers in &self.peers {
            let peers = std::mem::take(&mut *peers.lock().unwrap_or_else(PoisonError::into_inner));
            peers.into_iter().for_each(|(peer, count)| *all.entry(peer).or_default() += count);
        }
        all
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("the sink panicked"))??;
        }
        Ok(())
    }
}

fn listen() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25)).into())?;
    socket.listen(4096)?;
    // So that it sees when it is to end.
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn accept(socket: &Socket, peers: &Peers, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let Ok((mut stream, peer)) = socket.accept() else { continue };
        // Where the client is gone already, its own side says so.
        stream.write_all(GREETING).ok();
        drop(stream);
        if let Some(peer) = peer.as_socket() {
            *peers.lock().unwrap_or_else(PoisonError::into_inner).entry(peer.ip()).or_default() += 1;
        }
    }
}
