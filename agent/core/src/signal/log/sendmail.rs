//! sendmail: `sendmail/deliver.c`, `logdelivery`, writes the line.

use super::{Clock, Delivery, Line, bracketed, is_id, next_hop, syslog};
use crate::signal::reply::Reply;

/// `QUEUE-ID: to=<A>,<B>, ..., relay=HOST [ADDRESS], dsn=X.Y.Z, stat=TEXT`. Of a success it keeps the reply's words in brackets
/// and not its code.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let headed = syslog::read(line, clock)?;
    let (_queue_id, fields) = headed.message.split_once(": to=").filter(|(id, _)| is_id(id))?;
    if fields.matches(", relay=").count() != 1 || fields.matches(", stat=").count() != 1 {
        return Some(Line::Ambiguous);
    }
    let (recipients, rest) = fields.split_once(", ")?;
    let (own, text) = rest.split_once(", stat=")?;
    let (_, relay) = own.split_once(", relay=")?;
    let Some((destination, _)) = bracketed(relay) else { return Some(Line::NoReply) };
    let reply = match text.strip_prefix("Sent (").and_then(|words| words.strip_suffix(')')) {
        Some(words) => format!("250 2.0.0 {}", words.strip_prefix("2.0.0 ").unwrap_or(words)),
        None => text.strip_prefix("Deferred: ").unwrap_or(text).to_owned(),
    };
    if Reply::read(&reply).is_none() {
        return Some(Line::NoReply);
    }
    let recipients = u32::try_from(recipients.split(',').count()).unwrap_or(u32::MAX);
    Some(Line::Delivery(Delivery {
        at: headed.at,
        pid: headed.pid,
        local_port: None,
        destination,
        host: next_hop(relay),
        reply,
        recipients,
    }))
}
