//! Finds addresses and ports in a packet, whatever the link below.
//!
//! Reads relative to the network header, so that Ethernet, VLAN, tun, ppp and wg look alike; and without a helper call, which
//! costs more than all the rest, what certainly is plain Ethernet. What says it is TCP and cannot be read is said to be
//! unreadable, never "not ours".

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;

const PROTOCOL_IPV4: u32 = 0x0800u16.to_be() as u32;
const PROTOCOL_IPV6: u32 = 0x86ddu16.to_be() as u32;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// What stands before an IPv4 address where IPv6 is expected.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
/// How many IPv6 extension headers are followed.
const EXTENSIONS: u32 = 6;
const ETHERNET_LEN: usize = size_of::<Ethernet>();
const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Neither TCP nor ICMP, or a later fragment.
    Other,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
    /// TCP.
    Tcp,
    /// It may be TCP, and it cannot be read.
    Unreadable,
}

/// A packet taken apart. Not an enum with contents: what is undefined in one variant becomes a register that was
/// never written, and the verifier refuses the program.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// What it is; the rest is zero unless it is TCP.
    pub(crate) kind: Kind,
    /// Source, IPv4 mapped, network byte order.
    pub(crate) saddr: [u32; 4],
    /// Destination, likewise.
    pub(crate) daddr: [u32; 4],
    /// Source port, host byte order.
    pub(crate) sport: u16,
    /// Destination port, host byte order.
    pub(crate) dport: u16,
    /// Where the TCP or ICMP header starts, from the network header on.
    pub(crate) at: u32,
    /// Length from the IP header on, as that header says; 0 where it does not.
    pub(crate) bytes: u32,
    /// The rest of the TCP header, where it was read along.
    segment: Segment,
    /// Whether it was.
    whole: bool,
}

impl Packet {
    #[inline(always)]
    const fn bare(kind: Kind, at: u32) -> Self {
        let segment = Segment::NONE;
        Self { kind, saddr: [0; 4], daddr: [0; 4], sport: 0, dport: 0, at, bytes: 0, segment, whole: false }
    }

    /// What stands behind the ports of a TCP header.
    #[inline(always)]
    pub(crate) fn segment(&self, skb: *mut __sk_buff) -> Option<Segment> {
        if self.whole { Some(self.segment) } else { read(skb, self.at + 4) }
    }
}

/// The part of a TCP header behind the ports.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    seq: u32,
    ack: u32,
    offset: u8,
    /// FIN 1, SYN 2, RST 4, ACK 16.
    pub(crate) flags: u8,
    window: u16,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Segment {
    const NONE: Self = Self { seq: 0, ack: 0, offset: 0, flags: 0, window: 0 };

    #[inline(always)]
    pub(crate) fn seq(&self) -> u32 {
        u32::from_be(self.seq)
    }

    #[inline(always)]
    pub(crate) fn ack(&self) -> u32 {
        u32::from_be(self.ack)
    }

    /// Length of the whole header, options included.
    #[inline(always)]
    pub(crate) fn header(&self) -> u32 {
        u32::from(self.offset >> 4) * 4
    }
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    protocol: u16,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    tos: u8,
    total: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    saddr: u32,
    daddr: u32,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ports {
    source: u16,
    destination: u16,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv4Ports {
    ip: Ipv4,
    ports: Ports,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv4Tcp {
    head: Ipv4Ports,
    segment: Segment,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv6 {
    version: u32,
    payload: u16,
    next: u8,
    hops: u8,
    saddr: [u32; 4],
    daddr: [u32; 4],
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv6Ports {
    ip: Ipv6,
    ports: Ports,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv6Tcp {
    head: Ipv6Ports,
    segment: Segment,
}

/// Reads a `T` from where the network header starts, without a helper call: if an Ethernet header with this protocol stands
/// before it, and all of it lies where a program may look. `None` says nothing: [`read`] may give it all the same.
///
/// `version` is the first nibble of a network header of this protocol. A packet that begins with it may have no link header
/// (tun, ppp, wg), and what stands at these places may be anything; a destination's MAC that begins so just costs a helper call.
#[inline(always)]
fn behind_ethernet<T: Copy>(skb: *mut __sk_buff, protocol: u32, version: u8) -> Option<T> {
    // SAFETY: the kernel's context, valid for the program's run.
    let packet = unsafe { &*skb };
    let (data, end) = (packet.data as usize, packet.data_end as usize);
    if data + ETHERNET_LEN + size_of::<T>() > end {
        return None;
    }
    let head = data as *const Ethernet;
    // SAFETY: compared with the end above. Packed to two: a network header lies at an even place, and where it does not, loads of
    // the programs' machines need no alignment.
    let ethernet = unsafe { *head };
    if ethernet.destination[0] >> 4 == version || u32::from(ethernet.protocol) != protocol {
        return None;
    }
    let behind = head.wrapping_add(1).cast::<T>();
    // SAFETY: likewise.
    Some(unsafe { *behind })
}

/// Reads a `T` at an offset from the network header.
#[inline(always)]
pub(crate) fn read<T: Copy>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes, or fails.
    let code = unsafe {
        bpf_skb_load_bytes_relative(
            skb.cast(),
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    if code != 0 {
        return None;
    }
    // SAFETY: written above; `T` is plain integers.
    Some(unsafe { value.assume_init() })
}

/// Takes a packet apart.
#[inline(always)]
pub(crate) fn parse(skb: *mut __sk_buff) -> Packet {
    // SAFETY: the kernel's context, valid for the program's run.
    match unsafe { (*skb).protocol } {
        PROTOCOL_IPV4 => ipv4(skb),
        PROTOCOL_IPV6 => ipv6(skb),
        _ => Packet::bare(Kind::Other, 0),
    }
}

#[inline(always)]
fn ipv4(skb: *mut __sk_buff) -> Packet {
    // In one go: a helper call costs as much as all else that is done with a packet of nobody's.
    let tcp = behind_ethernet::<Ipv4Tcp>(skb, PROTOCOL_IPV4, 4).or_else(|| read::<Ipv4Tcp>(skb, 0));
    let (head, segment, mut whole) = match tcp {
        Some(tcp) => (tcp.head, tcp.segment, true),
        None => match read::<Ipv4Ports>(skb, 0) {
            Some(head) => (head, Segment::NONE, false),
            None => return short_ipv4(skb),
        },
    };
    let ip = head.ip;
    if ip.fragment & 0x1fffu16.to_be() != 0 {
        return Packet::bare(Kind::Other, 0);
    }
    let at = u32::from(ip.version_length & 0xf) * 4;
    if ip.protocol != TCP {
        return Packet::bare(if ip.protocol == ICMP { Kind::Icmp } else { Kind::Other }, at);
    }
    let mut ports = head.ports;
    if at != IPV4_LEN {
        match read::<Ports>(skb, at) {
            Some(further) if at > IPV4_LEN => ports = further,
            _ => return Packet::bare(Kind::Unreadable, 0),
        }
        whole = false;
    }
    Packet {
        kind: Kind::Tcp,
        saddr: [0, 0, MAPPED, ip.saddr],
        daddr: [0, 0, MAPPED, ip.daddr],
        sport: u16::from_be(ports.source),
        dport: u16::from_be(ports.destination),
        at,
        bytes: u32::from(u16::from_be(ip.total)),
        segment,
        whole,
    }
}

/// An IPv4 packet with less than four bytes of payload, or with less than a header.
#[inline(always)]
fn short_ipv4(skb: *mut __sk_buff) -> Packet {
    match read::<Ipv4>(skb, 0) {
        Some(ip) if ip.protocol != TCP || ip.fragment & 0x1fffu16.to_be() != 0 => {
            Packet::bare(Kind::Other, 0)
        }
        _ => Packet::bare(Kind::Unreadable, 0),
    }
}

#[inline(always)]
fn ipv6(skb: *mut __sk_buff) -> Packet {
    let tcp = behind_ethernet::<Ipv6Tcp>(skb, PROTOCOL_IPV6, 6).or_else(|| read::<Ipv6Tcp>(skb, 0));
    let (ip, mut ports, segment, mut whole) = match tcp {
        Some(tcp) => (tcp.head.ip, Some(tcp.head.ports), tcp.segment, true),
        None => match read::<Ipv6>(skb, 0) {
            Some(ip) => (ip, read::<Ports>(skb, IPV6_LEN), Segment::NONE, false),
            None => return Packet::bare(Kind::Unreadable, 0),
        },
    };
    let mut at = IPV6_LEN;
    let mut next = ip.next;
    if next != TCP {
        let kind;
        (kind, next, at) = skip_extensions(skb, next);
        if kind != Kind::Tcp {
            return Packet::bare(kind, 0);
        }
        if next == ICMPV6 {
            return Packet::bare(Kind::Icmpv6, at);
        }
        if next != TCP {
            return Packet::bare(Kind::Other, 0);
        }
        ports = read::<Ports>(skb, at);
        whole = false;
    }
    let Some(ports) = ports else {
        return Packet::bare(Kind::Unreadable, 0);
    };
    let payload = u32::from(u16::from_be(ip.payload));
    Packet {
        kind: Kind::Tcp,
        saddr: ip.saddr,
        daddr: ip.daddr,
        sport: u16::from_be(ports.source),
        dport: u16::from_be(ports.destination),
        at,
        bytes: if payload == 0 { 0 } else { payload + IPV6_LEN },
        segment,
        whole,
    }
}

/// The first header that is no extension, and where it starts; the kind is TCP's unless there is no such header.
#[inline(always)]
fn skip_extensions(skb: *mut __sk_buff, first: u8) -> (Kind, u8, u32) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    let mut next = first;
    let mut at = IPV6_LEN;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY => {}
            _ => return (Kind::Tcp, next, at),
        }
        let Some(head) = read::<[u8; 4]>(skb, at) else {
            return (Kind::Unreadable, 0, 0);
        };
        if next == FRAGMENT && (u16::from_be_bytes([head[2], head[3]]) & 0xfff8) != 0 {
            return (Kind::Other, 0, 0);
        }
        at += match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(head[1]) + 2) * 4,
            _ => (u32::from(head[1]) + 1) * 8,
        };
        next = head[0];
    }
    match next {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY => (Kind::Unreadable, 0, 0),
        _ => (Kind::Tcp, next, at),
    }
}

/// What an ICMP error quotes of the TCP segment that caused it: addresses, ports and sequence number.
#[inline(always)]
pub(crate) fn quoted(skb: *mut __sk_buff, at: u32, v6: bool) -> Option<(Packet, u32)> {
    let (saddr, daddr, protocol, start) = if v6 {
        let ip = read::<Ipv6>(skb, at)?;
        (ip.saddr, ip.daddr, ip.next, at + IPV6_LEN)
    } else {
        let ip = read::<Ipv4>(skb, at)?;
        let start = at + u32::from(ip.version_length & 0xf) * 4;
        ([0, 0, MAPPED, ip.saddr], [0, 0, MAPPED, ip.daddr], ip.protocol, start)
    };
    if protocol != TCP {
        return None;
    }
    let ports = read::<Ports>(skb, start)?;
    let seq = u32::from_be(read::<u32>(skb, start + 4)?);
    let tcp = Packet {
        saddr,
        daddr,
        sport: u16::from_be(ports.source),
        dport: u16::from_be(ports.destination),
        ..Packet::bare(Kind::Tcp, start)
    };
    Some((tcp, seq))
}
