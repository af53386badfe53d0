//! Real files, written to and rotated while they are read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mailsteer_core::config::{Log, LogPlace};
use mailsteer_core::signal::log::Mta;

use super::*;

/// Lines that are written.
const LINES: u32 = 60_000;
/// Between two rotations.
const BETWEEN: u32 = 3_000;
/// A reader that has not looked by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far writer and reader are.
#[derive(Default)]
struct Progress {
    looks: AtomicU32,
    written: AtomicBool,
}

impl Progress {
    /// Waits for a look that begins after this was called: the one that is under way may be as good as over.
    fn await_look(&self) {
        let (from, deadline) = (self.looks.load(Ordering::Acquire), Instant::now() + PATIENCE);
        while self.looks.load(Ordering::Acquire) < from + 2 {
            assert!(Instant::now() < deadline, "nobody looks");
            std::thread::yield_now();
        }
    }
}

fn line(number: u32) -> String {
    format!(
        "2026-11-29T09:00:00.000001+00:00 host postfix/smtp[7]: A{number}: to=<a@b.example>, relay=mx[192.0.2.1]:25, delay=1, \
         delays=1/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: number {number})\n"
    )
}

fn number(of: &Delivery) -> u32 {
    of.reply.rsplit(' ').next().unwrap().parse().unwrap()
}

fn log_at(path: &Path) -> Log {
    Log { name: "mail".into(), mta: Mta::Postfix, place: LogPlace::File(path.display().to_string()) }
}

fn appending(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn rotated(path: &Path, n: u32) -> PathBuf {
    PathBuf::from(format!("{}.{n}", path.display()))
}

/// As logrotate does it: what is there moves up, the log becomes the first.
fn shift(path: &Path, upto: u32) {
    for n in (1..=upto).rev() {
        fs::rename(rotated(path, n), rotated(path, n + 1)).unwrap();
    }
}

/// Writes every line; rotates in either way, and tells the writer late.
fn write(path: &Path, pieces: usize, progress: &Progress) {
    let (mut log, mut rotations) = (appending(path), 0);
    let mut late = None;
    for n in 1..=LINES {
        let line = line(n);
        let (one, two) = line.as_bytes().split_at(line.len() / pieces);
        log.write_all(one).unwrap();
        log.write_all(two).unwrap();
        if late.is_some_and(|at| n == at) {
            log = appending(path);
        }
        if n % BETWEEN == 0 {
            shift(path, rotations);
            rotations += 1;
            if (n / BETWEEN).is_multiple_of(2) {
                // What is written between copy and cut is lost to everybody: nothing is.
                fs::copy(path, rotated(path, 1)).unwrap();
                log.set_len(0).unwrap();
                // Nobody empties a log twice before anybody looks.
                progress.await_look();
            } else {
                fs::rename(path, rotated(path, 1)).unwrap();
                drop(appending(path));
                late = Some(n + BETWEEN / 3);
            }
        }
    }
}

/// How often each line was read; whoever reads is killed again and again, and begins where it was last kept.
fn read(path: &Path, progress: &Progress) -> BTreeMap<u32, u32> {
    let (mut taken, mut kept) = (vec![], (vec![], None));
    let mut reader = Reader::new(&log_at(path), None);
    let (mut looks, mut idle) = (0_u32, 0);
    while idle < 3 {
        let over = progress.written.load(Ordering::Acquire);
        let batch = reader.read().unwrap();
        assert_eq!(batch.lost, [], "after {looks} looks");
        idle = if over && batch.deliveries.is_empty() { idle + 1 } else { 0 };
        taken.extend(batch.deliveries.iter().map(number));
        looks += 1;
        if looks == 1 || fastrand::u8(..4) == 0 {
            kept = (taken.clone(), Some(batch.bookmark));
        }
        if !over && fastrand::u8(..8) == 0 {
            taken.clone_from(&kept.0);
            reader = Reader::new(&log_at(path), kept.1.as_ref());
        }
        progress.looks.fetch_add(1, Ordering::Release);
        // Far more often than the agent looks, and the writer gets some lines written.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let mut times = BTreeMap::new();
    taken.into_iter().for_each(|line| *times.entry(line).or_insert(0) += 1);
    times
}

/// Rotated by renaming and by copying, with a reader that is killed in between: no line is lost, none comes twice.
#[test]
fn every_line_once_through_rotations_and_kills() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    drop(appending(&path));
    let progress = Arc::<Progress>::default();
    let reader = {
        let (path, progress) = (path.clone(), Arc::clone(&progress));
        std::thread::spawn(move || read(&path, &progress))
    };
    // The first look finds an empty file.
    progress.await_look();
    let began = Instant::now();
    write(&path, 2, &progress);
    progress.written.store(true, Ordering::Release);
    let times = reader.join().unwrap();
    println!("{LINES} lines in {} rotations and {:?}", LINES / BETWEEN, began.elapsed());
    let wrong: Vec<_> = (1..=LINES).filter(|n| times.get(n) != Some(&1)).take(10).collect();
    assert_eq!(wrong, [0_u32; 0], "{:?}", wrong.first().map(|n| times.get(n)));
    assert_eq!(times.len(), LINES as usize);
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let why = |path: &Path| Reader::new(&log_at(path), None).read().unwrap_err().to_string();
    assert!(why(&dir.path().join("none")).contains("no such file"));
    assert!(why(dir.path()).contains("a directory, a pipe or a device"));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(why(&pipe).contains("a directory, a pipe or a device"));
}

/// A file that comes later is read from its beginning.
#[test]
fn a_log_that_comes_later_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    let mut reader = Reader::new(&log_at(&path), None);
    assert!(matches!(reader.read(), Err(LogError::NoFile)));
    appending(&path).write_all(line(1).as_bytes()).unwrap();
    assert_eq!(reader.read().unwrap().counts.deliveries, 1);
}

#[test]
fn a_container_s_file_has_its_own_clock_and_no_processes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let place = LogPlace::ContainerFile(path.display().to_string());
    drop(appending(&path));
    let mut reader = Reader::new(&Log { place, ..log_at(&path) }, None);
    assert_eq!(reader.read().unwrap().counts, LogCounts::default());
    let inner = "Nov 25 01:02:03 4f5e postfix/smtp[7]: A: to=<a@b>, relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 ok)\n";
    let whole =
        serde_json::json!({"log": inner, "stream": "stdout", "time": "2026-11-25T11:59:58.123456789Z"});
    appending(&path).write_all((whole.to_string() + "\n").as_bytes()).unwrap();
    let found = reader.read().unwrap().deliveries.remove(0);
    assert_eq!((found.at.unwrap().to_string().as_str(), found.pid), ("2026-11-25T11:59:58.123456789Z", None));
}
