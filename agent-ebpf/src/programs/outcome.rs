//! What became of a connection where no packet tells: given up, or never sent.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock,
};
use aya_ebpf::programs::SockOpsContext;
use mailsteer_ebpf::{
    ASKER_ELSEWHERE, ASKER_LEFT, ASKER_TOLD, Asker, CONN_DONE, CONN_ESTABLISHED, CONN_ORPHAN, Event, Outcome,
    Total,
};

use super::count;
use super::flow_out::give_up;
use super::maps::{CONNS, asker};

const AF_INET: u32 = 2;
/// What stands before an IPv4 address where IPv6 is expected.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// A socket starts to connect, or changes its state.
#[inline(always)]
pub(crate) fn changed(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the kernel's context, valid for the program's run.
    let op = unsafe { (*ops).op };
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB
        && op != BPF_SOCK_OPS_STATE_CB
        && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
    {
        return 1;
    }
    // Of all changes of state only the last is asked for.
    if op == BPF_SOCK_OPS_STATE_CB && ctx.arg(1) != BPF_TCP_CLOSE {
        return 1;
    }
    // SAFETY: the kernel's context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return 1;
    }
    // SAFETY: a socket that the kernel gave, not null.
    let storage = unsafe { asker(sk) };
    if storage.is_null() {
        return 1;
    }
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        // SAFETY: not null; lives as long as its socket.
        let asker: &mut Asker = unsafe { &mut *storage };
        // By this address (a tag, perhaps) its stream is found if no SYN leaves.
        asker.flow.saddr = own_address(ctx);
        asker.flow.sport = ctx.local_port() as u16;
        let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
        // Without the flag the release of the socket and the sweep tell what they can.
        let _ = ctx.set_cb_flags(flags as i32);
        return 1;
    }
    if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        // SAFETY: not null; lives as long as its socket.
        stands(unsafe { &mut *storage });
    } else {
        // SAFETY: not null; lives as long as its socket.
        closed(ctx, unsafe { &mut *storage });
    }
    1
}

/// A connection stands. If no program saw its SYN leave, a stranger's program ended the chain before ours: it cannot
/// be followed, and must not be told as one of which nothing left.
#[inline(always)]
fn stands(asker: &mut Asker) {
    if asker.flags & (ASKER_LEFT | ASKER_ELSEWHERE | ASKER_TOLD) == 0 {
        asker.flags |= ASKER_TOLD;
        count::total(Total::Untracked);
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, asker: &mut Asker) {
    if asker.flags & ASKER_TOLD != 0 {
        return;
    }
    if asker.flags & ASKER_LEFT != 0 {
        asker.flags |= ASKER_TOLD;
        return left_and_closed(asker);
    }
    if asker.flags & ASKER_ELSEWHERE != 0 || ctx.arg(0) != BPF_TCP_SYN_SENT {
        asker.flags |= ASKER_TOLD;
        return;
    }
    not_sent(asker, ctx_retransmits(ctx));
}

/// The socket of a connection whose SYN left has closed.
#[inline(always)]
fn left_and_closed(asker: &Asker) {
    let key = asker.flow;
    let Some(conn) = CONNS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: the lookup gave a live map value.
    let (flags, cookie) = unsafe { ((*conn).flags, (*conn).cookie) };
    if cookie != asker.cookie {
        return;
    }
    if flags & CONN_DONE != 0 {
        let _ = CONNS.remove(&key);
    } else if flags & CONN_ESTABLISHED != 0 {
        // A reset may still follow and is to be counted as one: the sweep ends what nothing follows.
        count::set_flags(conn, CONN_ORPHAN);
        // SAFETY: a live map value.
        unsafe { (*conn).last = count::tick() };
    } else {
        give_up(&key, conn);
    }
}

#[inline(always)]
fn ctx_retransmits(ctx: &SockOpsContext) -> u8 {
    // SAFETY: the kernel's context.
    let again = unsafe { (*ctx.ops).total_retrans };
    if again > 255 { 255 } else { again as u8 }
}

#[inline(always)]
fn own_address(ctx: &SockOpsContext) -> [u32; 4] {
    if ctx.family() == AF_INET {
        return [0, 0, MAPPED, ctx.local_ip4()];
    }
    // The verifier wants each word read by itself.
    // SAFETY: the kernel's context.
    unsafe {
        let words = (&raw const (*ctx.ops).local_ip6).cast::<u32>();
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    }
}

/// A socket goes: if its `connect()` came to nothing and nobody told, it is told here. So it is where `connect()` failed
/// before any SYN (no route, no free port), and where a program closes a socket that still waits: this comes before
/// the change of its state.
#[inline(always)]
pub(crate) fn released(sk: *mut bpf_sock) -> i32 {
    // SAFETY: the program's own context, which stands for its socket.
    let storage = unsafe { asker(sk) };
    if !storage.is_null() {
        // SAFETY: not null; lives as long as its socket.
        let asker: &mut Asker = unsafe { &mut *storage };
        if asker.flags & (ASKER_LEFT | ASKER_ELSEWHERE | ASKER_TOLD) == 0 {
            not_sent(asker, 0);
        }
    }
    1
}

/// Counts and tells that no SYN of this attempt left the host.
#[inline(always)]
pub(crate) fn not_sent(asker: &mut Asker, retransmits: u8) {
    asker.flags |= ASKER_TOLD;
    count::total(Total::NotSent);
    count::tell_event(&Event {
        started: asker.started,
        decided: count::now(),
        cookie: asker.cookie,
        cgroup: asker.cgroup,
        daddr: count::bytes(asker.flow.daddr),
        saddr: count::bytes(asker.flow.saddr),
        pid: asker.pid,
        uid: asker.uid,
        mark: 0,
        sport: 0,
        local_port: asker.flow.sport,
        dport: asker.flow.dport,
        outcome: Outcome::NotSent as u8,
        retransmits,
        gid: asker.gid,
    });
}
