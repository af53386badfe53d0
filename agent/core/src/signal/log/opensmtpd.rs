//! OpenSMTPD: `usr.sbin/smtpd/mta.c`, `mta_log`, writes the line, and `mta_session.c` those of its connections. One process has all
//! of them, so that its number does not tell which; the session's name does, with the line that says when it was begun.

use super::{Clock, Delivery, Line, between, is_id, syslog};
use crate::signal::reply::Reply;

/// `SESSION mta delivery evpid=... from=<...> to=<...> rcpt=<...> source="..." relay="ADDRESS (HOST)" delay=... result="..."
/// stat="REPLY"`.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let headed = syslog::read(line, clock)?;
    if headed.program != "smtpd" {
        return None;
    }
    let (session, said) = headed.message.split_once(" mta ").filter(|(id, _)| is_id(id))?;
    let session = session.to_owned();
    if said.starts_with("connecting address=") {
        return Some(Line::Connecting { session, at: headed.at });
    }
    if said.starts_with("disconnected ") {
        return Some(Line::Over { session });
    }
    let fields = said.strip_prefix("delivery ")?;
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
        pid: headed.pid,
        handed: true,
        session: Some(session),
        connecting: None,
        local_port: None,
        destination,
        // What stands in brackets is the reverse name, which whoever has the address chooses.
        host: None,
        reply: reply.to_owned(),
        recipients: 1,
    }))
}
