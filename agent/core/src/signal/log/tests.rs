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
    assert!(bounced.handed && !sent.handed, "another process's connection that was used again");
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
    let incoming = "2026-11-25 11:59:58 1vNabc-00000000AbC-1x2y <= a@b.example H=mx [192.0.2.25] P=esmtp S=1";
    assert_eq!(reading(Mta::Exim, incoming), Line::Other);
}

#[test]
fn opensmtpd() {
    let sent = delivery(
        Mta::OpenSmtpd,
        "Nov 25 11:59:58 host smtpd[55]: 5f3cb8a1d2 mta delivery evpid=1 from=<a@b> to=<c@d> rcpt=<-> source=\"198.18.0.2\" relay=\"192.0.2.25 (mx.d)\" delay=1s result=\"Ok\" stat=\"250 2.0.0 ok\"",
    );
    assert_eq!((sent.session.as_deref(), sent.handed), (Some("5f3cb8a1d2"), true));
    assert_eq!(sent.destination, "192.0.2.25".parse::<IpAddr>().unwrap());
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
    let refused = delivery(
        Mta::Sendmail,
        "Nov 25 11:59:58 host sendmail[77]: 5AP: to=<a@b>, delay=00:00:00, mailer=esmtp, pri=1, relay=mx.b. [192.0.2.25], dsn=5.1.1, reply=550 5.7.1 part of your network is on our block list (S3150), stat=User unknown",
    );
    assert_eq!(refused.reply, "550 5.7.1 part of your network is on our block list (S3150)");
    for own in [
        "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<a@b>, mailer=esmtp, relay=mx.b. [192.0.2.25], dsn=4.0.0, stat=Deferred: Connection refused by mx.b.",
        "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=MAILER-DAEMON, delay=00:00:00, mailer=local, pri=30000, dsn=5.1.1, reply=550 5.1.1 User unknown, stat=User unknown",
    ] {
        assert_eq!(reading(Mta::Sendmail, own), Line::NoReply, "{own}");
    }
    let forged = "Nov 25 11:59:58 host sm-mta[77]: 5AP: to=<a@b>, mailer=esmtp, relay=mx.b. [192.0.2.25], dsn=5.1.1, reply=550 no, stat=Sent (ok), stat=User unknown";
    assert_eq!(reading(Mta::Sendmail, forged), Line::Ambiguous);
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
    let exim =
        "2026-11-25 12:59:58 1vNabc-00000000AbC-1x2y => a@b.example R=r T=t H=mx [192.0.2.25] C=\"250 ok\"";
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
