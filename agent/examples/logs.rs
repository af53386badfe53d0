//! How fast a log is followed: `logs LINES`, answers in JSON. `cargo xtask bench logs` calls it.
//!
//! The work of one log's thread and of what it calls, on one core: files are read, lines told apart and read, replies judged by
//! the rules that come with mailsteer, and sought among 20,000 connections. What the loop does with a reply is not in it.
#![expect(clippy::unwrap_used, reason = "a figure or nothing")]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use mailsteer::observe::log::Reader;
use mailsteer_core::config::{Log, LogPlace};
use mailsteer_core::signal::join::{Connections, Found, Sought, Stood};
use mailsteer_core::signal::log::Mta;
use mailsteer_core::signal::reply::{DEFAULT, Reply, ReplyTable};

/// Connections that a delivery is sought among.
const KNOWN: u32 = 20_000;
/// Receivers.
const RECEIVERS: u32 = 500;

fn receiver(n: u32) -> IpAddr {
    IpAddr::from((u32::from_be_bytes([20, 0, 0, 0]) + n % RECEIVERS).to_be_bytes())
}

/// What Postfix writes of a message: of five lines one is its delivery; one reply in ten is no good one.
fn line(n: u32, at: Timestamp, into: &mut impl std::io::Write) {
    let message = n / 5;
    let (id, pid) = (0xa000_0000_u64 + u64::from(message), 1_000 + message % 100);
    let at = at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00");
    let (to, reply, status) = (receiver(message), reply(message), status(message));
    match n % 5 {
        0 => writeln!(into, "{at} mail postfix/smtpd[912]: {id:X}: client=localhost[127.0.0.1], sasl_username=app"),
        1 => writeln!(into, "{at} mail postfix/cleanup[915]: {id:X}: message-id=<{message}.20261129@example.com>"),
        2 => writeln!(into, "{at} mail postfix/qmgr[901]: {id:X}: from=<news@example.com>, size=18{message}, nrcpt=1 (queue active)"),
        3 => writeln!(
            into,
            "{at} mail postfix/smtp[{pid}]: {id:X}: to=<user{message}@receiver.example>, relay=mx.receiver.example[{to}]:25, \
             delay=0.74, delays=0.02/0/0.31/0.41, dsn=2.0.0, status={status} ({reply})"
        ),
        _ => writeln!(into, "{at} mail postfix/qmgr[901]: {id:X}: removed"),
    }
    .unwrap();
}

const fn reply(message: u32) -> &'static str {
    match message % 20 {
        0 => {
            "host mx said: 550 5.1.1 The email account that you tried to reach does not exist (in reply to RCPT TO command)"
        }
        1 => {
            "host mx said: 421 4.7.0 Too many connections from your host, try again later (in reply to MAIL FROM command)"
        }
        _ => "250 2.0.0 OK  1764406800 d2e1a72fcca58-7b8f0ea1a2bsi1234567b3a.123 - gsmtp",
    }
}

const fn status(message: u32) -> &'static str {
    match message % 20 {
        0 => "bounced",
        1 => "deferred",
        _ => "sent",
    }
}

/// Every process had its connection to every receiver that it wrote to.
fn known(began: Timestamp) -> Connections {
    let mut known = Connections::default();
    for n in 0..KNOWN {
        known.stood(Stood {
            at: began + SignedDuration::from_micros(i64::from(n)),
            pid: Some(1_000 + n % 100),
            cookie: Some(n.into()),
            local_port: Some(40_000),
            destination: receiver(n),
            stream: "news".into(),
            source: IpAddr::from([192, 0, 2, 11]),
            provider: "other".into(),
        });
    }
    known
}

/// Memory that the process has, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn main() {
    let lines: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let dir = std::env::temp_dir().join(format!("mailsteer-bench-logs-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("mail.log");
    println!("{}", follow(&path, lines));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn follow(path: &Path, lines: u32) -> serde_json::Value {
    let place = LogPlace::File(path.display().to_string());
    let mut reader = Reader::new(&Log { name: "mail".into(), mta: Mta::Postfix, place }, None);
    // It begins where there is no file yet: then all of it is read.
    reader.read().unwrap_err();
    let began = Timestamp::now();
    let mut file = BufWriter::new(File::create(path).unwrap());
    (0..lines).for_each(|n| line(n, began + SignedDuration::from_millis(50), &mut file));
    file.flush().unwrap();
    drop(file);
    let (known, table) = (known(began), ReplyTable::load("default", DEFAULT).table.unwrap());
    // The rules' own memory is made at the first reply.
    std::hint::black_box(table.judge(&Reply::read("550 5.1.1 unknown").unwrap(), None));
    let (before, mut most, started) = (resident(), 0, Instant::now());
    let (mut taken, mut deliveries, mut joined, mut looks) = (0, 0, 0_u32, 0_u32);
    loop {
        let batch = reader.read().unwrap();
        taken += batch.counts.lines;
        for one in &batch.deliveries {
            deliveries += 1;
            let (reply, at) = (Reply::read(&one.reply).unwrap(), one.at.unwrap());
            let sought = Sought {
                at,
                within: SignedDuration::ZERO,
                pid: one.pid,
                handed: one.handed,
                connecting: None,
                local_port: one.local_port,
                destination: one.destination,
            };
            let found = matches!(known.find(&sought), Found::One(_));
            joined += u32::from(found);
            std::hint::black_box(table.judge(&reply, Some("other")));
        }
        looks += 1;
        if looks.is_multiple_of(16) {
            most = most.max(resident());
        }
        if !batch.more {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!((taken, deliveries), (u64::from(lines), lines / 5));
    serde_json::json!({
        "lines": lines, "seconds": seconds, "joined": joined, "deliveries": deliveries,
        "before_kib": before, "most_kib": most.max(resident()), "bytes": std::fs::metadata(path).unwrap().len(),
    })
}
