//! What an MTA says of a connection before it says what became of a message.
//!
//! Owns: when each connection was begun, by the MTA's name for it. Must not: know what came of it, or grow without an end.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use super::{Delivery, Line};

/// Connections of one MTA that are open at a time, and some.
const REMEMBERED: usize = 10_000;

/// The connections that an MTA told of.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    begun: HashMap<String, Timestamp>,
    /// In the order in which they began.
    order: VecDeque<String>,
}

impl Sessions {
    /// Notes what a line says of a connection, and adds to a delivery what is known of its own.
    #[must_use]
    pub fn complete(&mut self, line: Line) -> Line {
        match line {
            Line::Connecting { session, at } => {
                if let Some(at) = at {
                    self.begin(session, at);
                }
                Line::Other
            }
            Line::Over { session } => {
                self.begun.remove(&session);
                Line::Other
            }
            Line::Delivery(one) => {
                let connecting = one.session.as_ref().and_then(|session| self.begun.get(session).copied());
                Line::Delivery(Delivery { connecting, ..one })
            }
            other => other,
        }
    }

    fn begin(&mut self, session: String, at: Timestamp) {
        while self.order.len() >= REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.begun.remove(&oldest);
            }
        }
        self.order.push_back(session.clone());
        self.begun.insert(session, at);
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::super::{Mta, read};
    use super::*;

    fn told(sessions: &mut Sessions, line: &str) -> Line {
        let line = format!("2026-11-25T11:59:{line}");
        sessions.complete(read(Mta::OpenSmtpd, line.as_bytes(), &TimeZone::UTC, Timestamp::UNIX_EPOCH))
    }

    fn connecting(sessions: &mut Sessions, second: &str, session: &str) -> Option<String> {
        let delivery = format!(
            "{second}Z host smtpd[55]: {session} mta delivery evpid=1 from=<a@b> to=<c@d> rcpt=<-> source=\"198.18.0.2\" relay=\"192.0.2.25 (mx.d)\" delay=1s result=\"Ok\" stat=\"250 2.0.0 ok\""
        );
        match told(sessions, &delivery) {
            Line::Delivery(one) => one.connecting.map(|at| at.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_delivery_is_of_the_connection_whose_name_it_has() {
        let mut sessions = Sessions::default();
        for line in [
            "10.000001Z host smtpd[55]: 8ae1 mta connecting address=smtp://192.0.2.25:25 host=mx.d",
            "10.000009Z host smtpd[55]: 8ae2 mta connecting address=smtp://192.0.2.25:25 host=mx.d",
            "10.200000Z host smtpd[55]: 8ae1 mta connected",
        ] {
            assert_eq!(told(&mut sessions, line), Line::Other);
        }
        assert_eq!(connecting(&mut sessions, "11", "8ae1").as_deref(), Some("2026-11-25T11:59:10.000001Z"));
        assert_eq!(connecting(&mut sessions, "11", "8ae2").as_deref(), Some("2026-11-25T11:59:10.000009Z"));
        assert_eq!(connecting(&mut sessions, "11", "8ae3"), None, "begun before anybody read");
        let over = "12Z host smtpd[55]: 8ae1 mta disconnected reason=quit messages=1";
        assert_eq!(told(&mut sessions, over), Line::Other);
        assert_eq!(connecting(&mut sessions, "13", "8ae1"), None);
    }

    /// What a stranger may write stands behind the words, never before them.
    #[test]
    fn no_reply_begins_a_connection() {
        let mut sessions = Sessions::default();
        let line = "10Z host smtpd[55]: 8ae1 mta error reason=BANNER rejected: 554 8ae2 mta connecting address=smtp://192.0.2.25:25";
        assert_eq!(told(&mut sessions, line), Line::Other);
        assert_eq!(connecting(&mut sessions, "11", "8ae2"), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut sessions = Sessions::default();
        for n in 0..REMEMBERED + 5 {
            sessions.begin(n.to_string(), Timestamp::UNIX_EPOCH);
        }
        assert_eq!((sessions.begun.len(), sessions.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!sessions.begun.contains_key("4"));
    }
}
