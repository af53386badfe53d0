//! OpenSMTPD: `usr.sbin/smtpd/mta.c`, `mta_log`, writes the line. One process has all connections, so its number tells nothing.

use super::{Clock, Delivery, Line, between, is_id, syslog};
use crate::signal::reply::Reply;

/// `SESSION mta delivery evpid=... from=<...> to=<...> rcpt=<...> source="..." relay="ADDRESS (HOST)" delay=... result="..."
/// stat="REPLY"`.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let headed = syslog::read(line, clock)?;
    if headed.program != "smtpd" {
        return None;
    }
    let (_session, fields) = headed.message.split_once(" mta delivery ").filter(|(id, _)| is_id(id))?;
    if fields.matches(" relay=\"").count() != 1 {
        return Some(Line::Ambiguous);
    }
    let (relay, rest) = between(fields, " relay=\"", "\"")?;
    let destination = relay.split(' ').next()?.trim_matches(['[', ']']).parse();
    let Ok(destination) = destination else { return Some(Line::NoReply) };
    let (_, reply) = rest.split_once(" stat=\"")?;
    let reply = reply.strip_suffix('"').unwrap_or(reply);
    if Reply::read(reply).is_none() {
        return Some(Line::NoReply);
    }
    Some(Line::Delivery(Delivery {
        at: headed.at,
        pid: None,
        local_port: None,
        destination,
        // What stands in brackets is the reverse name, which whoever has the address chooses.
        host: None,
        reply: reply.to_owned(),
        recipients: 1,
    }))
}
