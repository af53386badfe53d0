//! The journal followed: a journald of its own, in a mount namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mailsteer::observe::log::Reader;
use mailsteer_core::config::{Log, LogPlace};
use mailsteer_core::signal::log::Mta;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Fewer than journald takes of one service before it leaves lines out.
const LINES: u32 = 5_000;

struct Journald(Child);

impl Drop for Journald {
    fn drop(&mut self) {
        let _over = self.0.kill();
        let _over = self.0.wait();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

/// Of this thread and what it starts; nothing of the host's journal is seen or touched.
fn journald() -> Journald {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for place in ["/run", "/var/log"] {
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    fs::create_dir_all("/run/systemd/journal").unwrap();
    fs::create_dir_all("/run/log/journal").unwrap();
    if fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().is_empty() {
        fs::write("/run/machine-id", "0123456789abcdef0123456789abcdef\n").unwrap();
        mount(Some("/run/machine-id"), "/etc/machine-id", None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
    }
    let out = fs::File::create("/run/journald.out").unwrap();
    let child = Command::new("/lib/systemd/systemd-journald").stderr(out).spawn().unwrap();
    let journald = Journald(child);
    eventually("journald's socket", || Path::new("/run/systemd/journal/stdout").exists());
    journald
}

/// Says each line in the name of a program.
fn say(program: &str, lines: impl Iterator<Item = Vec<u8>>) {
    let mut cat =
        Command::new("systemd-cat").args(["-t", program, "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    lines.for_each(|line| stdin.write_all(&line).unwrap());
    drop(stdin);
    assert!(cat.wait().unwrap().success());
}

/// What journald has written down by now: it takes a line after the one who said it has ended.
fn journalctl() -> Vec<u8> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--output=cat", "SYSLOG_IDENTIFIER=postfix/smtp"]).output().unwrap().stdout
}

fn line(number: u32) -> Vec<u8> {
    format!("A{number}: to=<a@b.example>, relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 2.0.0 {number})\n")
        .into_bytes()
}

/// Killed and begun again by its cursor, no entry is lost and none comes twice; process and time are journald's.
#[test]
fn every_entry_once() {
    let _journald = journald();
    say("postfix/smtp", std::iter::once(line(0)));
    eventually("the first entry", || !journalctl().is_empty());
    let log = Log {
        name: "mail".into(),
        mta: Mta::Postfix,
        place: LogPlace::Journal("SYSLOG_IDENTIFIER=postfix/smtp".into()),
    };
    let mut reader = Reader::new(&log, None);
    // It begins at the end.
    eventually("it to be followed", || {
        let batch = reader.read().unwrap();
        assert_eq!(batch.counts.lines, 0);
        batch.up
    });
    let writer = std::thread::spawn(|| {
        say("postfix/smtp", (1..=LINES).map(line));
        say("other", std::iter::once(line(LINES + 1)));
        say("postfix/smtp", std::iter::once(b"bytes \xff: to=<\n".to_vec()));
    });
    let (mut times, mut all, mut kills) = (BTreeMap::<u32, u32>::new(), 0, 0);
    let began = Instant::now();
    while all <= u64::from(LINES) {
        assert!(began.elapsed() < Duration::from_secs(60), "{all} of {LINES}");
        let batch = reader.read().unwrap();
        all += batch.counts.lines;
        for one in &batch.deliveries {
            assert!(one.pid.is_some() && one.at.is_some(), "{one:?}");
            *times.entry(one.reply.rsplit(' ').next().unwrap().parse().unwrap()).or_default() += 1;
        }
        if batch.counts.lines > 0 && kills < 10 {
            kills += 1;
            reader = Reader::new(&log, Some(&batch.bookmark));
        }
    }
    writer.join().unwrap();
    assert_eq!(all, u64::from(LINES) + 1);
    assert!((1..=LINES).all(|n| times.get(&n) == Some(&1)) && times.len() == LINES as usize);
}
