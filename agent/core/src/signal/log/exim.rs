//! Exim's main log: `src/deliver.c` writes the line; its fields are in chapter 53 of the specification. By syslog it has a head
//! before it, and its own time only where `syslog_timestamp` is set, as it is by default.

use jiff::Timestamp;
use jiff::civil::DateTime;

use super::{Clock, Delivery, Line, bracketed, next_hop, syslog};
use crate::signal::reply::Reply;

/// `DATE TIME [ZONE] [PID] MESSAGE-ID FLAG ADDRESS ... H=HOST [ADDRESS]:PORT I=[ADDRESS]:PORT ...`, then ` C="REPLY"`, or `: ` and
/// what went wrong.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    if has_own_time(line) {
        return own(line, clock);
    }
    let headed = syslog::read(line, clock)?;
    // `syslog_processname` is `exim`, or `exim4` with Debian's.
    if !headed.program.starts_with("exim") {
        return None;
    }
    if has_own_time(headed.message) {
        return own(headed.message, clock);
    }
    message(headed.message, headed.at)
}

/// `YYYY-MM-DD HH:MM:SS`, which no syslog writes.
fn has_own_time(line: &str) -> bool {
    let bytes = line.as_bytes();
    bytes.len() > 19 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b' ' && bytes[0].is_ascii_digit()
}

fn own(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let mut words = line.splitn(3, ' ');
    let (date, time) = (words.next()?, words.next()?);
    let mut rest = words.next()?;
    let mut zone = None;
    let (first, after) = rest.split_once(' ')?;
    if first.starts_with(['+', '-']) && first.len() == 5 {
        zone = Some(first);
        rest = after;
    }
    message(rest, at(date, time, zone, clock))
}

/// `[PID] MESSAGE-ID FLAG ...`.
fn message(text: &str, at: Option<Timestamp>) -> Option<Line> {
    let (first, mut after) = text.split_once(' ')?;
    // The process that writes is not the one that connected: it is passed over.
    if first.starts_with('[') {
        (_, after) = after.split_once(' ')?;
    }
    let (flag, delivery) = after.split_once(' ')?;
    // `>>`: handed on while it was still received.
    if !matches!(flag, "=>" | "->" | ">>" | "**" | "==") {
        return None;
    }
    // A local part may hold anything, and is written without its quotes: each field once, or it could be a stranger's.
    let once = |field: &str| delivery.matches(field).count() == 1;
    let address = delivery.split(' ').next().unwrap_or_default();
    let is_plain = address.contains('@') && once(" H=") && once(" R=") && once(" T=");
    let has_reply = matches!(flag, "=>" | "->" | ">>");
    if !is_plain || (has_reply && delivery.matches(" C=\"").count() > 1) {
        return Some(Line::Ambiguous);
    }
    let (_, host) = delivery.split_once(" H=")?;
    let (destination, fields) = bracketed(host)?;
    let text = if has_reply {
        let (_, reply) = fields.split_once(" C=\"")?;
        reply.rsplit_once('"').map_or(reply, |(reply, _)| reply)
    } else {
        fields.split_once(": ")?.1
    };
    if Reply::read(text).is_none() {
        return Some(Line::NoReply);
    }
    let own = fields.split_once(" C=\"").map_or(fields, |(own, _)| own);
    let own = own.split_once(": ").map_or(own, |(own, _)| own);
    Some(Line::Delivery(Delivery {
        at,
        pid: None,
        handed: true,
        session: None,
        connecting: None,
        local_port: local_port(own),
        destination,
        host: next_hop(host),
        reply: text.to_owned(),
        recipients: 1,
    }))
}

fn at(date: &str, time: &str, zone: Option<&str>, clock: &Clock<'_>) -> Option<Timestamp> {
    if let Some(zone) = zone {
        let (hours, minutes) = zone.split_at_checked(3)?;
        return format!("{date}T{time}{hours}:{minutes}").parse().ok();
    }
    let local: DateTime = format!("{date}T{time}").parse().ok()?;
    Some(local.to_zoned_datetime(clock.zone.clone()).ok()?.timestamp())
}

/// From `I=[ADDRESS]:PORT` (log_selector `+outgoing_interface`).
fn local_port(fields: &str) -> Option<u16> {
    let (_, rest) = fields.split_once(" I=")?;
    let (_, rest) = bracketed(rest)?;
    let digits = rest.strip_prefix(':')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}
