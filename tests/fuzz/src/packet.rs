//! Packets, as the guard reads them in the kernel, beside another's reading of the same bytes. What leaves for a
//! steered port must never look like something else: the guard lets that pass.

use std::net::Ipv6Addr;

use etherparse::{IpFragOffset, LaxNetSlice, LaxSlicedPacket, TransportSlice, ip_number};

use self::parser::{Kind, Packet, parse, quoted};

/// The parser, from the very file that the kernel's object is built of.
#[path = "../../../agent-ebpf/src/programs/packet.rs"]
#[expect(dead_code, reason = "what the followers alone read")]
mod parser;

/// What the parser names of the kernel: a packet is its bytes from the network header on, and what a program may look at itself.
#[expect(non_camel_case_types, missing_docs, reason = "the kernel's names")]
pub mod bindings {
    pub struct __sk_buff {
        pub protocol: u32,
        pub bytes: Vec<u8>,
        pub data: *const u8,
        pub data_end: *const u8,
    }
    pub mod bpf_hdr_start_off {
        pub const BPF_HDR_START_NET: u32 = 1;
    }
}

/// The helper by which the parser reads.
pub mod helpers {
    use core::ffi::c_void;

    use super::bindings::__sk_buff;

    /// # Safety
    /// `skb` points to a packet, and `to` to so many bytes that may be written.
    pub unsafe fn bpf_skb_load_bytes_relative(
        skb: *const c_void,
        at: u32,
        to: *mut c_void,
        length: u32,
        _from: u32,
    ) -> i64 {
        // SAFETY: the caller's word.
        let packet = unsafe { &*skb.cast::<__sk_buff>() };
        let bytes = packet.bytes.get(at as usize..).and_then(|rest| rest.get(..length as usize));
        let Some(bytes) = bytes else { return -14 };
        // SAFETY: the caller's word; what is read belongs to the packet and `to` does not.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len()) };
        0
    }
}

/// What another reads of the same bytes: addresses and ports of a TCP segment.
type Reading = (Ipv6Addr, Ipv6Addr, u16, u16);

/// What is before a packet's network header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// Whatever it is, a program may not look at it: the helper alone reads.
    Hidden,
    /// Nothing: tun, ppp, wg.
    None,
    /// An Ethernet header.
    Ethernet,
}

/// Runs `with` on a packet of these bytes.
fn packet<T>(data: &[u8], protocol: u16, link: Link, with: impl FnOnce(*mut bindings::__sk_buff) -> T) -> T {
    let mut whole = if link == Link::Ethernet { vec![2; 12] } else { Vec::new() };
    if link == Link::Ethernet {
        whole.extend(protocol.to_be_bytes());
    }
    whole.extend(data);
    let seen = if link == Link::Hidden { &whole[..0] } else { &whole[..] }.as_ptr_range();
    let mut packet = bindings::__sk_buff {
        protocol: u32::from(protocol.to_be()),
        bytes: data.to_vec(),
        data: seen.start,
        data_end: seen.end,
    };
    with(&raw mut packet)
}

/// The parser reads the same however it reads.
fn alike(data: &[u8], protocol: u16, version: u8) {
    let read = |link| {
        packet(data, protocol, link, |skb| {
            let packet = parse(skb);
            let segment = if packet.kind == Kind::Tcp { packet.segment(skb) } else { None };
            let Packet { kind, saddr, daddr, sport, dport, at, bytes, .. } = packet;
            let behind = segment.map(|tcp| (tcp.seq(), tcp.ack(), tcp.header(), tcp.flags));
            ((kind as u8, at, bytes), (saddr, sport), (daddr, dport), behind)
        })
    };
    let helped = read(Link::Hidden);
    assert_eq!(read(Link::Ethernet), helped, "behind an Ethernet header");
    // What has no link header and does not begin with its version is no packet of that protocol.
    if data.first().is_some_and(|first| first >> 4 == version) {
        assert_eq!(read(Link::None), helped, "without a link header");
    }
}

pub(crate) fn run(data: &[u8]) {
    let (protocol, version) = match data.first().map(|byte| byte >> 4) {
        Some(6) => (0x86dd, 6),
        _ => (0x0800, 4),
    };
    alike(data, protocol, version);
    packet(data, protocol, Link::Hidden, |skb| judge(data, skb));
}

fn judge(data: &[u8], skb: *mut bindings::__sk_buff) {
    let ours = parse(skb);
    match ours.kind {
        Kind::Tcp => {
            assert!(ours.at >= 20 && ours.at as usize + 4 <= data.len());
            assert_eq!(ours.dport.to_be_bytes(), data[ours.at as usize + 2..][..2]);
            if let Some(tcp) = ours.segment(skb) {
                let behind = &data[ours.at as usize + 4..];
                assert_eq!((tcp.seq().to_be_bytes().as_slice(), tcp.flags), (&behind[..4], behind[9]));
            }
        }
        Kind::Icmp | Kind::Icmpv6 => {
            let Some((tcp, _)) = quoted(skb, ours.at + 8, ours.kind == Kind::Icmpv6) else { return };
            assert!(tcp.at as usize + 8 <= data.len());
        }
        Kind::Other | Kind::Unreadable => {}
    }
    let Some((saddr, daddr, sport, dport)) = theirs(data) else { return };
    if ours.kind == Kind::Unreadable {
        // Held, which is safe.
        return;
    }
    assert!(ours.kind == Kind::Tcp, "TCP from {saddr} to {daddr} port {dport} passes as something else");
    let address = |words: [u32; 4]| Ipv6Addr::from(u128::from_ne_bytes(bytes(words)).to_be());
    assert_eq!((address(ours.saddr), address(ours.daddr)), (saddr, daddr));
    assert_eq!((ours.sport, ours.dport), (sport, dport));
}

fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn theirs(data: &[u8]) -> Option<Reading> {
    let packet = LaxSlicedPacket::from_ip(data).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let (from, to) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            // What IPsec has signed is another protocol than TCP to the kernel, and to the rules that choose.
            if header.protocol() != ip_number::TCP || header.fragments_offset() != IpFragOffset::ZERO {
                return None;
            }
            (header.source_addr().to_ipv6_mapped(), header.destination_addr().to_ipv6_mapped())
        }
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr(), ip.header().destination_addr()),
        LaxNetSlice::Arp(_) => return None,
    };
    Some((from, to, tcp.source_port(), tcp.destination_port()))
}
