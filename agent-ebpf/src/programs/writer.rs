//! Which process uses a connection: MTAs hand connections from one process to another (Postfix's connection cache), or have
//! several open, and what their logs say of a delivery names the process only.
//!
//! Never refuses, and says nothing of sockets that never asked for a steered port.

use core::ffi::c_void;

use mailsteer_ebpf::{Asker, TURNS, TURNS_MANY, Turned, Writer};

use super::count;
use super::maps::{SETTINGS, WRITERS, asker};

const SECOND: u64 = 1_000_000_000;

/// A process called `connect()`: that it is at this socket is told with the connection.
#[inline(always)]
pub(crate) fn connected(pid: u32, cookie: u64) {
    if let Some(writer) = WRITERS.get_ptr_mut(&pid) {
        // SAFETY: the lookup gave a live map value.
        unsafe { (*writer).cookie = cookie };
    } else {
        // A full map pushes the oldest out.
        let _ = WRITERS.insert(&pid, Writer { cookie, since: 0, turns: 0 }, 0);
    }
}

/// Where the port that a socket is connected to stands in the kernel's `struct sock`: behind two addresses and a hash
/// (`skc_dport`, include/net/sock.h), so since Linux 3.8. The verifier refuses a program that reads where no such field is.
const PEER_PORT: usize = 12;

/// A process writes to a socket: any socket of the host, most of which are told by their port without a helper call.
#[inline(always)]
pub(crate) fn wrote(sk: *mut c_void, pid: u32) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return 0;
    };
    // SAFETY: the kernel's own argument, a socket, read where the verifier knows a number of two bytes.
    let port = unsafe { *sk.cast::<u8>().add(PEER_PORT).cast::<u16>() };
    if !settings.is_steered(u16::from_be(port)) {
        return 0;
    }
    // SAFETY: the kernel's own argument, a socket.
    let storage = unsafe { asker(sk) };
    if storage.is_null() {
        return 0;
    }
    // SAFETY: not null; lives as long as its socket.
    let asker: &mut Asker = unsafe { &mut *storage };
    let handed = asker.writer != pid;
    let Some(writer) = WRITERS.get_ptr_mut(&pid) else {
        if tell(asker, pid, false) {
            connected(pid, asker.cookie);
        }
        return 0;
    };
    // SAFETY: the lookup gave a live map value.
    let writer = unsafe { &mut *writer };
    if writer.cookie == asker.cookie && !handed {
        return 0;
    }
    let many = turned(writer);
    // Where many are told no more, at least whose connection it is no longer.
    if (handed || writer.turns != TURNS_MANY || many) && !tell(asker, pid, many) {
        if many {
            // Nobody knows of it yet.
            writer.turns = TURNS;
        }
        return 0;
    }
    writer.cookie = asker.cookie;
    0
}

/// Counts a turn; whether it is the one too many.
#[inline(always)]
fn turned(writer: &mut Writer) -> bool {
    if writer.turns == TURNS_MANY {
        return false;
    }
    let now = count::now();
    if now - writer.since > SECOND {
        writer.since = now;
        writer.turns = 0;
    }
    writer.turns += 1;
    if writer.turns > TURNS {
        writer.turns = TURNS_MANY;
        return true;
    }
    false
}

/// Tells it; a turn that could not be told is tried again with the next write.
#[inline(always)]
fn tell(asker: &mut Asker, pid: u32, many: bool) -> bool {
    let told = count::tell_turned(&Turned {
        at: count::now(),
        cookie: asker.cookie,
        daddr: count::bytes(asker.flow.daddr),
        pid,
        many: u32::from(many),
    });
    if told {
        asker.writer = pid;
    }
    told
}
