//! What a receiver says while it speaks in clear: a greeting or a reply of 4xx or 5xx is told, everything else passes.
//!
//! Reads how the payload of a packet begins, and nothing behind it: a server that sends several replies in one packet is
//! heard for the first of them. Trusts nothing: who guesses ports may send what he likes, so the greeting has to stand
//! exactly where the receiver's words begin, and what follows within a small window behind what was heard.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use mailsteer_ebpf::{CONN_GREETED, CONN_TLS, Conn, FlowKey, SAID_TEXT, Said};

use super::count;
use super::packet::{Packet, Segment};

/// Content types of TLS records: change_cipher_spec to application_data (RFC 8446 section 5.1).
const TLS_FIRST: u8 = 20;
const TLS_LAST: u8 = 23;
/// A reply is not shorter: a code and the end of the line.
const SHORTEST: u32 = 5;
/// Longer than any link's header: what is longer has something behind the payload.
const LINK: u32 = 32;
/// How far behind what was heard a reply may stand: packets that were lost on the way to here, and no more.
const WINDOW: u32 = 65_536;

/// Looks at a packet of a connection that stands.
#[inline(always)]
pub(crate) fn hear(skb: *mut __sk_buff, tcp: &Packet, segment: &Segment, key: &FlowKey, conn: *mut Conn) {
    let at = tcp.at + segment.header();
    if tcp.bytes <= at {
        return;
    }
    let payload = tcp.bytes - at;
    // SAFETY: a live map value.
    let (flags, next_in) = unsafe { ((*conn).flags, (*conn).next_in) };
    let ahead = segment.seq().wrapping_sub(next_in);
    let greeting = flags & CONN_GREETED == 0;
    if ahead >= WINDOW || (greeting && ahead != 0) {
        return;
    }
    // SAFETY: a live map value.
    unsafe { (*conn).next_in = segment.seq().wrapping_add(payload) };
    if greeting {
        count::set_flags(conn, CONN_GREETED);
    }
    // SAFETY: the kernel's context, valid for the program's run.
    let len = unsafe { (*skb).len };
    if payload < SHORTEST || len < tcp.bytes || len - tcp.bytes > LINK {
        return;
    }
    // From the end, for where the network header starts is not told, and the helper that knows reads no further than the
    // first fragment.
    let at = len - payload;
    let Some(first) = first_bytes(skb, at) else {
        return;
    };
    if (TLS_FIRST..=TLS_LAST).contains(&first[0]) {
        count::set_flags(conn, CONN_TLS);
    } else if is_failure(first) {
        tell(skb, at, payload, key, conn, greeting);
    }
}

#[inline(always)]
fn first_bytes(skb: *mut __sk_buff, at: u32) -> Option<[u8; 4]> {
    let mut first = [0; 4];
    // SAFETY: the helper writes exactly four bytes, or fails.
    let code = unsafe { bpf_skb_load_bytes(skb.cast(), at, first.as_mut_ptr().cast(), 4) };
    (code == 0).then_some(first)
}

/// Whether these are a code of 4xx or 5xx and what may stand behind one (RFC 5321 section 4.2).
#[inline(always)]
fn is_failure([class, second, third, behind]: [u8; 4]) -> bool {
    (class == b'4' || class == b'5')
        && second.is_ascii_digit()
        && third.is_ascii_digit()
        && matches!(behind, b' ' | b'-' | b'\r')
}

#[inline(always)]
fn tell(skb: *mut __sk_buff, at: u32, payload: u32, key: &FlowKey, conn: *mut Conn, greeting: bool) {
    // SAFETY: a live map value.
    let known = unsafe { &*conn };
    let mut said = Said {
        at: count::now(),
        cookie: known.cookie,
        daddr: count::bytes(key.daddr),
        saddr: count::bytes(key.saddr),
        mark: known.mark,
        sport: key.sport,
        dport: key.dport,
        greeting: u32::from(greeting),
        length: 0,
        text: [0; SAID_TEXT],
    };
    // One is added behind the comparison, for the verifier of 6.1 learns no least value from `!= 0` and refuses a length
    // that may be zero. The compiler would leave the comparison out, for it knows how it ends.
    let behind_first = core::hint::black_box(payload.saturating_sub(1).min(SAID_TEXT as u32 - 1));
    if behind_first >= SAID_TEXT as u32 {
        return;
    }
    let length = behind_first + 1;
    // SAFETY: the helper writes at most `length` bytes, which is at most the text's size, or fails.
    let code = unsafe { bpf_skb_load_bytes(skb.cast(), at, said.text.as_mut_ptr().cast(), length) };
    if code == 0 {
        said.length = length;
        count::tell_said(&said);
    }
}
