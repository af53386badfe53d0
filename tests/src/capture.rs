//! What really was on the wire: every TCP packet to a steered port, by source address, from a raw socket.
//!
//! Owns: the packet sockets and the counting. Must not: trust any log. It sits on the world's side of the links,
//! so that it sees what left the mail host, after every hook of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::netns::NetNs;

/// Bytes that the kernel may hold for us, so that a burst on a busy machine loses nothing.
const BUFFER: usize = 64 << 20;
/// Enough of a packet for IPv6 and TCP headers.
const SNAP: usize = 96;

/// What was seen of one source address.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Packets to the port.
    pub packets: u64,
    /// Of these, SYNs, with those sent again.
    pub syns: u64,
    /// Time of the first, since the capture began.
    pub first: Duration,
    /// Time of the last, since the capture began.
    pub last: Duration,
    /// Packets by receiver.
    pub to: BTreeMap<IpAddr, u64>,
    /// The first few, as text.
    pub samples: Vec<String>,
    /// The headers of its SYNs, byte for byte, without what differs from one connection to the next (identification,
    /// flow label, port, sequence number, checksums, time stamp) and without the source address.
    pub syn_shapes: BTreeSet<Vec<u8>>,
}

/// One SYN.
#[derive(Clone, Debug)]
pub struct Syn {
    /// The interface by which it came in.
    pub interface: String,
    /// Its source address.
    pub source: IpAddr,
    /// Its source port.
    pub port: u16,
    /// Its destination address.
    pub destination: IpAddr,
    /// Time since the capture began.
    pub at: Duration,
}

/// What a capture saw.
#[derive(Clone, Debug, Default)]
pub struct WireReport {
    /// By interface and source address.
    pub by_source: BTreeMap<(String, IpAddr), Seen>,
    /// Every SYN, with those sent again, in the order in which each interface saw them.
    pub syn_list: Vec<Syn>,
    /// Packets that the kernel could not hold for us: above 0, the counts prove nothing.
    pub lost: u64,
}

impl WireReport {
    /// Packets from one address, on all interfaces.
    #[must_use]
    pub fn packets(&self, source: IpAddr) -> u64 {
        self.by_source.iter().filter(|((_, s), _)| *s == source).map(|(_, seen)| seen.packets).sum()
    }

    /// SYNs from one address, on all interfaces.
    #[must_use]
    pub fn syns(&self, source: IpAddr) -> u64 {
        self.by_source.iter().filter(|((_, s), _)| *s == source).map(|(_, seen)| seen.syns).sum()
    }

    /// Packets from other addresses than these, on all interfaces.
    #[must_use]
    pub fn packets_of_others(&self, eligible: &[IpAddr]) -> u64 {
        self.by_source.iter().filter(|((_, s), _)| !eligible.contains(s)).map(|(_, seen)| seen.packets).sum()
    }

    /// Everything that came from another address than these, one line per offender.
    #[must_use]
    pub fn others(&self, eligible: &[IpAddr]) -> Vec<String> {
        self.by_source
            .iter()
            .filter(|((_, source), _)| !eligible.contains(source))
            .map(|((interface, source), seen)| format!("{source} on {interface}: {seen:?}"))
            .collect()
    }

    /// Everything that went to one of these receivers from another address than `eligible`, one line per offender.
    #[must_use]
    pub fn others_to(&self, receivers: &[IpAddr], eligible: &[IpAddr]) -> Vec<String> {
        self.by_source
            .iter()
            .filter(|((_, source), seen)| {
                !eligible.contains(source) && receivers.iter().any(|receiver| seen.to.contains_key(receiver))
            })
            .map(|((interface, source), seen)| format!("{source} on {interface}: {seen:?}"))
            .collect()
    }

    fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        self.by_source.extend(other.by_source);
        self.syn_list.extend(other.syn_list);
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<WireReport>>>,
}

impl Capture {
    /// Starts capturing TCP packets to `port` that come in by these interfaces of `ns`.
    ///
    /// # Errors
    /// When a packet socket cannot be had.
    pub fn start(ns: &NetNs, interfaces: &[&str], port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let mut threads = Vec::new();
        for interface in interfaces {
            let name = (*interface).to_owned();
            let socket = ns.run(|| open(&name))??;
            let stop = Arc::clone(&stop);
            threads.push(ns.thread("capture", move || count(&socket, &name, port, began, &stop))?);
        }
        Ok(Self { stop, threads })
    }

    /// Stops it, once all that the kernel holds is counted.
    ///
    /// # Errors
    /// When reading had failed.
    pub fn stop(self) -> Result<WireReport> {
        self.stop.store(true, Ordering::Release);
        let mut report = WireReport::default();
        for thread in self.threads {
            report.merge(thread.join().map_err(|_| anyhow!("the capture panicked"))??);
        }
        Ok(report)
    }
}

fn open(interface: &str) -> Result<Socket> {
    // Protocol 0: nothing is received before the socket is bound to its one interface.
    let socket =
        Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0))).context("packet socket")?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let index = nix::net::if_::if_nametoindex(interface)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll fits into the storage, and any bytes are one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = u16::try_from(libc::AF_PACKET)?;
    link.sll_protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    link.sll_ifindex = i32::try_from(index)?;
    let length = socklen(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the storage holds a sockaddr_ll, which was just written, of this length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)?;
    Ok(socket)
}

fn socklen(length: usize) -> Result<libc::socklen_t> {
    Ok(libc::socklen_t::try_from(length)?)
}

fn count(
    socket: &Socket,
    interface: &str,
    port: u16,
    began: Instant,
    stop: &AtomicBool,
) -> Result<WireReport> {
    let mut report = WireReport::default();
    let mut packet = [0u8; SNAP];
    loop {
        let stopping = stop.load(Ordering::Acquire);
        // What the kernel holds is read to its end, without waiting for what is still to come.
        let flags = if stopping { libc::MSG_DONTWAIT } else { 0 };
        let mut from = [0u8; 32];
        let mut length = 32u32;
        // SAFETY: both buffers outlive the call and their lengths are given.
        let n = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                packet.as_mut_ptr().cast(),
                SNAP,
                flags,
                from.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if n < 0 {
            let error = std::io::Error::last_os_error();
            match error.kind() {
                std::io::ErrorKind::WouldBlock if stopping => break,
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => continue,
                _ => return Err(error.into()),
            }
        }
        // sll_pkttype is the 11th byte of a sockaddr_ll; 4 is what the world itself sends.
        let outgoing = from[10] == 4;
        let bytes = &packet[..usize::try_from(n)?.min(SNAP)];
        if let Some(tcp) = parse(bytes).filter(|tcp| tcp.port == port && !outgoing) {
            let seen = report.by_source.entry((interface.to_owned(), tcp.source)).or_default();
            let at = began.elapsed();
            seen.note(&tcp, at);
            if tcp.is_syn() {
                seen.syn_shapes.extend(shape(bytes));
                report.syn_list.push(tcp.syn(interface, at));
            }
        }
    }
    report.lost = drops(socket)?;
    Ok(report)
}

impl Seen {
    fn note(&mut self, tcp: &Tcp, at: Duration) {
        if self.packets == 0 {
            self.first = at;
        }
        self.packets += 1;
        self.last = at;
        *self.to.entry(tcp.destination).or_default() += 1;
        self.syns += u64::from(tcp.is_syn());
        if self.samples.len() < 5 {
            self.samples.push(format!(
                "{at:.3?}: port {} to {}, flags {:#04x}",
                tcp.sport, tcp.destination, tcp.flags
            ));
        }
    }
}

fn drops(socket: &Socket) -> Result<u64> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = socklen(size_of::<libc::tpacket_stats>())?;
    // SAFETY: the kernel writes at most `length` bytes into `stats`, which is that long.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(u64::from(stats.tp_drops))
}

struct Tcp {
    source: IpAddr,
    destination: IpAddr,
    sport: u16,
    port: u16,
    flags: u8,
}

impl Tcp {
    fn is_syn(&self) -> bool {
        self.flags & 0x12 == 0x02
    }

    fn syn(&self, interface: &str, at: Duration) -> Syn {
        Syn {
            interface: interface.to_owned(),
            source: self.source,
            port: self.sport,
            destination: self.destination,
            at,
        }
    }
}

fn parse(packet: &[u8]) -> Option<Tcp> {
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 if packet.get(9)? == &6 => (
            Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?).into(),
            Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?).into(),
            packet.get(usize::from(packet.first()? & 0xf) * 4..)?,
        ),
        6 if packet.get(6)? == &6 => (
            Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?).into(),
            Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?).into(),
            packet.get(40..)?,
        ),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Tcp { source, destination, sport: port(0)?, port: port(2)?, flags: *tcp.get(13)? })
}

/// The headers of a SYN without what differs from one connection to the next; `None`: they are cut off.
fn shape(packet: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = packet.to_vec();
    let (varying, tcp): (&[(usize, usize)], usize) = match packet.first()? >> 4 {
        4 => (&[(4, 6), (10, 16)], usize::from(packet.first()? & 0xf) * 4),
        _ => (&[(1, 4), (8, 24)], 40),
    };
    for (from, to) in
        varying.iter().copied().chain([(tcp, tcp + 2), (tcp + 4, tcp + 8), (tcp + 16, tcp + 18)])
    {
        bytes.get_mut(from..to)?.fill(0);
    }
    let end = tcp + usize::from(packet.get(tcp + 12)? >> 4) * 4;
    let mut at = tcp + 20;
    while at < end {
        // End of list and padding have no length; 8 is the time stamp.
        let length = match *packet.get(at)? {
            0 | 1 => 1,
            _ => usize::from(*packet.get(at + 1)?).max(2),
        };
        if packet[at] == 8 {
            bytes.get_mut(at + 2..at + length)?.fill(0);
        }
        at += length;
    }
    bytes.truncate(end);
    Some(bytes)
}
