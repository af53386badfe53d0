//! What leaves by an uplink, after the guard: connections are known by the tuple on the wire.

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST, bpf_sock};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_get_socket_uid};
use mailsteer_ebpf::{
    ASKER_LEFT, Asker, CONN_DONE, CONN_ESTABLISHED, CONN_FIN_IN, CONN_FIN_OUT, Conn, FlowKey, Outcome,
    Settings, Total,
};

use super::NEXT;
use super::count::{self, also, bump};
use super::maps::{CONNS, Fit, SETTINGS, asker, excluded, fit};
use super::packet::{ACK, FIN, Kind, Packet, RST, SYN, parse};

/// Follows one packet.
#[inline(always)]
pub(crate) fn follow(skb: *mut __sk_buff) -> i32 {
    let tcp = parse(skb);
    if tcp.kind != Kind::Tcp {
        return NEXT;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    if !settings.is_steered(tcp.dport) {
        return NEXT;
    }
    let Some(segment) = tcp.segment(skb) else {
        return NEXT;
    };
    let key = FlowKey { saddr: tcp.saddr, daddr: tcp.daddr, sport: tcp.sport, dport: tcp.dport };
    // SAFETY: the kernel's context, valid for the program's run.
    let (mark, ifindex, len) = unsafe { ((*skb).mark, (*skb).ifindex, (*skb).len) };
    let fits = fit(mark, tcp.saddr, ifindex);
    let starts = segment.flags & (SYN | ACK) == SYN;
    // A SYN is the first of its connection but for rare ones, and the map is looked through when it is put in.
    let conn = if starts { None } else { CONNS.get_ptr_mut(&key) };
    if matches!(fits, Fit::Unmarked) && conn.is_none() && excluded(tcp.daddr) {
        return NEXT;
    }
    if broken(settings, &fits, &tcp) {
        bump!(lane_mark(mark, conn), wrong);
    }
    let bytes = u64::from(if tcp.bytes == 0 { len } else { tcp.bytes });
    if starts {
        syn(skb, &key, segment.seq(), bytes);
    } else if let Some(conn) = conn {
        later(&key, conn, segment.flags, bytes);
    }
    NEXT
}

/// Whether this packet breaks invariant 1. Without a mark only while the guard is armed: before, nothing is steered.
#[inline(always)]
fn broken(settings: &Settings, fits: &Fit, tcp: &Packet) -> bool {
    match fits {
        Fit::Right | Fit::Stamp => false,
        Fit::WrongAddress | Fit::WrongUplink => true,
        Fit::Unmarked => settings.armed != 0 && !excluded(tcp.daddr),
    }
}

/// The mark whose lane a packet belongs to: its own, or its connection's where it lost it.
#[inline(always)]
fn lane_mark(mark: u32, conn: Option<*mut Conn>) -> u32 {
    match conn {
        // SAFETY: the lookup gave a live map value.
        Some(conn) if mailsteer_ebpf::Mark::unpack(mark).is_none() => unsafe { (*conn).mark },
        _ => mark,
    }
}

#[inline(always)]
fn syn(skb: *mut __sk_buff, key: &FlowKey, isn: u32, bytes: u64) {
    // SAFETY: the kernel's context.
    let (mark, sk) = unsafe { ((*skb).mark, (*skb).__bindgen_anon_2.sk) };
    let now = count::now();
    let mut conn = Conn {
        started: now,
        sent: now,
        last: count::tick(),
        bytes_out: bytes,
        mark,
        isn,
        uid: u32::MAX,
        gid: u32::MAX,
        ..Conn::default()
    };
    if !sk.is_null() {
        asked_by(skb, sk, key, &mut conn);
    }
    if CONNS.insert(key, &conn, u64::from(BPF_NOEXIST)).is_ok() {
        return bump!(mark, attempts);
    }
    let Some(known) = CONNS.get_ptr_mut(key) else {
        return count::total(Total::Untracked);
    };
    // SAFETY: the lookup gave a live map value.
    if unsafe { (*known).isn } == isn {
        return sent_again(key, known, bytes);
    }
    give_up(key, known);
    match CONNS.insert(key, &conn, u64::from(BPF_NOEXIST)) {
        Ok(()) => bump!(mark, attempts),
        Err(_) => count::total(Total::Untracked),
    }
}

/// A SYN that left before. The second one is told: whoever waits for an answer may begin to doubt.
#[inline(always)]
fn sent_again(key: &FlowKey, conn: *mut Conn, bytes: u64) {
    // SAFETY: the lookup gave a live map value.
    let known = unsafe { &mut *conn };
    known.retransmits = known.retransmits.saturating_add(1);
    known.last = count::tick();
    count::add(&raw mut known.bytes_out, bytes);
    bump!(known.mark, retransmits);
    if known.retransmits == 1 && known.flags & (CONN_DONE | CONN_ESTABLISHED) == 0 {
        count::tell(key, known, Outcome::Again);
    }
}

/// Fills in who asked for a connection, from its socket, and notes at the socket that its SYN left.
#[inline(always)]
fn asked_by(skb: *mut __sk_buff, sk: *mut bpf_sock, key: &FlowKey, conn: &mut Conn) {
    // SAFETY: a socket that the kernel gave, not null.
    conn.local_port = unsafe { (*sk).src_port } as u16;
    // SAFETY: a socket that the kernel gave, not null.
    let storage = unsafe { asker(sk) };
    if storage.is_null() {
        // SAFETY: helpers that take the program's own context.
        (conn.cookie, conn.uid) = unsafe { (bpf_get_socket_cookie(skb.cast()), bpf_get_socket_uid(skb)) };
        return;
    }
    // SAFETY: not null; the storage lives as long as its socket.
    let asker: &mut Asker = unsafe { &mut *storage };
    conn.started = asker.started;
    conn.cookie = asker.cookie;
    conn.cgroup = asker.cgroup;
    conn.pid = asker.pid;
    conn.uid = asker.uid;
    conn.gid = asker.gid;
    if asker.flags & ASKER_LEFT != 0 {
        moved(asker, key);
    }
    asker.flow.saddr = key.saddr;
    asker.flow.sport = key.sport;
    asker.flags |= ASKER_LEFT;
}

/// The same socket's SYN left before from another address (its conntrack entry was deleted so that it moves): that
/// attempt was never answered.
#[inline(always)]
fn moved(asker: &Asker, key: &FlowKey) {
    let old = asker.flow;
    if old == *key {
        return;
    }
    if let Some(conn) = CONNS.get_ptr_mut(&old) {
        give_up(&old, conn);
    }
}

/// Ends a connection whose place another takes, or whose socket has moved on.
#[inline(always)]
pub(crate) fn give_up(key: &FlowKey, conn: *mut Conn) {
    let before = count::set_flags(conn, CONN_DONE);
    if before & CONN_DONE == 0 {
        let counters = count::ended(conn);
        if before & CONN_ESTABLISHED == 0 {
            also!(counters, unanswered);
            // SAFETY: a live map value.
            count::tell(key, unsafe { &*conn }, Outcome::Unanswered);
        }
    }
    let _ = CONNS.remove(key);
}

/// A packet of a known connection that is no SYN.
#[inline(always)]
fn later(key: &FlowKey, conn: *mut Conn, flags: u8, bytes: u64) {
    // SAFETY: the lookup gave a live map value.
    let known = unsafe { &mut *conn };
    known.last = count::tick();
    count::add(&raw mut known.bytes_out, bytes);
    if flags & (RST | FIN) == 0 || known.flags & CONN_ESTABLISHED == 0 {
        return;
    }
    let ended = flags & RST != 0 || count::set_flags(conn, CONN_FIN_OUT) & CONN_FIN_IN != 0;
    if !ended || count::set_flags(conn, CONN_DONE) & CONN_DONE != 0 {
        return;
    }
    let counters = count::ended(conn);
    if flags & RST != 0 {
        also!(counters, reset);
    }
    let _ = CONNS.remove(key);
}
