//! Who asks for a connection: the only place where the process is known on every kernel.
//!
//! Never refuses. What it notes lies at the socket (socket storage), which is cheaper than a map keyed by cookie
//! and goes with the socket.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_uid_gid,
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::programs::SockAddrContext;
use mailsteer_ebpf::{ASKER_ELSEWHERE, ASKER_LEFT, ASKER_TOLD, Asker, CGROUP_MAGIC, FlowKey, Total};

use super::count;
use super::maps::{ASKERS, CGROUPS, SETTINGS, excluded};
use super::outcome;
use super::writer;

const ALLOW: i32 = 1;
const SOCK_STREAM: u32 = 1;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
/// How deep a cgroup is looked for among a process's ancestors.
const CGROUP_LEVELS: i32 = 8;
/// What stands before an IPv4 address where IPv6 is expected.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// `connect()` was called.
#[inline(always)]
pub(crate) fn asked(ctx: &SockAddrContext, v6: bool) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, valid for the program's run.
    let (kind, port) = unsafe { ((*addr).type_, (*addr).user_port) };
    if kind != SOCK_STREAM {
        return ALLOW;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return ALLOW;
    };
    let port = u16::from_be(port as u16);
    // SAFETY: the kernel's context.
    let sk = unsafe { (*addr).__bindgen_anon_1.sk };
    if sk.is_null() || !settings.is_steered(port) {
        return ALLOW;
    }
    // SAFETY: a helper that takes the program's own context.
    if unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != settings.netns_cookie {
        return ALLOW;
    }
    let daddr = destination(ctx, v6);
    if excluded(daddr) {
        // SAFETY: the map is a socket storage, the socket is the context's.
        let _ = unsafe { bpf_sk_storage_delete((&raw const ASKERS).cast_mut().cast(), sk.cast()) };
        return ALLOW;
    }
    note(ctx, sk, daddr, port);
    count::total(Total::Asked);
    if settings.cgroup_streams != 0 {
        mark_by_cgroup(ctx, sk);
    }
    ALLOW
}

#[inline(always)]
fn destination(ctx: &SockAddrContext, v6: bool) -> [u32; 4] {
    let addr = ctx.sock_addr;
    if v6 {
        // The verifier wants each word read by itself.
        // SAFETY: the kernel's context.
        unsafe {
            let words = (&raw const (*addr).user_ip6).cast::<u32>();
            [
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ]
        }
    } else {
        // SAFETY: the kernel's context.
        [0, 0, MAPPED, unsafe { (*addr).user_ip4 }]
    }
}

/// Notes at the socket who asks.
#[inline(always)]
fn note(ctx: &SockAddrContext, sk: *mut bpf_sock, daddr: [u32; 4], dport: u16) {
    let (ids, pid) = (bpf_get_current_uid_gid(), ctx.tgid());
    let mut asker = Asker {
        started: count::now(),
        // SAFETY: a helper that takes the program's own context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        // SAFETY: a helper without arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        flow: FlowKey { daddr, dport, ..FlowKey::default() },
        pid,
        uid: ids as u32,
        gid: (ids >> 32) as u32,
        flags: 0,
        writer: pid,
    };
    // Made with this value, or as it was: asked for first, it would take every connection one call more.
    // SAFETY: the map is a socket storage of `Asker`, the socket is the context's.
    let storage = unsafe {
        bpf_sk_storage_get(
            (&raw const ASKERS).cast_mut().cast(),
            sk.cast(),
            (&raw mut asker).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    }
    .cast::<Asker>();
    if !storage.is_null() {
        // SAFETY: not null; lives as long as its socket.
        let kept: &mut Asker = unsafe { &mut *storage };
        if kept.started != asker.started {
            again(kept, &asker);
        }
    }
    writer::connected(asker.pid, asker.cookie);
}

/// A second `connect()` on one socket: if the first came to nothing, nobody else will tell.
#[inline(always)]
fn again(earlier: &mut Asker, asker: &Asker) {
    if earlier.flags & (ASKER_LEFT | ASKER_ELSEWHERE | ASKER_TOLD) == 0 {
        outcome::not_sent(earlier, 0);
    }
    *earlier = *asker;
}

/// Marks a socket whose process lies in a cgroup that a stream matches, unless somebody marked it already.
#[inline(always)]
fn mark_by_cgroup(ctx: &SockAddrContext, sk: *mut bpf_sock) {
    // SAFETY: a socket that the kernel gave.
    if unsafe { (*sk).mark } != 0 {
        return;
    }
    // The innermost cgroup wins.
    let mut index = None;
    for level in 0..=CGROUP_LEVELS {
        // SAFETY: a helper that takes a number.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if let Some(found) = CGROUPS.get_ptr(id) {
            // SAFETY: the lookup gave a live map value.
            index = Some(unsafe { *found });
        }
    }
    let Some(index) = index else {
        return;
    };
    let mut mark = CGROUP_MAGIC | index;
    // SAFETY: the option's value is four bytes. A failure leaves the socket unmarked: the stream does not match.
    let _ = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_MARK, (&raw mut mark).cast(), size_of::<u32>() as i32)
    };
}
