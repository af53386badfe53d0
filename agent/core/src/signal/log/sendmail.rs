//! sendmail: `sendmail/deliver.c`, `logdelivery`, writes the line.

use super::{Clock, Delivery, Line, bracketed, is_id, next_hop, syslog};
use crate::signal::reply::Reply;

/// `QUEUE-ID: to=<A>,<B>, ..., relay=HOST [ADDRESS], dsn=X.Y.Z, reply=REPLY, stat=TEXT`. Of a success it keeps the reply's words
/// in brackets and not its code; of all else releases since 8.16 keep the reply, and earlier ones what of it is in `stat`.
pub(super) fn read(line: &str, clock: &Clock<'_>) -> Option<Line> {
    let headed = syslog::read(line, clock)?;
    let (_queue_id, fields) = headed.message.split_once(": to=").filter(|(id, _)| is_id(id))?;
    match (fields.matches(", relay=").count(), fields.matches(", stat=").count()) {
        (1, 1) => {}
        // Nobody was asked: a mailbox, or a notice of its own.
        (0, 1) => return Some(Line::NoReply),
        _ => return Some(Line::Ambiguous),
    }
    let (recipients, rest) = fields.split_once(", ")?;
    let (own, text) = rest.split_once(", stat=")?;
    let (_, relay) = own.split_once(", relay=")?;
    let Some((destination, _)) = bracketed(relay) else { return Some(Line::NoReply) };
    let said = relay.split_once(", reply=").map(|(_, reply)| reply);
    let reply = match (said, text.strip_prefix("Sent (").and_then(|words| words.strip_suffix(')'))) {
        (Some(reply), _) => reply.to_owned(),
        (None, Some(words)) => format!("250 2.0.0 {}", words.strip_prefix("2.0.0 ").unwrap_or(words)),
        (None, None) => text.strip_prefix("Deferred: ").unwrap_or(text).to_owned(),
    };
    if Reply::read(&reply).is_none() {
        return Some(Line::NoReply);
    }
    let recipients = u32::try_from(recipients.split(',').count()).unwrap_or(u32::MAX);
    Some(Line::Delivery(Delivery {
        at: headed.at,
        pid: headed.pid,
        // It keeps connections, and hands none on; with several of them it may be at one that it opened before another.
        handed: false,
        session: None,
        connecting: None,
        local_port: None,
        destination,
        host: next_hop(relay),
        reply,
        recipients,
    }))
}
