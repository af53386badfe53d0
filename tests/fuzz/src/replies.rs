//! Receivers' replies, and tables of rules: any text at all.

use mailsteer_core::config::Problem;
use mailsteer_core::signal::reply::{Class, DEFAULT, Reply, ReplyTable};
use std::sync::LazyLock;

static TABLE: LazyLock<Option<ReplyTable>> = LazyLock::new(|| ReplyTable::load("default", DEFAULT).table);

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
