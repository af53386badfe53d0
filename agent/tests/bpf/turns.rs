//! Which process uses a connection: told where it changes, and nothing otherwise.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use mailsteer::observe::bpf::{Events, Record};
use mailsteer_ebpf::{Outcome, TURNS, Turned};

use crate::words::{ask, serve};
use crate::world::{RECEIVER, RECEIVER6, SOURCE, SOURCE6, World, steer};
use crate::{LONG, records};

const FAMILIES: [(&str, &str, u16); 2] = [(SOURCE, RECEIVER, 7), (SOURCE6, RECEIVER6, 8)];

fn turns(records: &[Record]) -> Vec<Turned> {
    let turned = |record: &Record| match record {
        Record::Turned(turned) => Some(*turned),
        _ => None,
    };
    records.iter().filter_map(turned).collect()
}

/// The cookies of established connections, in their order.
fn cookies(records: &[Record]) -> Vec<u64> {
    let established = |record: &Record| match record {
        Record::Event(event) if event.outcome == Outcome::Established as u8 => Some(event.cookie),
        _ => None,
    };
    records.iter().filter_map(established).collect()
}

/// Takes what comes until the other side is gone.
fn sink(mut stream: TcpStream) {
    let mut taken = [0; 4_096];
    while stream.read(&mut taken).is_ok_and(|read| read > 0) {}
}

/// Two connections to the same receiver. It takes one at a time, so that its port is free for the second.
fn two(world: &World, from: &str, to: &str, source: u16) -> [TcpStream; 2] {
    [(), ()].map(|()| {
        let (taken, is_taken) = std::sync::mpsc::channel();
        serve(world, to, move |stream| {
            taken.send(()).unwrap();
            sink(stream);
        });
        let stream = ask(from, to, source);
        is_taken.recv().unwrap();
        stream
    })
}

/// A process that writes a line to the connection, and ends.
fn by_another(stream: &TcpStream) -> u32 {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "echo NOOP >&0"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap())));
    let mut child = shell.spawn().unwrap();
    assert!(child.wait().unwrap().success());
    child.id()
}

/// By Postfix's connection cache, for one.
#[test]
fn a_connection_that_is_handed_on_is_told_by_who_writes() {
    for (from, to, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        assert!(programs.turns_told());
        steer(&world, &mut programs);
        serve(&world, to, sink);
        let mut child = 0;
        let records = records(&world, 3, || {
            let mut stream = ask(from, to, source);
            stream.write_all(b"EHLO a\r\n").unwrap();
            stream.write_all(b"NOOP\r\n").unwrap();
            child = by_another(&stream);
            stream.write_all(b"NOOP\r\n").unwrap();
            stream.write_all(b"NOOP\r\n").unwrap();
        });
        let (turns, cookies) = (turns(&records), cookies(&records));
        let told: Vec<_> = turns.iter().map(|turn| (turn.pid, turn.cookie, turn.many)).collect();
        assert_eq!(told, [(child, cookies[0], 0), (std::process::id(), cookies[0], 0)], "{records:?}");
        let receiver: std::net::IpAddr = to.parse().unwrap();
        assert!(turns.iter().all(|turn| std::net::Ipv6Addr::from(turn.daddr).to_canonical() == receiver));
        assert!(turns[0].at < turns[1].at);
    }
}

#[test]
fn a_process_with_several_connections_is_told_at_which_it_is() {
    for (from, to, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        steer(&world, &mut programs);
        let records = records(&world, 4, || {
            let [mut first, mut second] = two(&world, from, to, source);
            second.write_all(b"EHLO a\r\n").unwrap();
            first.write_all(b"EHLO a\r\n").unwrap();
            first.write_all(b"NOOP\r\n").unwrap();
            second.write_all(b"NOOP\r\n").unwrap();
        });
        let cookies = cookies(&records);
        let told: Vec<u64> = turns(&records).iter().map(|turn| turn.cookie).collect();
        // It was at the second one since it had opened that.
        assert_eq!(told, [cookies[0], cookies[1]], "{records:?}");
    }
}

/// An event loop is not told of with each write; that a connection is its own from now on is.
#[test]
fn a_process_with_many_is_told_once_and_then_only_what_it_takes_from_others() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut events = Events::open(&world.paths.bpffs).unwrap();
        let [mut first, mut second] = two(&world, SOURCE, RECEIVER, 7);
        let (began, mut told) = (Instant::now(), vec![]);
        while !told.iter().any(|turn: &Turned| turn.many == 1) {
            assert!(began.elapsed() < LONG, "{} turns", told.len());
            first.write_all(b"x").unwrap();
            second.write_all(b"x").unwrap();
            told.extend(turns(&events.take()));
        }
        assert!(told.len() as u64 > TURNS && told.iter().filter(|turn| turn.many == 1).count() == 1);
        for _ in 0..10 {
            first.write_all(b"x").unwrap();
            second.write_all(b"x").unwrap();
        }
        assert_eq!(turns(&events.take()), []);
        let child = by_another(&first);
        first.write_all(b"x").unwrap();
        let told: Vec<_> = turns(&events.take()).iter().map(|turn| (turn.pid, turn.many)).collect();
        assert_eq!(told, [(child, 0), (std::process::id(), 0)]);
    });
}
