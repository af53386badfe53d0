//! Postfix: `src/smtp/smtp_trouble.c` and `src/global/log_adhoc.c` write the line.

use super::{Clock, Delivery, Line, bracketed, is_id, next_hop, syslog};
use crate::signal::reply::Reply;

/// `QUEUE-ID: to=<RECIPIENT>, ..., relay=HOST[ADDRESS]:PORT, ..., status=STATUS (TEXT)`.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let headed = syslog::read(line, clock)?;
    // `syslog_name` may be anything; the last part is the program's own name.
    if headed.program.rsplit('/').next() != Some("smtp") {
        return None;
    }
    let (_queue_id, fields) = headed.message.split_once(": to=<").filter(|(id, _)| is_id(id))?;
    // One that is not Postfix's own stands in the recipient's address or in the reply: nobody can tell which.
    if fields.matches(", relay=").count() != 1 {
        return Some(Line::Ambiguous);
    }
    let (_, rest) = fields.split_once(", relay=")?;
    let (relay, rest) = rest.split_once(", ")?;
    let (own, text) = rest.split_once("status=")?;
    let Some((destination, _)) = bracketed(relay) else { return Some(Line::NoReply) };
    let (_status, text) = text.split_once(" (")?;
    let text = text.strip_suffix(')').unwrap_or(text);
    if Reply::read(text).is_none() {
        return Some(Line::NoReply);
    }
    Some(Line::Delivery(Delivery {
        at: headed.at,
        pid: headed.pid,
        // One that was used before came from another process, by way of the connection cache.
        handed: own.contains("conn_use="),
        session: None,
        connecting: None,
        local_port: None,
        destination,
        host: next_hop(relay),
        reply: text.to_owned(),
        recipients: 1,
    }))
}
