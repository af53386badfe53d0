//! What receivers say in clear, and doubts about those who say nothing: told as it happens.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use mailsteer::observe::bpf::Record;
use mailsteer_ebpf::{Event, Outcome, Said};
use nix::sched::{CloneFlags, setns};

use crate::world::{
    RECEIVER, RECEIVER6, SILENT, SILENT6, SOURCE, SOURCE6, World, mark, socket, start, steer,
};
use crate::{LONG, records};

const FAMILIES: [(&str, &str, &str, u16); 2] =
    [(SOURCE, RECEIVER, SILENT, 7), (SOURCE6, RECEIVER6, SILENT6, 8)];

/// Accepts one connection in the other namespace and does with it as told.
pub(super) fn serve(world: &World, address: &str, then: impl FnOnce(TcpStream) + Send + 'static) {
    let at = SocketAddr::new(address.parse().unwrap(), 25);
    let namespace = world.peer_namespace();
    let listener = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(at).unwrap()
    });
    let listener = listener.join().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        then(stream);
    });
}

pub(super) fn ask(from: &str, to: &str, source: u16) -> TcpStream {
    try_ask(from, to, source).unwrap()
}

fn try_ask(from: &str, to: &str, source: u16) -> io::Result<TcpStream> {
    let socket = socket(Some(from), to, mark(source));
    socket.connect_timeout(&SocketAddr::new(to.parse().unwrap(), 25).into(), LONG)?;
    socket.set_read_timeout(Some(LONG))?;
    Ok(socket.into())
}

fn said(records: &[Record]) -> Vec<(bool, String)> {
    let text = |said: &Said| String::from_utf8_lossy(&said.text[..said.length as usize]).into_owned();
    records
        .iter()
        .filter_map(|record| match record {
            Record::Said(said) => Some((said.greeting == 1, text(said))),
            _ => None,
        })
        .collect()
}

fn of(records: &[Record], outcome: Outcome) -> Vec<Event> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Event(event) if event.outcome == outcome as u8 => Some(*event),
            _ => None,
        })
        .collect()
}

#[test]
fn a_greeting_that_refuses_is_told_with_its_words() {
    for (from, to, _, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        steer(&world, &mut programs);
        let long = format!("554-5.7.1 {}\r\n", "x".repeat(300));
        let sent = long.clone();
        serve(&world, to, move |mut stream| stream.write_all(sent.as_bytes()).unwrap());
        let records = records(&world, 2, || {
            let mut text = String::new();
            ask(from, to, source).read_to_string(&mut text).unwrap();
        });
        assert_eq!(said(&records), [(true, long[..96].to_owned())]);
        let Some(Record::Said(told)) = records.iter().find(|record| matches!(record, Record::Said(_))) else {
            unreachable!()
        };
        let established = of(&records, Outcome::Established)[0];
        assert_eq!((told.mark, told.dport, told.sport), (mark(source), 25, established.sport));
        assert_eq!((told.saddr, told.daddr), (established.saddr, established.daddr));
        assert_eq!(told.cookie, established.cookie);
        assert!(told.at >= established.decided);
    }
}

/// A greeting that welcomes is passed over, a reply of 4xx is told as no greeting, and nothing is heard from the first TLS
/// record on, whatever its bytes look like.
#[test]
fn replies_are_heard_until_tls_begins() {
    for (from, to, _, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        steer(&world, &mut programs);
        let lines: [&[u8]; 5] = [
            b"220 welcome\r\n",
            b"250 done, and 550 is no code here\r\n",
            b"450 4.2.0 greylisted\r\n",
            &[22, 3, 3, 0, 2, 1, 0],
            b"550 5.1.1 inside of TLS\r\n",
        ];
        serve(&world, to, move |mut stream| {
            for line in lines {
                stream.write_all(line).unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
        });
        // The established one, the reply, and no third; the last line has come when this returns.
        let records = records(&world, 2, || {
            let mut stream = ask(from, to, source);
            for line in lines {
                stream.read_exact(&mut vec![0; line.len()]).unwrap();
                stream.write_all(b"x").unwrap();
            }
        });
        assert_eq!(said(&records), [(false, "450 4.2.0 greylisted\r\n".to_owned())]);
    }
}

#[test]
fn a_reset_before_any_greeting_is_told() {
    for (from, to, _, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        steer(&world, &mut programs);
        serve(&world, to, |stream| {
            // Closed with a reset.
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        });
        let records = records(&world, 2, || {
            // The reset may come before the program has asked whether it is connected.
            let read = try_ask(from, to, source).and_then(|mut stream| stream.read(&mut [0]));
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        });
        assert_eq!(of(&records, Outcome::Cut).len(), 1, "{records:?}");
    }
}

#[test]
fn the_second_syn_is_told_and_no_third() {
    for (from, _, silent, source) in FAMILIES {
        let Some(world) = World::new() else { return };
        let mut programs = world.programs();
        steer(&world, &mut programs);
        let records = records(&world, 2, || {
            let asking = socket(Some(from), silent, mark(source));
            start(&asking, silent);
            let deadline = std::time::Instant::now() + LONG;
            while crate::counters(&world, source).retransmits < 2 {
                assert!(std::time::Instant::now() < deadline, "no SYN was sent again");
                thread::yield_now();
            }
        });
        assert_eq!(of(&records, Outcome::Again).len(), 1, "{records:?}");
        assert_eq!(of(&records, Outcome::Unanswered).len(), 1, "{records:?}");
    }
}
