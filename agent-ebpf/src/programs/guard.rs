//! The second lock: a packet to a steered port leaves with a mark that names its address, or not at all.
//!
//! Repeats no policy: it knows ports, excluded destinations and which address each source id has. On the way of
//! every packet of the host, so it reads one header and, for all that is not ours, nothing else.

use aya_ebpf::bindings::__sk_buff;
use mailsteer_ebpf::{ASKER_ELSEWHERE, Held, Settings};

use super::maps::{Fit, HELD, SETTINGS, UPLINKS, asker, excluded, fit};
use super::packet::{Kind, parse};
use super::{NEXT, SHOT, count};

/// The loopback interface, in every namespace.
const LOOPBACK: u32 = 1;
/// What a cgroup program says to let a packet go, and to drop it.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// At an uplink's egress.
#[inline(always)]
pub(crate) fn at_uplink(skb: *mut __sk_buff) -> i32 {
    let packet = parse(skb);
    let Some(settings) = SETTINGS.get(0) else {
        return SHOT;
    };
    match packet.kind {
        Kind::Tcp => {}
        Kind::Unreadable => return hold(settings, Held::Unreadable),
        _ => return NEXT,
    }
    if !settings.is_steered(packet.dport) {
        return NEXT;
    }
    // SAFETY: the kernel's context, valid for the program's run.
    let (mark, ifindex) = unsafe { ((*skb).mark, (*skb).ifindex) };
    let reason = match fit(mark, packet.saddr, ifindex) {
        Fit::Right | Fit::Stamp => return NEXT,
        Fit::Unmarked => Held::NoMark,
        Fit::WrongAddress => Held::WrongAddress,
        Fit::WrongUplink => Held::WrongUplink,
    };
    if excluded(packet.daddr) {
        return NEXT;
    }
    hold(settings, reason)
}

#[inline(always)]
fn hold(settings: &Settings, reason: Held) -> i32 {
    if let Some(counter) = HELD.get_ptr_mut(reason as u32) {
        count::add(counter, 1);
    }
    if settings.armed != 0 { SHOT } else { NEXT }
}

/// At the egress of every socket, on whatever interface: only those that asked for a steered port are looked at.
#[inline(always)]
pub(crate) fn at_cgroup(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel's context; a socket it names lives as long as the packet.
    let (sk, ifindex, mark) = unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).ifindex, (*skb).mark) };
    if sk.is_null() {
        return ALLOW;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return DENY;
    };
    // SAFETY: a socket that the kernel gave, not null.
    if !settings.is_steered(u16::from_be(unsafe { (*sk).dst_port })) {
        return ALLOW;
    }
    // Nearly all leaves by an uplink.
    if UPLINKS.get_ptr(ifindex).is_some() {
        return ALLOW;
    }
    // SAFETY: likewise.
    let asker = unsafe { asker(sk) };
    if asker.is_null() {
        return ALLOW;
    }
    if ifindex != LOOPBACK && !may_leave_elsewhere(skb, settings, mark, ifindex) {
        return DENY;
    }
    // SAFETY: the storage was checked not to be null, and lives as long as its socket.
    unsafe { (*asker).flags |= ASKER_ELSEWHERE };
    ALLOW
}

/// Whether a packet may leave by an interface that is no uplink; counts it if not.
#[inline(always)]
fn may_leave_elsewhere(skb: *mut __sk_buff, settings: &Settings, mark: u32, ifindex: u32) -> bool {
    let packet = parse(skb);
    let reason = match packet.kind {
        Kind::Tcp if !settings.is_steered(packet.dport) || excluded(packet.daddr) => return true,
        Kind::Tcp => match fit(mark, packet.saddr, ifindex) {
            Fit::Right | Fit::Stamp => return true,
            _ => Held::Undeclared,
        },
        Kind::Unreadable => Held::Unreadable,
        _ => return true,
    };
    hold(settings, reason) == NEXT
}
