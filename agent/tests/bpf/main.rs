//! The eBPF programs on the real kernel: what the guard lets leave, and what is counted of it.
//!
//! Marks are set with SO_MARK, as nftables would. Needs root. `cargo xtask test` runs it twice: by tcx, and by the
//! clsact filters of kernels before 6.6 (`MAILSTEER_BPF_HOOK=clsact`).
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod askers;
mod clsact;
mod packets;
mod raw;
mod turns;
mod words;
mod world;

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, PerCpuHashMap, PerCpuValues};
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::nr_cpus;
use mailsteer::act::bpf::{BpfError, BpfPaths, Programs};
use mailsteer::bpf_maps::{self, pin_dir};
use mailsteer::observe::bpf::{Events, Moment, Record};
use mailsteer_core::plan::GuardSpec;
use mailsteer_ebpf::{ABI, CounterKey, Counters, Event, Held, Outcome, Total};

use crate::world::{
    BEHIND, EXCLUDED, LANE, OTHER, RECEIVER, RECEIVER6, SILENT, SILENT6, SOURCE, SOURCE6, UNREACHABLE, World,
    assert_held, connect, mark, run, socket, spec, start, steer,
};

const LONG: Duration = Duration::from_secs(10);

#[test]
fn the_guard_lets_leave_what_its_mark_names_and_nothing_else() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    for (address, port) in [(RECEIVER, 25), (RECEIVER6, 25), (EXCLUDED, 25), (RECEIVER, 80), (RECEIVER6, 80)]
    {
        world.listen(address, port);
    }
    steer(&world, &mut programs);
    assert_eq!(programs.attached(), [world.uplink]);

    connect(Some(SOURCE), RECEIVER, 25, mark(7)).expect("an eligible source");
    connect(Some(SOURCE6), RECEIVER6, 25, mark(8)).expect("an eligible source, IPv6");
    connect(None, RECEIVER, 25, mark(0)).expect("stamped: seen, not steered");
    connect(None, EXCLUDED, 25, 0).expect("excluded");
    connect(None, RECEIVER, 80, 0).expect("another port");
    connect(None, RECEIVER6, 80, 0).expect("another port, IPv6");
    assert_eq!(world.reader().held().unwrap(), [0; 5], "nothing was held so far");

    assert_held(&world, Held::NoMark, Some(SOURCE), RECEIVER, 0);
    assert_held(&world, Held::NoMark, Some(SOURCE6), RECEIVER6, 0x1234);
    assert_held(&world, Held::WrongAddress, Some(OTHER), RECEIVER, mark(7));
    assert_held(&world, Held::WrongAddress, Some("2001:db8:5::12"), RECEIVER6, mark(8));
    assert_held(&world, Held::WrongAddress, Some(SOURCE), RECEIVER, mark(999));
    assert_held(&world, Held::WrongUplink, Some("192.0.2.13"), RECEIVER, mark(9));

    programs.set_guard(&spec(false)).unwrap();
    connect(Some(OTHER), RECEIVER, 25, 0).expect("not armed: counted only");
}

#[test]
fn the_guard_outlives_the_agent_and_is_adopted_with_its_counts() {
    let Some(world) = World::new() else { return };
    world.listen(RECEIVER, 25);
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let told = programs.guard().unwrap();
    assert_eq!(told, spec(true), "what is read back is what was written");
    drop(programs);
    assert_held(&world, Held::NoMark, None, RECEIVER, 0);
    connect(Some(SOURCE), RECEIVER, 25, mark(7)).expect("an eligible source, no agent");
    let counted = world.reader().held().unwrap();

    let mut programs = world.programs();
    assert_eq!(programs.attached(), [world.uplink]);
    assert_eq!(programs.guard().unwrap(), told);
    assert_eq!(programs.sources().unwrap().len(), 3);
    assert!(world.reader().held().unwrap()[0] >= counted[0], "counts go on");
    assert_held(&world, Held::NoMark, None, RECEIVER, 0);

    programs.detach_guard_only(world.uplink).unwrap();
    assert!(programs.attached().is_empty(), "seen without its guard");
    connect(Some(OTHER), RECEIVER, 25, mark(7)).expect("leaks without the guard");
    let counters = world.reader().counters().unwrap();
    assert!(counters[&CounterKey { lane: LANE.into(), source: 7 }].wrong > 0, "and is counted as wrong");
    programs.attach(world.uplink).unwrap();
    assert_held(&world, Held::WrongAddress, Some(OTHER), RECEIVER, mark(7));
}

#[test]
fn an_interface_that_is_made_again_is_not_taken_for_guarded() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    run("ip link del up0");
    assert!(programs.attached().is_empty());
    run(&format!("ip link add up0 index {} type veth peer name p2", world.uplink));
    assert!(programs.attached().is_empty(), "the same number, another interface");
    programs.attach(world.uplink).unwrap();
    assert_eq!(programs.attached(), [world.uplink]);
    programs.detach(world.uplink).unwrap();
    assert!(programs.attached().is_empty());
}

#[test]
fn what_lies_at_the_pins_is_checked_and_everything_can_be_removed() {
    let Some(world) = World::new() else { return };
    let elsewhere = BpfPaths { bpffs: std::env::temp_dir(), ..world.paths.clone() };
    assert!(matches!(Programs::open(&elsewhere), Err(BpfError::NoBpffs { .. })));
    drop(world.programs());
    let pins = world.home.join(format!("mailsteer/v{ABI}"));
    fs::remove_file(pins.join("SOURCES")).unwrap();
    fs::rename(pins.join("LANES"), pins.join("SOURCES")).unwrap();
    assert!(matches!(Programs::open(&world.paths), Err(BpfError::Map(_))));
    Programs::remove(&world.paths).unwrap();
    assert!(!world.home.join("mailsteer").exists());
    drop(world.programs());
}

#[test]
fn an_undeclared_interface_is_guarded_by_the_second_anchor() {
    let Some(world) = World::new() else { return };
    world.listen(BEHIND, 25);
    world.listen(BEHIND, 80);
    let mut programs = world.programs();
    steer(&world, &mut programs);
    assert_held(&world, Held::Undeclared, None, BEHIND, 0);
    connect(None, BEHIND, 25, mark(0)).expect("stamped");
    connect(None, BEHIND, 80, 0).expect("another port");
    let loopback = TcpListener::bind("127.0.0.1:25").unwrap();
    connect(None, "127.0.0.1", 25, 0).expect("loopback");
    drop(loopback);
}

/// Collects records until there are `n`, or the deadline passes.
fn records(world: &World, n: usize, during: impl FnOnce()) -> Vec<Record> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut all = Vec::new();
    runtime.block_on(async {
        let mut events = Events::open(&world.paths.bpffs).unwrap();
        during();
        let deadline = tokio::time::Instant::now() + LONG;
        while all.len() < n {
            match tokio::time::timeout_at(deadline, events.next()).await {
                Ok(more) => all.extend(more.unwrap()),
                Err(_) => break,
            }
        }
    });
    all
}

/// What became of attempts, among the records.
fn events(world: &World, n: usize, during: impl FnOnce()) -> Vec<Event> {
    records(world, n, during).into_iter().filter_map(event).collect()
}

fn event(record: Record) -> Option<Event> {
    match record {
        Record::Event(event) => Some(event),
        Record::Said(_) | Record::Turned(_) => None,
    }
}

fn counters(world: &World, source: u16) -> Counters {
    let all = world.reader().counters().unwrap();
    all.get(&CounterKey { lane: LANE.into(), source }).copied().unwrap_or_default()
}

/// Maps that are filled to the last entry, for that is when a bucket of one is fullest.
#[test]
fn a_full_map_is_read_whole() {
    let Some(world) = World::new() else { return };
    let _programs = world.programs();
    let dir = pin_dir(&world.paths.bpffs);
    let (counters, swept) =
        (bpf_maps::open(&dir, "COUNTERS").unwrap(), bpf_maps::open(&dir, "SWEPT").unwrap());
    let mut counters =
        PerCpuHashMap::<_, CounterKey, Counters>::try_from(Map::PerCpuHashMap(counters)).unwrap();
    let mut swept = HashMap::<_, CounterKey, Counters>::try_from(Map::HashMap(swept)).unwrap();
    let keys = (0..16_384u16).map(|n| CounterKey { lane: n % 256, source: n });
    let of = |attempts| Counters { attempts, ..Counters::default() };
    for (key, n) in keys.clone().zip(1u64..) {
        let each: Vec<_> = (0..nr_cpus().unwrap() as u64).map(|cpu| of(n + cpu)).collect();
        bpf_maps::with_patience(|| counters.insert(key, PerCpuValues::try_from(each.clone()).unwrap(), 0))
            .unwrap();
        bpf_maps::with_patience(|| swept.insert(key, of(n), 0)).unwrap();
    }
    let [counted, ended] = world.reader().apart().unwrap();
    let cpus = nr_cpus().unwrap() as u64;
    for (key, n) in keys.zip(1u64..) {
        assert_eq!(counted[&key].attempts, n * cpus + cpus * (cpus - 1) / 2, "{key:?}");
        assert_eq!(ended[&key].attempts, n, "{key:?}");
    }
    assert_eq!((counted.len(), ended.len()), (16_384, 16_384));
}

#[test]
fn every_outcome_is_counted_and_told_once() {
    let Some(world) = World::new() else { return };
    world.listen(RECEIVER, 25);
    world.listen(RECEIVER6, 25);
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let all = events(&world, 7, || {
        drop(connect(Some(SOURCE), RECEIVER, 25, mark(7)).unwrap());
        drop(connect(Some(SOURCE6), RECEIVER6, 25, mark(8)).unwrap());
        let refused = connect(Some(SOURCE), RECEIVER, 26, mark(7)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let silent = connect(Some(SOURCE), SILENT, 25, mark(7)).unwrap_err();
        assert_eq!(silent.kind(), std::io::ErrorKind::TimedOut);
        let unreachable = connect(Some(SOURCE), UNREACHABLE, 25, mark(7)).unwrap_err();
        assert_eq!(unreachable.kind(), std::io::ErrorKind::HostUnreachable);
        // Held by the guard, then given up.
        assert!(connect(Some(OTHER), RECEIVER, 25, mark(7)).is_err());
        // No route: connect() fails before any packet.
        assert!(connect(None, "100.64.0.1", 25, 0).is_err());
    });
    let outcomes: Vec<u8> = all.iter().map(|event| event.outcome).collect();
    let wanted = [
        Outcome::Established,
        Outcome::Established,
        Outcome::Refused,
        Outcome::Unanswered,
        Outcome::Unreachable,
        Outcome::NotSent,
        Outcome::NotSent,
    ];
    assert_eq!(outcomes, wanted.map(|outcome| outcome as u8));
    for event in &all {
        assert_eq!((event.pid, event.uid, event.gid), (std::process::id(), 0, 0), "{event:?}");
        assert!(
            event.decided >= event.started && event.started > 0 && event.cookie != 0 && event.cgroup != 0
        );
    }
    assert_eq!(all[0].mark, mark(7));
    assert_eq!(all[0].saddr[12..], [192, 0, 2, 11]);
    assert_eq!(all[1].mark, mark(8));

    let deadline = Instant::now() + LONG;
    while world.reader().open_connections().unwrap() > 0 {
        assert!(Instant::now() < deadline, "{:?}", world.reader().connections().unwrap());
        thread::yield_now();
    }
    let four = counters(&world, 7);
    let seen =
        (four.attempts, four.established, four.refused, four.unreachable, four.unanswered, four.closed);
    assert_eq!(seen, (4, 1, 1, 1, 1, 4), "{four:?}");
    let six = counters(&world, 8);
    assert_eq!((six.attempts, six.established, six.closed, six.wrong), (1, 1, 1, 0), "{six:?}");
    assert!(four.bytes_out > 0 && four.bytes_in > 0 && four.wrong == 0);
    let totals = world.reader().totals().unwrap();
    assert_eq!(totals[Total::Asked as usize], 7);
    assert_eq!(totals[Total::NotSent as usize], 2);
    assert_eq!(totals[Total::Untracked as usize], 0);
}

/// A connection of which nothing came back yet: its socket, its port on the wire, its SYN's sequence number.
fn waiting(world: &World, from: &str, to: &str, source: u16) -> (socket2::Socket, u16, u32) {
    let asking = socket(Some(from), to, mark(source));
    start(&asking, to);
    let port = asking.local_addr().unwrap().as_socket().unwrap().port();
    let deadline = Instant::now() + LONG;
    loop {
        let known = world.reader().connections().unwrap();
        if let Some((_, conn)) = known.iter().find(|(key, _)| key.sport == port) {
            return (asking, port, conn.isn);
        }
        assert!(Instant::now() < deadline, "its SYN did not leave");
        thread::yield_now();
    }
}

#[test]
fn a_spoofed_reset_or_icmp_error_is_no_answer() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    for (source, to, router, id) in [(SOURCE, SILENT, RECEIVER, 7), (SOURCE6, SILENT6, RECEIVER6, 8)] {
        let reset = |port, ack| raw::segment((to, 25), (source, port), 0, ack, raw::RST_ACK);
        let error = |port, seq| raw::unreachable(router, (source, port), (to, 25), seq);
        let outcomes = || {
            let counted = counters(&world, id);
            (counted.refused, counted.unreachable, counted.closed)
        };
        let reaches = |wanted| {
            let deadline = Instant::now() + LONG;
            while outcomes() != wanted {
                assert!(Instant::now() < deadline, "{source}: {:?} and not {wanted:?}", outcomes());
                thread::yield_now();
            }
        };
        // The right one comes last, by the same way: when it is counted, the wrong ones had their turn.
        let (asking, port, isn) = waiting(&world, source, to, id);
        raw::inject(&world, reset(port, isn), source);
        raw::inject(&world, reset(port, isn.wrapping_add(2)), source);
        raw::inject(&world, error(port, isn), source);
        reaches((0, 1, 1));
        drop(asking);
        let (asking, port, isn) = waiting(&world, source, to, id);
        raw::inject(&world, error(port, isn.wrapping_add(1)), source);
        raw::inject(&world, error(port.wrapping_add(1), isn), source);
        raw::inject(&world, reset(port, isn.wrapping_add(1)), source);
        reaches((1, 1, 2));
        drop(asking);
    }
}

#[test]
fn a_syn_that_is_sent_again_is_one_attempt() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let asking = socket(Some(SOURCE), SILENT, mark(7));
    start(&asking, SILENT);
    let deadline = Instant::now() + LONG;
    while counters(&world, 7).retransmits < 2 {
        assert!(Instant::now() < deadline, "no SYN was sent again");
        thread::yield_now();
    }
    drop(asking);
    let counted = counters(&world, 7);
    assert_eq!((counted.attempts, counted.unanswered, counted.closed), (1, 1, 1));
    assert_eq!(world.reader().open_connections().unwrap(), 0);
}

#[test]
fn silence_is_swept_once_where_no_program_sees_the_end() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let asking = socket(Some(SOURCE), SILENT, mark(7));
    start(&asking, SILENT);
    let now = Moment::now();
    assert!(world.reader().sweep(now).unwrap().is_empty(), "not yet");
    let much_later = now.after(Duration::from_secs(140));
    assert_eq!(world.reader().sweep(much_later).unwrap().len(), 1);
    assert!(world.reader().sweep(much_later).unwrap().is_empty(), "once");
    drop(asking);
    let counted = counters(&world, 7);
    assert_eq!((counted.attempts, counted.unanswered, counted.closed), (1, 1, 1));
}

#[test]
fn a_process_in_a_streams_cgroup_gets_its_premark() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    // The root that the programs are attached to is the process's own cgroup here, so "/" names it.
    let wanted = GuardSpec { cgroups: vec!["/".into()], ..spec(true) };
    programs.set_guard(&wanted).unwrap();
    assert_eq!(programs.guard().unwrap(), wanted);
    let asking = socket(Some(SOURCE), SILENT, 0);
    start(&asking, SILENT);
    assert_eq!(asking.mark().unwrap(), mailsteer_ebpf::CGROUP_MAGIC);
    let marked = socket(Some(SOURCE), SILENT, mark(7));
    start(&marked, SILENT);
    assert_eq!(marked.mark().unwrap(), mark(7), "somebody's mark is left alone");
}

fn stands_as_filter() -> bool {
    let shown = Command::new("tc").args(["filter", "show", "dev", "up0", "egress"]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("mailsteer_guard")
}

#[test]
fn a_strangers_program_before_the_guard_is_seen_and_put_behind_it() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let mut stranger = aya::Ebpf::load(mailsteer_ebpf::OBJECT).unwrap();
    let program: &mut SchedClassifier = stranger.program_mut("flow_in").unwrap().try_into().unwrap();
    program.load().unwrap();
    let first = if stands_as_filter() {
        TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
    } else {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    };
    program.attach_with_options("up0", TcAttachType::Egress, first).unwrap();
    assert!(programs.attached().is_empty(), "the guard is no longer first");
    programs.attach(world.uplink).unwrap();
    assert_eq!(programs.attached(), [world.uplink]);
    assert_held(&world, Held::NoMark, None, RECEIVER, 0);
}
