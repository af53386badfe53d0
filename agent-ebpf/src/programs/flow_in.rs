//! What comes back by an uplink, before translation is undone: it bears the tuple on the wire.
//!
//! A reset or an ICMP error is an outcome only with the right sequence number: anybody can send one.

use aya_ebpf::bindings::__sk_buff;
use mailsteer_ebpf::{
    CONN_DONE, CONN_ESTABLISHED, CONN_FIN_IN, CONN_FIN_OUT, CONN_GREETED, CONN_TLS, Conn, FlowKey, Outcome,
    Settings,
};

use super::NEXT;
use super::count::{self, also, bump};
use super::maps::{CONNS, SETTINGS};
use super::packet::{ACK, FIN, Kind, Packet, RST, SYN, Segment, parse, quoted, read};
use super::reply;

const ICMP_HEADER: u32 = 8;

/// Follows one packet. Never drops.
#[inline(always)]
pub(crate) fn follow(skb: *mut __sk_buff) -> i32 {
    let packet = parse(skb);
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    match packet.kind {
        Kind::Tcp if settings.is_steered(packet.sport) => segment(skb, &packet),
        Kind::Icmp => icmp(skb, settings, packet.at, false),
        Kind::Icmpv6 => icmp(skb, settings, packet.at, true),
        _ => {}
    }
    NEXT
}

#[inline(always)]
fn segment(skb: *mut __sk_buff, tcp: &Packet) {
    let key = FlowKey { saddr: tcp.daddr, daddr: tcp.saddr, sport: tcp.dport, dport: tcp.sport };
    let Some(conn) = CONNS.get_ptr_mut(&key) else {
        return;
    };
    let Some(segment) = tcp.segment(skb) else {
        return;
    };
    // SAFETY: the lookup gave a live map value.
    let known = unsafe { &mut *conn };
    known.last = count::tick();
    // SAFETY: the kernel's context.
    let len = unsafe { (*skb).len };
    count::add(&raw mut known.bytes_in, u64::from(if tcp.bytes == 0 { len } else { tcp.bytes }));
    if known.flags & CONN_ESTABLISHED == 0 {
        if segment.flags & ACK != 0 && segment.ack() == known.isn.wrapping_add(1) {
            first_answer(&key, conn, &segment);
        }
        return;
    }
    if known.flags & CONN_TLS == 0 {
        reply::hear(skb, tcp, &segment, &key, conn);
    }
    if segment.flags & (RST | FIN) != 0 {
        end(&key, conn, segment.flags);
    }
}

/// The answer to the SYN.
#[inline(always)]
fn first_answer(key: &FlowKey, conn: *mut Conn, segment: &Segment) {
    // SAFETY: a live map value.
    let (mark, before) = unsafe { ((*conn).mark, (*conn).flags) };
    if segment.flags & RST != 0 {
        if count::set_flags(conn, CONN_DONE) & CONN_DONE == 0 {
            also!(count::ended(conn), refused);
            // SAFETY: a live map value.
            count::tell(key, unsafe { &*conn }, Outcome::Refused);
        }
        let _ = CONNS.remove(key);
    } else if segment.flags & SYN != 0 && before & CONN_DONE == 0 {
        if count::set_flags(conn, CONN_ESTABLISHED) & CONN_ESTABLISHED == 0 {
            // SAFETY: a live map value.
            unsafe { (*conn).next_in = segment.seq().wrapping_add(1) };
            bump!(mark, established);
            // SAFETY: a live map value.
            count::tell(key, unsafe { &*conn }, Outcome::Established);
        }
    }
}

/// A reset, or a FIN, of a connection that stood.
#[inline(always)]
fn end(key: &FlowKey, conn: *mut Conn, flags: u8) {
    let ended = flags & RST != 0 || count::set_flags(conn, CONN_FIN_IN) & CONN_FIN_OUT != 0;
    if !ended {
        return;
    }
    let before = count::set_flags(conn, CONN_DONE);
    if before & CONN_DONE != 0 {
        return;
    }
    let counters = count::ended(conn);
    if flags & RST != 0 {
        also!(counters, reset);
        if before & CONN_GREETED == 0 {
            // SAFETY: a live map value.
            count::tell(key, unsafe { &*conn }, Outcome::Cut);
        }
    }
    let _ = CONNS.remove(key);
}

/// Whether an ICMP message says that a destination cannot be reached; "fragmentation needed" does not.
#[inline(always)]
fn says_unreachable(kind: u8, code: u8, v6: bool) -> bool {
    if v6 { matches!(kind, 1 | 3 | 4) } else { (kind == 3 && code != 4) || kind == 11 || kind == 12 }
}

#[inline(always)]
fn icmp(skb: *mut __sk_buff, settings: &Settings, at: u32, v6: bool) {
    let Some([kind, code]) = read::<[u8; 2]>(skb, at) else {
        return;
    };
    if !says_unreachable(kind, code, v6) {
        return;
    }
    let Some((tcp, seq)) = quoted(skb, at + ICMP_HEADER, v6) else {
        return;
    };
    if !settings.is_steered(tcp.dport) {
        return;
    }
    let key = FlowKey { saddr: tcp.saddr, daddr: tcp.daddr, sport: tcp.sport, dport: tcp.dport };
    let Some(conn) = CONNS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: the lookup gave a live map value.
    let copy = unsafe { *conn };
    if copy.isn != seq || copy.flags & CONN_ESTABLISHED != 0 {
        return;
    }
    // The entry stays: a stack may send the SYN again all the same, and that is no new attempt.
    if count::set_flags(conn, CONN_DONE) & CONN_DONE == 0 {
        also!(count::ended(conn), unreachable);
        count::tell(&key, &copy, Outcome::Unreachable);
    }
}
