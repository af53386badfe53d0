//! Files of a disk that lives in memory, on which anything happens between any two looks at it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// What happens to a log.
#[derive(Clone, Debug)]
enum Step {
    /// The MTA writes: whole lines, and then perhaps the beginning of one, which the next write ends.
    Write(u8, bool),
    /// The file is renamed and another one begun; the MTA writes to the renamed one until it is told.
    Rename,
    /// The MTA is told.
    Reopen,
    /// The file is copied and emptied.
    CopyAndEmpty,
    /// The oldest rotated file goes, if all of it was kept; the next file is given its number.
    Delete,
    /// A minute in which nothing is written.
    Rest,
    /// The follower looks, and these happen between its calls.
    Look(usize, Vec<Step>),
    /// What it took in is kept, and its bookmark with it.
    Keep,
    /// It is killed, and begins again by what was kept.
    Kill,
}

#[derive(Default)]
struct Inode {
    bytes: Vec<u8>,
    written: i64,
    /// Lines by their numbers that were ever written to it.
    lines: Vec<u32>,
}

#[derive(Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    /// Newest first.
    rotated: Vec<u64>,
    named: u64,
    writer: u64,
    clock: i64,
    next: u64,
    free: Vec<u64>,
    line: u32,
    between: VecDeque<Step>,
}

impl Disk {
    fn new() -> Self {
        let mut disk = Self { next: 1, ..Self::default() };
        disk.begin();
        disk
    }

    fn begin(&mut self) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.clock += 1;
        self.inodes.insert(number, Inode { written: self.clock, ..Inode::default() });
        self.named = number;
        if self.inodes.len() == 1 {
            self.writer = number;
        }
    }

    fn write(&mut self, lines: u8, unfinished: bool) {
        self.clock += 1;
        let (clock, mut line) = (self.clock, self.line);
        let inode = self.inodes.get_mut(&self.writer).unwrap();
        for _ in 0..lines {
            line += 1;
            let from = inode.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let begun = inode.bytes.len() - from;
            inode.bytes.extend_from_slice(&text(line)[begun.min(7)..]);
            inode.lines.push(line);
        }
        if unfinished && !inode.bytes.is_empty() && inode.bytes.ends_with(b"\n") {
            inode.bytes.extend_from_slice(&text(line + 1)[..7]);
        }
        inode.written = clock;
        self.line = line;
    }

    /// The beginning of a line is ended first: nobody leaves one behind.
    fn finish(&mut self) {
        if self.inodes[&self.writer].bytes.last().is_some_and(|last| *last != b'\n') {
            self.write(1, false);
        }
    }

    fn reopen(&mut self) {
        self.finish();
        self.writer = self.named;
    }

    fn rename(&mut self) {
        self.reopen();
        self.rotated.insert(0, self.named);
        self.begin();
    }

    fn copy_and_empty(&mut self) {
        self.reopen();
        let named = self.named;
        let bytes = self.inodes[&named].bytes.clone();
        self.begin();
        let copy = std::mem::replace(&mut self.named, named);
        self.clock += 1;
        self.inodes.insert(copy, Inode { bytes, written: self.clock, lines: vec![] });
        self.rotated.insert(0, copy);
        self.clock += 1;
        let clock = self.clock;
        let emptied = self.inodes.get_mut(&named).unwrap();
        emptied.bytes.clear();
        emptied.written = clock;
    }

    fn happen(&mut self, step: &Step) {
        match step {
            Step::Write(lines, unfinished) => self.write(*lines, *unfinished),
            Step::Rename => self.rename(),
            Step::Reopen => self.reopen(),
            Step::CopyAndEmpty => self.copy_and_empty(),
            _ => {}
        }
    }

    fn call(&mut self) {
        if let Some(step) = self.between.pop_front() {
            self.happen(&step);
        }
    }
}

/// Seven characters that every line begins with, its number, and an end.
fn text(line: u32) -> Vec<u8> {
    format!("line of {line} {}\n", "x".repeat(line as usize % 40)).into_bytes()
}

fn number(raw: &[u8]) -> u32 {
    let text = std::str::from_utf8(raw).unwrap();
    let (number, _) =
        text.strip_prefix("line of ").unwrap_or_else(|| panic!("{text:?}")).split_once(' ').unwrap();
    let number = number.parse().unwrap();
    assert_eq!([raw, b"\n"].concat(), self::text(number), "whole");
    number
}

struct Named(Rc<RefCell<Disk>>);
struct Held(Rc<RefCell<Disk>>, u64);

impl LogFile for Held {
    fn id(&self) -> FileId {
        FileId { device: 1, inode: self.1 }
    }

    fn stat(&mut self) -> io::Result<(u64, i64)> {
        self.0.borrow_mut().call();
        let disk = self.0.borrow();
        let inode = &disk.inodes[&self.1];
        Ok((inode.bytes.len() as u64, inode.written))
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().call();
        let disk = self.0.borrow();
        let bytes = &disk.inodes[&self.1].bytes;
        let from = bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let got = from.len().min(into.len());
        into[..got].copy_from_slice(&from[..got]);
        Ok(got)
    }
}

impl Folder for Named {
    type File = Held;

    fn named(&mut self) -> io::Result<Option<FileId>> {
        self.0.borrow_mut().call();
        Ok(Some(FileId { device: 1, inode: self.0.borrow().named }))
    }

    fn open(&mut self) -> io::Result<Option<Held>> {
        self.0.borrow_mut().call();
        let named = self.0.borrow().named;
        Ok(Some(Held(Rc::clone(&self.0), named)))
    }

    fn siblings(&mut self) -> io::Result<Vec<Held>> {
        self.0.borrow_mut().call();
        let rotated = self.0.borrow().rotated.clone();
        Ok(rotated.into_iter().map(|number| Held(Rc::clone(&self.0), number)).collect())
    }
}

/// A follower, what it took in, and what of both was kept.
struct Run {
    disk: Rc<RefCell<Disk>>,
    follower: Follower<Named>,
    taken: Vec<u32>,
    kept: (Vec<u32>, Bookmark),
    lost: Vec<Loss>,
}

impl Run {
    fn new() -> Self {
        let disk = Rc::new(RefCell::new(Disk::new()));
        let follower = Follower::new(Named(Rc::clone(&disk)), "log", Format::Plain, None);
        let mut run =
            Self { disk, follower, taken: vec![], kept: (vec![], Bookmark::default()), lost: vec![] };
        run.look(1_000, vec![]);
        run.keep();
        run
    }

    fn look(&mut self, budget: usize, between: Vec<Step>) -> bool {
        self.disk.borrow_mut().between = between.into();
        let taken = &mut self.taken;
        let polled = self.follower.poll(budget, &mut |raw| taken.push(number(raw.text)));
        assert!(polled.error.is_none());
        self.lost.extend(polled.lost);
        let left = std::mem::take(&mut self.disk.borrow_mut().between);
        left.iter().for_each(|step| self.disk.borrow_mut().happen(step));
        polled.more
    }

    fn keep(&mut self) {
        self.kept = (self.taken.clone(), self.follower.bookmark());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Look(budget, between) => {
                self.look(budget, between);
            }
            Step::Keep => self.keep(),
            Step::Kill => {
                self.taken.clone_from(&self.kept.0);
                // As it comes back from the disk.
                let kept = serde_json::from_str(&serde_json::to_string(&self.kept.1).unwrap()).unwrap();
                self.follower = Follower::new(Named(Rc::clone(&self.disk)), "log", Format::Plain, Some(kept));
            }
            Step::Rest => {
                self.disk.borrow_mut().reopen();
                for _ in 0..300 {
                    self.look(10_000, vec![]);
                }
            }
            Step::Delete => {
                let mut disk = self.disk.borrow_mut();
                let (Some(oldest), true) = (disk.rotated.last().copied(), disk.rotated.len() > 2) else {
                    return;
                };
                // Without a copy nobody could tell that nothing was missed.
                let lines = &disk.inodes[&oldest].lines;
                let read = !lines.is_empty() && lines.iter().all(|line| self.kept.0.contains(line));
                let held = self.kept.1.files.iter().any(|one| one.file.inode == oldest);
                let held = held || self.follower.bookmark().files.iter().any(|one| one.file.inode == oldest);
                if read && !held && disk.writer != oldest {
                    disk.rotated.pop();
                    disk.inodes.remove(&oldest);
                    disk.free.push(oldest);
                }
            }
            other => self.disk.borrow_mut().happen(&other),
        }
    }

    fn ends_with_every_line_once(mut self) {
        self.disk.borrow_mut().reopen();
        while self.look(4_096, vec![]) {}
        self.look(4_096, vec![]);
        let written: Vec<u32> = (1..=self.disk.borrow().line).collect();
        self.taken.sort_unstable();
        assert_eq!(self.taken, written);
        assert_eq!(self.lost, []);
    }
}

fn world() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9u8, any::<bool>()).prop_map(|(lines, unfinished)| Step::Write(lines, unfinished)),
        1 => Just(Step::Rename),
        1 => Just(Step::Reopen),
        1 => Just(Step::CopyAndEmpty),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => world(),
        6 => (prop_oneof![Just(50usize), Just(3_000)], prop::collection::vec(world(), 0..6))
            .prop_map(|(budget, between)| Step::Look(budget, between)),
        4 => Just(Step::Keep),
        2 => Just(Step::Kill),
        1 => Just(Step::Delete),
        1 => Just(Step::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever becomes of its files, and whenever it is killed, every line is taken in once.
    #[test]
    fn every_line_once(steps in prop::collection::vec(step(), 0..80)) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.ends_with_every_line_once();
    }
}

/// A log of one file, and what is taken of it at each look.
struct One(Rc<RefCell<Disk>>, Follower<Named>);

impl One {
    fn new(before: &[u8], format: Format) -> Self {
        let disk = Rc::new(RefCell::new(Disk::new()));
        let follower = Follower::new(Named(Rc::clone(&disk)), "log", format, None);
        let mut one = Self(disk, follower);
        one.write(before);
        assert_eq!(one.look(), (vec![], Read::default()), "what was there before");
        one
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut disk = self.0.borrow_mut();
        let named = disk.named;
        disk.inodes.get_mut(&named).unwrap().bytes.extend_from_slice(bytes);
    }

    fn look(&mut self) -> (Vec<String>, Read) {
        let mut taken = vec![];
        let polled =
            self.1.poll(10 << 20, &mut |raw| taken.push(String::from_utf8_lossy(raw.text).into_owned()));
        assert!(polled.error.is_none());
        (taken, polled.read)
    }
}

#[test]
fn what_was_begun_before_anybody_read_is_no_line() {
    let mut one = One::new(b"old\nto=<x> status=", Format::Plain);
    one.write(b"sent (250 forged)\nnew\n");
    assert_eq!(one.look(), (vec!["new".into()], Read { lines: 2, cut: 1, ..Read::default() }));
    let mut whole = One::new(b"old\n", Format::Plain);
    whole.write(b"new\r\n");
    assert_eq!(whole.look(), (vec!["new".into()], Read { lines: 1, ..Read::default() }));
}

#[test]
fn endless_lines_nuls_and_other_bytes_are_counted_and_memory_is_bounded() {
    let mut one = One::new(b"", Format::Plain);
    for _ in 0..40 {
        one.write(&[b'x'; 32 << 10]);
        assert_eq!(one.look(), (vec![], Read::default()), "it has not ended");
        assert!(one.1.unfinished().iter().all(|kept| *kept <= lines::LONGEST), "{:?}", one.1.unfinished());
    }
    one.write(b"\nafter\n");
    assert_eq!(one.look(), (vec!["after".into()], Read { lines: 2, cut: 1, ..Read::default() }));
    one.write(&[0; 300 << 10]);
    one.write(b"behind a hole\n\xff\xfe\n");
    let read = Read { lines: 2, not_utf8: 1, ..Read::default() };
    assert_eq!(one.look(), (vec!["behind a hole".into(), "\u{fffd}\u{fffd}".into()], read));
}

#[test]
fn a_container_s_lines_come_out_of_their_envelopes() {
    let mut one = One::new(b"", Format::Container);
    let wrapped = |log: &str, stream: &str| {
        format!("{{\"log\":{log},\"stream\":\"{stream}\",\"time\":\"2026-11-29T09:00:00.5Z\"}}\n")
    };
    one.write(wrapped("\"one\\n\"", "stdout").as_bytes());
    // Divided by Docker; its second part could look like a line of its own.
    one.write(wrapped("\"long\"", "stdout").as_bytes());
    one.write(wrapped("\"other\\n\"", "stderr").as_bytes());
    one.write(b"no envelope\n");
    assert_eq!(
        one.look(),
        (vec!["one".into(), "other".into()], Read { lines: 4, cut: 1, bare: 1, ..Read::default() })
    );
    // Killed between the parts, it is known all the same.
    let before = one.1.bookmark();
    one.1 = Follower::new(Named(Rc::clone(&one.0)), "log", Format::Container, Some(before));
    one.write(wrapped("\"forged\\n\"", "stdout").as_bytes());
    one.write(wrapped("\"two\\n\"", "stdout").as_bytes());
    assert_eq!(one.look().0, ["two"]);
}

/// The power failed: the bookmark was kept, and the log's last lines were not.
#[test]
fn a_file_that_lost_its_end_is_read_on_from_there() {
    let mut one = One::new(&[b'y'; 2_000], Format::Plain);
    one.write(b"\none\ntwo\n");
    assert_eq!(one.look().0, ["one", "two"]);
    let named = one.0.borrow().named;
    one.0.borrow_mut().inodes.get_mut(&named).unwrap().bytes.truncate(2_005);
    assert_eq!(one.look().0, [""; 0]);
    one.write(b"three\n");
    assert_eq!(one.look().0, ["three"]);
}

#[test]
fn what_is_gone_is_said_and_another_log_begins_at_its_end() {
    let mut one = One::new(b"", Format::Plain);
    one.write(b"one\n");
    assert_eq!(one.look().0, ["one"]);
    let before = one.1.bookmark();
    let other = Rc::new(RefCell::new(Disk::new()));
    other.borrow_mut().next = 77;
    other.borrow_mut().begin();
    let mut follower = Follower::new(Named(Rc::clone(&other)), "log", Format::Plain, Some(before.clone()));
    assert_eq!(follower.poll(100, &mut |_| ()).lost, [Loss::Gone]);
    let mut follower = Follower::new(Named(other), "another", Format::Plain, Some(before));
    assert_eq!(follower.poll(100, &mut |_| ()).lost, []);
}

#[test]
fn entries_of_the_journal() {
    let found = entry(
        br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1764406800000001","SYSLOG_IDENTIFIER":"postfix/smtp","_PID":"7","MESSAGE":"A: to=<a@b>"}"#,
    )
    .unwrap();
    assert_eq!(
        (found.cursor.as_str(), found.pid, found.program.as_deref()),
        ("s=1;i=2", Some(7), Some("postfix/smtp"))
    );
    assert_eq!(found.message.as_deref(), Some(&b"A: to=<a@b>"[..]));
    assert_eq!(found.at.unwrap().as_microsecond(), 1_764_406_800_000_001);
    let message =
        |text: &str| entry(format!(r#"{{"__CURSOR":"c","MESSAGE":{text}}}"#).as_bytes()).unwrap().message;
    assert_eq!(message("[104,105,255]"), Some(b"hi\xff".to_vec()));
    assert_eq!((message("null"), message("[300]"), message("[\"a\",\"b\"]")), (None, None, None));
    assert_eq!((entry(b"{}"), entry(b"-- cursor: x"), entry(b"\xff")), (None, None, None));
}
