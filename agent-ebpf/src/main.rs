//! The programs: the guard that holds what has no right to leave, and the followers that count what leaves.
//!
//! Owns: the entry points, one for each place in the kernel. Must not: hold policy; whether a connection is steered
//! and from where is the nftables rules' word, carried by the mark. Every tcx program returns `TCX_NEXT` unless it
//! drops, for `TC_ACT_OK` would end the chain for everybody behind it.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic additions have no other name on this target")]

mod programs;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::macros::{
    btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, fentry, sock_ops,
};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext,
    TcContext,
};

/// tcx egress, first: may this packet leave?
#[classifier]
fn guard(ctx: TcContext) -> i32 {
    programs::guard::at_uplink(ctx.skb.skb)
}

/// tcx egress, after the guard: what leaves.
#[classifier]
fn flow_out(ctx: TcContext) -> i32 {
    programs::flow_out::follow(ctx.skb.skb)
}

/// tcx ingress: what comes back.
#[classifier]
fn flow_in(ctx: TcContext) -> i32 {
    programs::flow_in::follow(ctx.skb.skb)
}

/// Second anchor: interfaces that nobody declared.
#[cgroup_skb]
fn guard_cgroup(ctx: SkBuffContext) -> i32 {
    programs::guard::at_cgroup(ctx.skb.skb)
}

/// Who connects, IPv4.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    programs::connect::asked(&ctx, false)
}

/// Who connects, IPv6.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    programs::connect::asked(&ctx, true)
}

/// What became of it, where no packet tells.
#[sock_ops]
fn outcome(ctx: SockOpsContext) -> u32 {
    programs::outcome::changed(&ctx)
}

/// What never got as far as a SYN.
#[cgroup_sock(sock_release)]
fn release(ctx: SockContext) -> i32 {
    programs::outcome::released(ctx.sock.cast::<bpf_sock>())
}

/// Which process uses a connection: Linux 6.3 and later.
#[btf_tracepoint(function = "sock_send_length")]
fn sent(ctx: BtfTracePointContext) -> i32 {
    programs::writer::wrote(ctx.arg(0), ctx.tgid())
}

/// The same before.
#[fentry(function = "tcp_sendmsg")]
fn sends(ctx: FEntryContext) -> i32 {
    programs::writer::wrote(ctx.arg(0), ctx.tgid())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the kernel asks for before it lends GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
