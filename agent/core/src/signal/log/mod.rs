//! What MTAs write down of deliveries.
//!
//! Owns: one reader for each MTA, from a line to a [`Delivery`]. Must not: read files, judge a reply, or know which connection it
//! was. What an MTA says in its own words ("connection refused", "lost connection") is no reply of a receiver.
//!
//! **Hostile lines.** A recipient's address and a receiver's reply are written by strangers, and may hold anything, a field of
//! the log line for one. A line is read by its MTA's own grammar, and where a stranger's text could be taken for a field of
//! the line, the line is [`Line::Ambiguous`]: counted, and of no meaning.

mod counted;
mod exim;
mod opensmtpd;
mod postfix;
mod sendmail;
mod syslog;

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::follow::Entry;

pub use counted::{LogCounts, RECIPIENTS};

/// Longer lines are not read: Postfix cuts what it logs at 2,000 bytes or so, and syslog at 8,192.
const LONGEST: usize = 16_384;

/// Whose log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mta {
    /// Postfix: `smtp` of any instance, by syslog or maillog_file.
    Postfix,
    /// Exim's main log.
    Exim,
    /// OpenSMTPD.
    OpenSmtpd,
    /// sendmail.
    Sendmail,
}

impl Mta {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Postfix, Self::Exim, Self::OpenSmtpd, Self::Sendmail];

    /// The word for it in config and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Exim => "exim",
            Self::OpenSmtpd => "opensmtpd",
            Self::Sendmail => "sendmail",
        }
    }
}

/// One delivery that reached a receiver, and what the receiver said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// When the line was written; `None` where it does not say.
    pub at: Option<Timestamp>,
    /// The process that had the connection, where the line says it and it has one at a time.
    pub pid: Option<u32>,
    /// The connection's port on this host, where the line says it.
    pub local_port: Option<u16>,
    /// The receiver.
    pub destination: IpAddr,
    /// The name of its mail server by which the MTA called it, as the MX record has it; `None` where the line does not say, or has
    /// a name that the receiver could have chosen.
    pub host: Option<String>,
    /// What it said: code and text.
    pub reply: String,
    /// To how many recipients.
    pub recipients: u32,
}

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A delivery, or an attempt at one, with the receiver's reply.
    Delivery(Delivery),
    /// An attempt of which no receiver said anything.
    NoReply,
    /// A delivery whose fields could be a stranger's.
    Ambiguous,
    /// Something else.
    Other,
}

/// Reads a line. `zone` and `now` complete a time that has no zone or no year.
#[must_use]
pub fn read(mta: Mta, line: &[u8], zone: &TimeZone, now: Timestamp) -> Line {
    let line = line.trim_ascii_end();
    if line.len() > LONGEST {
        return Line::Other;
    }
    // Most lines are no deliveries, and are told by a few bytes.
    if !may_be(mta, line) {
        return Line::Other;
    }
    let text = String::from_utf8_lossy(line);
    let clock = Clock { zone, now };
    match mta {
        Mta::Postfix => postfix::read(&text, &clock),
        Mta::Exim => exim::read(&text, &clock),
        Mta::OpenSmtpd => opensmtpd::read(&text, &clock),
        Mta::Sendmail => sendmail::read(&text, &clock),
    }
    .unwrap_or(Line::Other)
}

/// Reads what journald has of a line: its head is in fields of the entry.
#[must_use]
pub fn read_entry(mta: Mta, entry: &Entry, zone: &TimeZone, now: Timestamp) -> Line {
    let Some(message) = &entry.message else { return Line::Other };
    let program = entry.program.as_deref().unwrap_or_default();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
    if mta == Mta::Exim || program.is_empty() || !program.bytes().all(is_name) {
        return read(mta, message, zone, now).told_at(entry.at);
    }
    let at = entry.at.unwrap_or(now);
    let pid = entry.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
    let mut line = format!("{at} journal {program}{pid}: ").into_bytes();
    line.extend_from_slice(message);
    read(mta, &line, zone, now)
}

impl Line {
    /// As somebody else wrote down when it was: a line has whole seconds at times, of a zone that it does not say.
    #[must_use]
    pub fn told_at(mut self, told: Option<Timestamp>) -> Self {
        if let (Self::Delivery(one), Some(told)) = (&mut self, told) {
            one.at = Some(told);
        }
        self
    }

    /// As a container's: its processes have numbers there that are others' here.
    #[must_use]
    pub fn in_container(mut self) -> Self {
        if let Self::Delivery(one) = &mut self {
            one.pid = None;
        }
        self
    }
}

fn may_be(mta: Mta, line: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(line, needle).is_some();
    match mta {
        Mta::Postfix => has(b", status="),
        Mta::Exim => has(b" H="),
        Mta::OpenSmtpd => has(b" mta delivery "),
        Mta::Sendmail => has(b", stat="),
    }
}

/// By which times are completed.
struct Clock<'z> {
    zone: &'z TimeZone,
    now: Timestamp,
}

/// Whether this is what an MTA names a message or a session by: else a stranger's text stands before what follows.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The part between two marks, and what follows; none where a mark is missing.
fn between<'t>(text: &'t str, from: &str, to: &str) -> Option<(&'t str, &'t str)> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to)
}

/// `[ADDRESS]` and what follows it.
fn bracketed(text: &str) -> Option<(IpAddr, &str)> {
    let (inside, rest) = between(text, "[", "]")?;
    // Exim and sendmail write IPv6:... at times.
    let inside = inside.strip_prefix("IPv6:").unwrap_or(inside);
    Some((inside.parse().ok()?, rest))
}

/// The name before `[ADDRESS]`, which the MTA took out of the MX record. One that is none is left out.
fn next_hop(text: &str) -> Option<String> {
    let (name, _) = text.split_once('[')?;
    let name = name.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    crate::config::is_full_host_name(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    fn reading(mta: Mta, line: &str) -> Line {
        read(mta, line.as_bytes(), &TimeZone::UTC, now())
    }

    fn delivery(mta: Mta, line: &str) -> Delivery {
        match reading(mta, line) {
            Line::Delivery(delivery) => delivery,
            other => panic!("{other:?}: {line}"),
        }
    }

    #[test]
    fn postfix() {
        let sent = delivery(
            Mta::Postfix,
            "Nov 25 11:59:58 host postfix/smtp[39032]: 213A0C01A2: to=<a@hotmail.com>, orig_to=<b>, relay=mx.example.com[104.47.57.161]:25, delay=7, delays=6/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 1)",
        );
        assert_eq!(sent.at, Some("2026-11-25T11:59:58Z".parse().unwrap()));
        assert_eq!((sent.pid, sent.destination), (Some(39032), "104.47.57.161".parse().unwrap()));
        assert_eq!(sent.host.as_deref(), Some("mx.example.com"));
        assert_eq!((sent.reply.as_str(), sent.recipients), ("250 2.0.0 Ok: queued as 1", 1));
        let bounced = delivery(
            Mta::Postfix,
            "2026-11-25T11:59:58.123456+00:00 host postfix/news/smtp[7]: 4JfcC62DS0z: to=<a@b.example>, relay=mx[2001:db8::25]:25, conn_use=3, delay=7, delays=6/0/0/1, dsn=5.1.1, status=bounced (host mx[2001:db8::25] said: 550-5.1.1 no such 550 5.1.1 user (in reply to RCPT TO command))",
        );
        assert_eq!(bounced.destination, "2001:db8::25".parse::<IpAddr>().unwrap());
        assert_eq!(bounced.host, None, "no full name");
        assert_eq!(bounced.pid, None, "another process's connection that was used again");
        assert!(bounced.reply.contains("550 5.1.1 user"), "{bounced:?}");
        for own in [
            "Nov 25 11:59:58 host postfix/smtp[1]: A: to=<a@b>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, status=deferred (connect to mx[192.0.2.1]:25: Connection refused)",
            "Nov 25 11:59:58 host postfix/smtp[1]: A: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, delays=1/0/0/0, dsn=4.4.2, status=deferred (lost connection with mx[192.0.2.1] while sending RCPT TO)",
        ] {
            assert_eq!(reading(Mta::Postfix, own), Line::NoReply, "{own}");
        }
        let local = "Nov 25 11:59:58 host postfix/local[1]: A: to=<a@b>, relay=local, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)";
        assert_eq!(reading(Mta::Postfix, local), Line::Other);
    }

    #[test]
    fn exim() {
        let sent = delivery(
            Mta::Exim,
            "2026-11-25 11:59:58 [1234] 1vNabc-00000000AbC-1x2y => a@b.example R=dnslookup T=remote_smtp H=mx.b.example [192.0.2.25]:25 I=[198.18.0.2]:40001 X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no C=\"250 2.0.0 Ok: \\\"queued\\\"\"",
        );
        assert_eq!((sent.local_port, sent.destination), (Some(40001), "192.0.2.25".parse().unwrap()));
        assert_eq!(sent.reply, "250 2.0.0 Ok: \\\"queued\\\"");
        assert_eq!(sent.host.as_deref(), Some("mx.b.example"));
        let failed = delivery(
            Mta::Exim,
            "2026-11-25 11:59:58.123 +0100 1vNabc-00000000AbC-1x2y ** a@b.example R=dnslookup T=remote_smtp H=mx.b.example [192.0.2.25] I=[198.18.0.2]:40002: SMTP error from remote mail server after RCPT TO:<a@b.example>: 550 5.1.1 unknown",
        );
        assert_eq!(failed.at, Some("2026-11-25T10:59:58.123Z".parse().unwrap()));
        assert!(failed.reply.ends_with("550 5.1.1 unknown"), "{failed:?}");
        let deferred = delivery(
            Mta::Exim,
            "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y == a@b.example R=dnslookup T=remote_smtp defer (-44) H=mx [2001:db8::25]: SMTP error from remote mail server after RCPT TO:<a@b.example>: 451 4.7.1 greylisted",
        );
        assert_eq!(deferred.destination, "2001:db8::25".parse::<IpAddr>().unwrap());
        let own = "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y == a@b.example R=dnslookup T=remote_smtp defer (111) H=mx [192.0.2.25]: Connection refused";
        assert_eq!(reading(Mta::Exim, own), Line::NoReply);
        let incoming =
            "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y <= a@b.example H=mx [192.0.2.25] P=esmtp S=1";
        assert_eq!(reading(Mta::Exim, incoming), Line::Other);
    }

    #[test]
    fn opensmtpd() {
        let sent = delivery(
            Mta::OpenSmtpd,
            "Nov 25 11:59:58 host smtpd[55]: 5f3cb8a1d2 mta delivery evpid=1 from=<a@b> to=<c@d> rcpt=<-> source=\"198.18.0.2\" relay=\"192.0.2.25 (mx.d)\" delay=1s result=\"Ok\" stat=\"250 2.0.0 ok\"",
        );
        assert_eq!((sent.pid, sent.destination), (None, "192.0.2.25".parse().unwrap()));
        assert_eq!(sent.host, None, "the receiver's own word for itself");
        let failed = delivery(
            Mta::OpenSmtpd,
            "Nov 25 11:59:58 host smtpd[55]: 5f3cb8a1d2 mta delivery evpid=1 from=<a@b> to=<c@d> rcpt=<-> source=\"-\" relay=\"2001:db8::25 (mx.d)\" delay=1s result=\"PermFail\" stat=\"550 5.1.1 no\"",
        );
        assert_eq!(failed.reply, "550 5.1.1 no");
    }

    #[test]
    fn sendmail() {
        let sent = delivery(
            Mta::Sendmail,
            "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<a@b>,<c@d>, delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1, relay=mx.b.example. [192.0.2.25], dsn=2.0.0, stat=Sent (Ok: queued)",
        );
        assert_eq!((sent.pid, sent.recipients), (Some(77), 2));
        assert_eq!(sent.host.as_deref(), Some("mx.b.example"));
        assert_eq!(sent.reply, "250 2.0.0 Ok: queued");
        let deferred = delivery(
            Mta::Sendmail,
            "Nov 25 11:59:58 host sendmail[77]: 5AP: to=<a@b>, delay=00:00:01, mailer=esmtp, pri=1, relay=mx.b. [IPv6:2001:db8::25], dsn=4.7.1, stat=Deferred: 451 4.7.1 try later",
        );
        assert_eq!(deferred.reply, "451 4.7.1 try later");
        let own = "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<a@b>, mailer=esmtp, relay=mx.b. [192.0.2.25], dsn=4.0.0, stat=Deferred: Connection refused by mx.b.";
        assert_eq!(reading(Mta::Sendmail, own), Line::NoReply);
    }

    /// Heads that syslog daemons write otherwise, and Exim by syslog.
    #[test]
    fn heads_of_every_kind() {
        let message = "A1: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 ok)";
        for head in [
            "<22>Nov 25 11:59:58 host postfix/smtp[7]: ",
            "<22>2026-11-25T11:59:58Z host postfix/smtp[7]: ",
            "<22>1 2026-11-25T11:59:58Z host postfix/smtp 7 - - ",
            "<22>1 2026-11-25T11:59:58Z host postfix/smtp 7 - [a@1 b=\"c\\]d\"][e@1 f=\"g\"] \u{feff}",
        ] {
            let found = delivery(Mta::Postfix, &format!("{head}{message}"));
            assert_eq!(found.at, Some("2026-11-25T11:59:58Z".parse().unwrap()), "{head}");
            assert_eq!(found.pid, Some(7), "{head}");
        }
        for bad in ["<>Nov 25 11:59:58 host postfix/smtp[7]: ", "<22>1 x host postfix/smtp 7 - [a ", "<22"] {
            assert_eq!(reading(Mta::Postfix, &format!("{bad}{message}")), Line::Other, "{bad}");
        }
        let message = "1vNabc-00000000AbC-1x2y >> a@b.example R=r T=t H=mx [192.0.2.25]:25 I=[198.18.0.2]:40001 C=\"250 ok\"";
        for head in [
            "2026-11-25 11:59:58 ",
            "Nov 25 11:59:58 host exim[7]: ",
            "2026-11-25T11:59:58+00:00 host exim4[7]: 2026-11-25 11:59:58 ",
            "<22>Nov 25 11:59:58 host exim[7]: [7] ",
        ] {
            let found = delivery(Mta::Exim, &format!("{head}{message}"));
            assert_eq!(found.at, Some("2026-11-25T11:59:58Z".parse().unwrap()), "{head}");
            assert_eq!(found.local_port, Some(40001));
        }
        assert_eq!(reading(Mta::Exim, &format!("Nov 25 11:59:58 host other[7]: {message}")), Line::Other);
    }

    /// journald has the head in fields, and the time and process from the kernel.
    #[test]
    fn entries_of_the_journal() {
        let entry = |program: &str, message: &str| Entry {
            cursor: "c".into(),
            at: Some("2026-11-25T11:59:58.000001Z".parse().unwrap()),
            program: Some(program.into()),
            pid: Some(7),
            message: Some(message.into()),
        };
        let read = |mta, entry: &Entry| read_entry(mta, entry, &TimeZone::UTC, now());
        let postfix = "A1: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 ok)";
        let Line::Delivery(found) = read(Mta::Postfix, &entry("postfix/smtp", postfix)) else { panic!() };
        assert_eq!((found.pid, found.at), (Some(7), entry("", "").at));
        let exim = "2026-11-25 12:59:58 1vNabc-00000000AbC-1x2y => a@b.example R=r T=t H=mx [192.0.2.25] C=\"250 ok\"";
        let Line::Delivery(found) = read(Mta::Exim, &entry("exim4", exim)) else { panic!() };
        assert_eq!(found.at, entry("", "").at, "journald's time");
        // A name that anybody chose does not forge a head.
        let forged = "x postfix/smtp[1]: B: to=<a@b>";
        assert_eq!(read(Mta::Postfix, &entry(forged, postfix)), Line::Other);
        assert_eq!(read(Mta::Postfix, &Entry { message: None, ..entry("postfix/smtp", "") }), Line::Other);
    }

    /// Whoever is written to, or receives, may write what looks like the MTA's own fields.
    #[test]
    fn forged_fields_are_never_believed() {
        let evil = "198.51.100.66".parse::<IpAddr>().unwrap();
        for (mta, line) in [
            (
                Mta::Postfix,
                "Nov 25 11:59:58 host postfix/smtp[1]: A: to=<\"x>, relay=evil[198.51.100.66]:25, status=sent (250 ok\"@b.example>, relay=mx[192.0.2.1]:25, delay=1, dsn=5.0.0, status=bounced (host mx[192.0.2.1] said: 550 no (in reply to RCPT TO command))",
            ),
            (
                Mta::Postfix,
                "Nov 25 11:59:58 host postfix/smtp[1]: A: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, dsn=5.0.0, status=bounced (host mx[192.0.2.1] said: 550 no, relay=evil[198.51.100.66]:25, status=sent (250 ok) (in reply to RCPT TO command))",
            ),
            (
                Mta::Exim,
                "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y ** a H=evil [198.51.100.66]: 250 ok@b.example R=r T=t H=mx [192.0.2.1]: SMTP error from remote mail server after RCPT TO:<a>: 550 no",
            ),
            (
                Mta::OpenSmtpd,
                "Nov 25 11:59:58 host smtpd[55]: 5f mta delivery evpid=1 from=<a@b> to=<\"x> relay=\"198.51.100.66 (e)\" result=\"Ok\" stat=\"250 ok\"@d> rcpt=<-> source=\"-\" relay=\"192.0.2.25 (mx.d)\" delay=1s result=\"PermFail\" stat=\"550 no\"",
            ),
            (
                Mta::Sendmail,
                "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<\"a>, relay=e [198.51.100.66], stat=Sent (ok)\"@b>, mailer=esmtp, relay=mx.b. [192.0.2.25], dsn=5.0.0, stat=User unknown",
            ),
        ] {
            match reading(mta, line) {
                Line::Delivery(found) => {
                    assert!(found.destination != evil && !found.reply.starts_with("250"), "{found:?}");
                }
                other => assert_eq!(other, Line::Ambiguous, "{line}"),
            }
        }
    }

    /// Each field once, wherever it stands: the rest could be a stranger's.
    #[test]
    fn fields_that_stand_twice_are_ambiguous_or_the_mtas_own() {
        let twice = "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y => a H=evil [198.51.100.66] C=\"250 ok\"@b.example R=r T=t H=mx [192.0.2.1] C=\"250 no\"";
        assert_eq!(reading(Mta::Exim, twice), Line::Ambiguous);
        let inside = "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<\"a, xrelay=e [198.51.100.66]\"@b>, delay=1, mailer=esmtp, relay=mx.b. [192.0.2.25], dsn=4.0.0, stat=Deferred: 450 no";
        assert_eq!(delivery(Mta::Sendmail, inside).destination, "192.0.2.25".parse::<IpAddr>().unwrap());
    }

    /// What a receiver says stands in other lines of the log too.
    #[test]
    fn a_reply_that_looks_like_a_delivery_is_none() {
        for (mta, line) in [
            (
                Mta::OpenSmtpd,
                "Nov 25 11:59:58 host smtpd[55]: 5f3cb8a1d2 mta error reason=BANNER rejected: 554 mta delivery evpid=1 to=<c@d> relay=\"198.51.100.66 (e)\" result=\"PermFail\" stat=\"550 no\"",
            ),
            (
                Mta::Postfix,
                "Nov 25 11:59:58 host postfix/smtp[1]: A1: host mx[192.0.2.1] said: 450 x: to=<a@b>, relay=evil[198.51.100.66]:25, delay=1, status=bounced (550 no (in reply to RCPT TO command))",
            ),
            (
                Mta::Sendmail,
                "Nov 25 11:59:58 host sm-mta[77]: 5AP: SYSERR: x: to=<a@b>, mailer=esmtp, relay=e. [198.51.100.66], dsn=5.0.0, stat=Deferred: 450 no",
            ),
        ] {
            assert_eq!(reading(mta, line), Line::Other, "{line}");
        }
    }

    #[test]
    fn the_year_is_the_nearest_and_long_lines_are_not_read() {
        let at = |line: &str, now: &str| {
            let line = format!(
                "{line} host postfix/smtp[1]: A: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 ok)"
            );
            match read(Mta::Postfix, line.as_bytes(), &TimeZone::UTC, now.parse().unwrap()) {
                Line::Delivery(found) => found.at.unwrap().to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at("Dec 31 23:59:59", "2027-01-01T00:00:01Z"), "2026-12-31T23:59:59Z");
        assert_eq!(at("Jan  1 00:00:01", "2026-12-31T23:59:59Z"), "2027-01-01T00:00:01Z");
        let long = format!(
            "Nov 25 11:59:58 host postfix/smtp[1]: A: to=<{}>, relay=mx[192.0.2.1]:25, status=sent (250 ok)",
            "x".repeat(1 << 20)
        );
        assert_eq!(reading(Mta::Postfix, &long), Line::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), mta in 0_usize..4) {
            let _ = read(Mta::ALL[mta], &bytes, &TimeZone::UTC, now());
        }

        #[test]
        fn no_recipient_and_no_reply_moves_a_postfix_line_to_another_receiver(recipient in "[ -~]{0,60}", reply in "[ -~]{0,80}") {
            let line = format!("Nov 25 11:59:58 host postfix/smtp[1]: A: to=<{recipient}>, relay=mx[192.0.2.1]:25, delay=1, dsn=5.0.0, status=bounced (host mx[192.0.2.1] said: 550 {reply} (in reply to RCPT TO command))");
            match reading(Mta::Postfix, &line) {
                Line::Delivery(found) => {
                    prop_assert_eq!(found.destination, "192.0.2.1".parse::<IpAddr>().unwrap());
                    prop_assert!(found.reply.contains("550"));
                }
                Line::Ambiguous => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
