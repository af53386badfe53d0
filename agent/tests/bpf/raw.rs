//! Packets made by hand: what no socket of the kernel sends, and what a spoofer would.
//!
//! Owns: their bytes, the raw sockets that send them, and a look-out for them in the other namespace. Must not:
//! judge. Checksums are left to the kernel or to chance: the programs do not look at them.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::LONG;
use crate::world::World;

pub(super) const TCP: u8 = 6;
pub(super) const SYN: u8 = 2;
pub(super) const RST_ACK: u8 = 0x14;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// For experiments (RFC 3692): no program of ours looks at it.
const SENTINEL: u8 = 253;
/// IPv4 identification, or IPv6 flow label, by which a look-out knows packets from here.
const TAG: u16 = 0x4d53;

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An IP packet of either family: `payload` is what follows the fixed header, of which `options` bytes belong to
/// the header still (IPv4).
fn packet(from: &str, to: &str, protocol: u8, options: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = if from.contains(':') {
        let label = TAG.to_be_bytes();
        let mut head = vec![0x60, 0, label[0], label[1]];
        head.extend(length.to_be_bytes());
        head.extend([protocol, 64]);
        head
    } else {
        let mut head = vec![0x45 + options / 4, 0];
        head.extend((length + 20).to_be_bytes());
        head.extend(TAG.to_be_bytes());
        head.extend([0, 0, 64, protocol, 0, 0]);
        head
    };
    bytes.extend(octets(from));
    bytes.extend(octets(to));
    bytes.extend(payload);
    bytes
}

fn tcp(sport: u16, dport: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// A segment of nobody's.
pub(super) fn segment(from: (&str, u16), to: (&str, u16), seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    packet(from.0, to.0, TCP, 0, &tcp(from.1, to.1, seq, ack, flags))
}

/// "Host unreachable", by `router`, about a segment of this tuple.
pub(super) fn unreachable(router: &str, from: (&str, u16), to: (&str, u16), seq: u32) -> Vec<u8> {
    let (protocol, kind, code) = if router.contains(':') { (ICMPV6, 1, 3) } else { (ICMP, 3, 1) };
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend(segment(from, to, seq, 0, SYN));
    packet(router, from.0, protocol, 0, &bytes)
}

/// SYNs to port 25 that a parser gives up at: cut off, or behind more headers than it follows.
pub(super) fn unreadable(from: &str, to: &str) -> Vec<Vec<u8>> {
    let options = [TCP, 0, 1, 4, 0, 0, 0, 0];
    if from.contains(':') {
        let more = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let mut buried = more.repeat(6);
        buried.extend(options);
        buried.extend(tcp(1025, 25, 1, 0, SYN));
        vec![
            packet(from, to, TCP, 0, &[4, 1]),
            packet(from, to, DESTINATION_OPTIONS, 0, &[TCP, 0]),
            packet(from, to, DESTINATION_OPTIONS, 0, &buried),
        ]
    } else {
        vec![packet(from, to, TCP, 0, &[4, 1]), packet(from, to, TCP, 4, &[1, 1, 1, 0, 4, 1])]
    }
}

/// A SYN to port 25 behind what a parser can follow: IPv6 extension headers, or IPv4 options.
pub(super) fn wrapped_syn(from: &str, to: &str) -> Vec<u8> {
    let syn = tcp(1025, 25, 1, 0, SYN);
    if from.contains(':') {
        let headers = [[DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0], [TCP, 0, 1, 4, 0, 0, 0, 0]].concat();
        packet(from, to, DESTINATION_OPTIONS, 0, &[headers, syn].concat())
    } else {
        packet(from, to, TCP, 4, &[vec![1, 1, 1, 0], syn].concat())
    }
}

/// The first eight bytes of a SYN's header and no more, as the first of several fragments may be.
pub(super) fn cut_syn(from: &str, to: &str, port: u16) -> Vec<u8> {
    packet(from, to, TCP, 0, &tcp(1025, port, 1, 0, SYN)[..8])
}

/// Sends a packet as it is; what a guard drops is no error.
pub(super) fn send(packet: &[u8], to: &str, mark: u32) {
    let to: IpAddr = to.parse().unwrap();
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    // IPPROTO_RAW: the header is the sender's.
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
    socket.set_mark(mark).unwrap();
    let sent = socket.send_to(packet, &SocketAddr::new(to, 0).into()).map_err(|error| error.raw_os_error());
    assert!(matches!(sent, Ok(_) | Err(Some(libc::ENOBUFS))), "{sent:?}");
}

/// Sends it from the other namespace, whoever it says it is from.
pub(super) fn inject(world: &World, packet: Vec<u8>, to: &'static str) {
    let namespace = world.peer_namespace();
    let sender = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        send(&packet, to, 0);
    });
    sender.join().unwrap();
}

/// Sees what arrives in the other namespace.
pub(super) struct LookOut(Socket);

impl LookOut {
    pub(super) fn new(world: &World) -> Self {
        let namespace = world.peer_namespace();
        let opener = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let all = Protocol::from(i32::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be()));
            Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap()
        });
        let socket = opener.join().unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self(socket)
    }

    /// How many packets from here arrived until now: a last one, which nobody holds, tells that all had their turn.
    pub(super) fn arrived(&self, from: &str, to: &str) -> usize {
        send(&packet(from, to, SENTINEL, 0, &[]), to, 0);
        let deadline = Instant::now() + LONG;
        let mut count = 0;
        loop {
            assert!(Instant::now() < deadline, "the last packet did not come");
            let mut buffer = [MaybeUninit::uninit(); 256];
            let length = self.0.recv(&mut buffer).unwrap();
            // SAFETY: the kernel wrote the first `length` bytes.
            let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            let (tag, protocol) = if bytes[0] >> 4 == 6 { (2, 6) } else { (4, 9) };
            match bytes.get(tag..tag + 2) {
                Some(tag) if *tag == TAG.to_be_bytes() && bytes[protocol] == SENTINEL => return count,
                Some(tag) if *tag == TAG.to_be_bytes() => count += 1,
                _ => {}
            }
        }
    }
}
