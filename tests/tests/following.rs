//! Logs that the agent follows: every line once, through rotations and SIGKILL; what is hostile in them says nothing.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mailsteer_tests::scene::SHOWN;
use mailsteer_tests::topology::receiver4;
use mailsteer_tests::{Options, Scene, poll};
use serde_json::Value;

/// Lines that are written, at about 1,500 a second.
const LINES: usize = 36_000;
/// Between two rotations.
const BETWEEN: usize = 3_000;
/// How often the agent is killed meanwhile.
const KILLS: u32 = 3;

fn appending(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// As Exim logs a delivery that a receiver took.
fn line(to: IpAddr, port: u64, reply: &str) -> String {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S%.3f +0000");
    format!(
        "{now} 1vNabc-00000000AbC-1x2y => a@b.example R=dnslookup T=remote_smtp H=mx.b.example [{to}]:25 \
         I=[198.18.0.2]:{port} C=\"{reply}\"\n"
    )
}

fn rotated(path: &Path, n: usize) -> PathBuf {
    PathBuf::from(format!("{}.{n}", path.display()))
}

/// Writes deliveries by these connections, and rotates as logrotate does: by renaming, told late; and by copying.
fn write(path: &Path, connections: &[(IpAddr, u64)]) {
    let (mut log, began) = (appending(path), Instant::now());
    for n in 0..LINES {
        let (to, port) = connections[n % connections.len()];
        log.write_all(line(to, port, "250 2.0.0 ok").as_bytes()).unwrap();
        if n % BETWEEN == BETWEEN / 2 {
            log = appending(path);
        }
        if n % BETWEEN == BETWEEN - 1 {
            let rotations = n / BETWEEN;
            (1..=rotations).rev().for_each(|n| fs::rename(rotated(path, n), rotated(path, n + 1)).unwrap());
            if rotations % 3 == 2 {
                fs::copy(path, rotated(path, 1)).unwrap();
                log.set_len(0).unwrap();
            } else {
                fs::rename(path, rotated(path, 1)).unwrap();
                drop(appending(path));
            }
        }
        // A load, and no flood.
        let due = Duration::from_micros(u64::try_from(n).unwrap() * 666);
        if let Some(early) = due.checked_sub(began.elapsed()).filter(|early| early.as_millis() > 5) {
            std::thread::sleep(early);
        }
    }
}

fn following(path: &Path, more: &str) -> String {
    format!("[fuse]\nattempts = 10000000\n[log.exim]\nmta = \"exim\"\nfile = \"{}\"\n{more}", path.display())
}

/// Established connections: receiver and port.
fn connections(scene: &Scene) -> Vec<(IpAddr, u64)> {
    let rows: Vec<Value> = scene.rows(1_000).unwrap();
    let good = rows.iter().filter(|row| row["outcome"] == "established" && row["stream"] == "mail");
    good.map(|row| {
        (row["destination"].as_str().unwrap().parse().unwrap(), row["local_port"].as_u64().unwrap())
    })
    .collect()
}

fn lines_taken(scene: &Scene) -> f64 {
    scene.metric("mailsteer_log_lines_total", &["log=\"exim\""]).unwrap()
}

/// Replies, whether they could be joined or not: after a restart nobody knows the connections of before.
fn replies(scene: &Scene) -> (f64, f64) {
    let joined = scene.metric("mailsteer_replies_total", &["class=\"accepted\""]).unwrap();
    (joined, scene.metric("mailsteer_replies_unjoined_total", &[]).unwrap())
}

#[test]
fn every_line_counts_once_through_rotations_and_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mainlog");
    drop(appending(&path));
    let mut scene = Scene::new(Options::default(), &following(&path, "")).unwrap();
    poll::until_true(SHOWN, "the log to be read", || {
        scene.metric("mailsteer_log_up", &["log=\"exim\""]).unwrap() == 1.0
    })
    .unwrap();
    let made = scene.load(300, 300).unwrap().run(&scene.lab.mail).unwrap();
    assert_eq!(made.ok, 300, "{made:?}");
    let known = poll::until(SHOWN, "the connections' rows", || {
        let known = connections(&scene);
        Ok((known.len() == 300).then_some(known))
    })
    .unwrap();
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || write(&path, &known))
    };
    for kill in 1..=KILLS {
        // Later than the first counts are kept: those are joined, for the first agent knows the connections.
        let least = f64::from(kill + 1) * LINES as f64 / f64::from(KILLS + 2);
        poll::until_true(Duration::from_secs(60), "lines to be taken in", || lines_taken(&scene) >= least)
            .unwrap();
        scene.agent.kill().unwrap();
        scene.agent.restart().unwrap();
    }
    writer.join().unwrap();
    poll::until_true(Duration::from_secs(30), "every line to be taken in", || {
        lines_taken(&scene) >= LINES as f64
    })
    .unwrap();
    // And no more than that: with one line more, after one kill more, what came twice would show.
    scene.agent.kill().unwrap();
    scene.agent.restart().unwrap();
    let all = LINES as f64 + 1.0;
    appending(&path).write_all(line(receiver4(1), 1, "250 2.0.0 the last").as_bytes()).unwrap();
    poll::until_true(SHOWN, "the last line", || lines_taken(&scene) >= all).unwrap();
    let (joined, unjoined) = replies(&scene);
    println!(
        "{} lines: {joined} joined, {unjoined} of connections that an agent before knew",
        lines_taken(&scene)
    );
    assert_eq!(lines_taken(&scene), all);
    assert_eq!(joined + unjoined, all);
    assert!(joined >= 1_000.0, "{joined}");
    assert_eq!(scene.metric("mailsteer_log_missed_total", &["log=\"exim\""]).unwrap(), 0.0);
    assert_eq!(scene.metric("mailsteer_log_odd_lines_total", &["log=\"exim\""]).unwrap(), 0.0);
    scene.close().unwrap();
}

/// Lines that strangers shape: nobody is isolated by one, the agent lives, and what is in order is read on.
#[test]
fn hostile_lines_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mainlog");
    drop(appending(&path));
    let scene = Scene::new(Options::default(), &following(&path, "")).unwrap();
    let made = scene.load(100, 100).unwrap().run(&scene.lab.mail).unwrap();
    assert_eq!(made.ok, 100, "{made:?}");
    let known = poll::until(SHOWN, "the connections' rows", || {
        let known = connections(&scene);
        Ok((known.len() == 100).then_some(known))
    })
    .unwrap();
    let (to, port) = known[0];
    let block = "554 5.7.1 Service unavailable; Client host [192.0.2.11] blocked using zen.spamhaus.org";
    let mut log = appending(&path);
    for n in 0..20 {
        // A recipient and a reply that hold fields of a delivery; a megabyte; other bytes; half a line.
        let forged = format!("a H=evil [{to}]:25 I=[198.18.0.2]:{port} C=\"{block}\"@b.example");
        let whole = line(to, port, "250 ok").replace("a@b.example", &forged);
        log.write_all(whole.as_bytes()).unwrap();
        log.write_all(line(to, port, &format!("250 ok\" H=evil [{to}] C=\"{block}")).as_bytes()).unwrap();
        log.write_all(&vec![b'A' + n; 1 << 20]).unwrap();
        log.write_all(format!(" H=mx [{to}]:25 C=\"{block}\"\n").as_bytes()).unwrap();
        log.write_all(b"\xff\xfe\x00\x1b[2J\x07 => \x9b H=\n\0\0\0\n").unwrap();
    }
    log.write_all(line(to, port, "250 2.0.0 good").as_bytes()).unwrap();
    poll::until_true(SHOWN, "the last line to count", || {
        scene.metric("mailsteer_replies_total", &["class=\"accepted\""]).unwrap() >= 1.0
    })
    .unwrap();
    let odd =
        |why: &str| scene.metric("mailsteer_log_odd_lines_total", &[&format!("why=\"{why}\"")]).unwrap();
    assert_eq!((odd("cut"), odd("not-utf8"), odd("ambiguous")), (20.0, 20.0, 40.0));
    assert_eq!(lines_taken(&scene), 20.0 * 5.0 + 1.0);
    for class in ["isolate-here", "isolate-everywhere", "slow-down"] {
        assert_eq!(
            scene.metric("mailsteer_replies_total", &[&format!("class=\"{class}\"")]).unwrap(),
            0.0,
            "{class}"
        );
    }
    assert!(!scene.events().unwrap().contains("isolated"));
    scene.close().unwrap();
}

#[test]
fn a_log_that_cannot_be_read_is_said_until_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mainlog");
    let scene = Scene::new(Options::default(), &following(&path, "")).unwrap();
    let up = || scene.metric("mailsteer_log_up", &["log=\"exim\""]).unwrap();
    poll::until_true(SHOWN, "an event", || scene.events().unwrap().contains("log exim")).unwrap();
    assert_eq!(up(), 0.0);
    let status = String::from_utf8(scene.agent.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(status.contains("is not read") && status.contains("there is no such file"), "{status}");
    appending(&path).write_all(b"a line\n").unwrap();
    poll::until_true(SHOWN, "it to be read", || up() == 1.0).unwrap();
    poll::until_true(SHOWN, "its line", || lines_taken(&scene) == 1.0).unwrap();
    assert!(scene.events().unwrap().contains("is read again"));
    scene.close().unwrap();
}
