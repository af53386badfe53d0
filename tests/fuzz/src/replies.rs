//! Receivers' replies, tables of rules, and MTAs' logs: any text at all.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::config::Problem;
use mailsteer_core::signal::log::{self, Line, Mta, Sessions};
use mailsteer_core::signal::reply::{Class, DEFAULT, Reply, ReplyTable};
use std::sync::LazyLock;

static TABLE: LazyLock<Option<ReplyTable>> = LazyLock::new(|| ReplyTable::load("default", DEFAULT).table);

/// Reads it as lines of each MTA's log: what is a delivery has a reply that is one, and a connection that has begun before it.
pub(crate) fn logs(data: &[u8]) {
    for mta in Mta::ALL {
        let (mut sessions, mut begun) = (Sessions::default(), 0);
        for line in data.split(|byte| *byte == b'\n') {
            let line = log::read(mta, line, &TimeZone::UTC, Timestamp::UNIX_EPOCH);
            begun += u32::from(matches!(line, Line::Connecting { .. }));
            if let Line::Delivery(found) = sessions.complete(line) {
                assert!(Reply::read(&found.reply).is_some(), "{found:?}");
                assert!(found.recipients > 0 && (found.connecting.is_none() || begun > 0));
            }
        }
    }
}

/// Judges it as a reply and reads it as a table. A reply below 400 never isolates, whatever its words.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let (Some(table), Some(reply)) = (TABLE.as_ref(), Reply::read(&text)) {
        let judgement = table.judge(&reply, None);
        assert!(reply.code >= 400 || matches!(judgement.class, Class::Accepted | Class::Unknown));
        assert_eq!(judgement.cause.is_some(), judgement.class == Class::NotTheAddress);
        assert!(reply.line.len() <= text.len() + 4 && !reply.line.contains(char::is_control));
    }
    let checked = ReplyTable::load("fuzz", &text);
    assert_eq!(checked.table.is_some(), !checked.problems.iter().any(Problem::is_error));
}
