//! What a flip does to connections that began before it, and probes, on the real kernel with both locks up. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "../nft_lab/mod.rs"]
mod nft_lab;
mod probes;
mod scene;

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mailsteer::act::live::{IDLE, UNSURE_IDLE};
use mailsteer::conntrack;
use mailsteer::sockdiag::Turn;
use mailsteer_core::config::OnFlip;
use nft_lab::{Place, WORLD, as_user, eventually, sh};
use scene::{Client, OTHER_USER, PORT, Scene, USER, address, entries, pending, source};
use socket2::{Domain, Socket, Type};

/// Longer than the gap between any two SYNs that these tests see: the third to fifth follow each other in a second
/// (Linux 6.5 on) or in 4 s.
const NEXT_SYN: Duration = Duration::from_millis(4_500);

fn here<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What comes from a source's address gets lost beyond the uplink.
fn lose(scene: &Scene, id: u16) {
    let from = address(id);
    let family = if from.is_ipv4() { "ip" } else { "ip6" };
    scene.lab.world.run(move || {
        sh(&format!(
            "nft add table inet lost; nft 'add chain inet lost in {{ type filter hook prerouting priority -300; }}'
             nft add rule inet lost in {family} saddr {from} drop"
        ))
    });
}

/// Connections that are begun and not waited for.
fn begin(count: usize, to: &'static str) -> Vec<JoinHandle<std::io::Result<Instant>>> {
    let to = SocketAddr::new(to.parse().unwrap(), PORT);
    let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    (0..count)
        .map(|_| {
            let here = here.try_clone().unwrap();
            thread::spawn(move || {
                nix::sched::setns(here, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                as_user(USER, move || {
                    TcpStream::connect_timeout(&to, Duration::from_secs(20)).map(|_| Instant::now())
                })
            })
        })
        .collect()
}

fn all_end_well(begun: Vec<JoinHandle<std::io::Result<Instant>>>, flipped: Instant) {
    let ends: Vec<Duration> =
        begun.into_iter().map(|one| one.join().unwrap().unwrap().duration_since(flipped)).collect();
    let worst = ends.iter().max().unwrap();
    assert!(*worst < NEXT_SYN, "not with the next SYN: {ends:?}");
}

#[test]
fn pending_connections_take_the_new_source_with_their_next_syn() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        for (old, new, to) in [(1, 2, WORLD[0]), (5, 6, WORLD[1])] {
            lose(&scene, old);
            let begun = begin(20, to);
            eventually("20 SYNs", || pending(1, old) == 20);
            scene.flip(1, new).await;
            let flipped = Instant::now();
            assert!(scene.executor().unmoved());
            assert_eq!(scene.move_pending().await, 20);
            assert!(!scene.executor().unmoved());
            assert_eq!(scene.move_pending().await, 0, "a second time there is nothing to do");
            all_end_well(begun, flipped);
            assert_eq!(scene.receiver.seen(20), vec![address(new); 20]);
        }
    });
}

/// What another lane, or another source, has pending is none of the flip's business.
#[test]
fn only_what_lost_its_last_slot_moves() {
    here(async {
        let mut scene = Scene::new();
        scene.slots(1, [source(1), source(2)]);
        scene.start().await;
        lose(&scene, 1);
        lose(&scene, 2);
        let begun = begin(4, WORLD[0]);
        let to = SocketAddr::new(WORLD[0].parse().unwrap(), PORT);
        let other = as_user(OTHER_USER, move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _begun = socket.connect(&to.into());
            socket
        });
        eventually("all SYNs", || pending(1, 1) == 2 && pending(1, 2) == 2 && pending(2, 1) == 1);
        scene.move_pending().await;
        assert_eq!((pending(1, 1), pending(1, 2), pending(2, 1)), (2, 2, 1), "nobody lost a slot");
        scene.flip(1, 3).await;
        assert_eq!(scene.move_pending().await, 4);
        assert_eq!(pending(2, 1), 1, "lane 2 still has it");
        all_end_well(begun, Instant::now());
        drop(other);
    });
}

/// The entry of a connection that was given up stands for two minutes: it must not give a new one its source.
#[test]
fn a_new_connection_on_an_old_port_takes_the_new_source() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        lose(&scene, 1);
        let to = SocketAddr::new(WORLD[0].parse().unwrap(), PORT);
        let connect = |limit: Duration| {
            as_user(USER, move || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&SocketAddr::from(([192, 0, 2, 10], 40_123)).into()).unwrap();
                socket.connect_timeout(&to.into(), limit)
            })
        };
        let moment = Duration::from_millis(200);
        assert!(connect(moment).is_err());
        scene.flip(1, 2).await;
        assert!(connect(moment).is_err(), "joins the old entry, and is lost with it");
        assert_eq!(pending(1, 1), 1);
        assert_eq!(scene.move_pending().await, 1);
        connect(Duration::from_secs(5)).unwrap();
        assert_eq!(scene.receiver.seen(1), [address(2)]);
    });
}

/// SIGKILL between the slots and what follows them: the next agent knows of no flip, and finishes it.
#[test]
fn an_agent_that_was_killed_in_between_leaves_nothing_pending() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        lose(&scene, 1);
        let begun = begin(5, WORLD[0]);
        eventually("5 SYNs", || pending(1, 1) == 5);
        scene.flip(1, 2).await;
        scene.kill();
        assert_eq!(pending(1, 1), 5);
        scene.start().await;
        assert_eq!(scene.move_pending().await, 5);
        all_end_well(begun, Instant::now());
        assert_eq!(scene.receiver.seen(5), vec![address(2); 5]);
    });
}

#[test]
fn cut_ends_the_live_connections_of_the_flipped_source_only() {
    here(async {
        let mut scene = Scene::new();
        scene.slots(1, [source(1), source(2)]);
        scene.start().await;
        for to in WORLD {
            let mut clients: Vec<Client> = (0..4).map(|_| Client::new(USER, to)).collect();
            let mut other = Client::new(OTHER_USER, to);
            let (old, new) = if to == WORLD[0] { (1, 2) } else { (5, 6) };
            let before: Vec<IpAddr> = scene.receiver.seen(5);
            let lost = before[..4].iter().filter(|peer| **peer == address(old)).count();
            assert_eq!(lost, if old == 1 { 2 } else { 4 }, "{before:?}");
            assert_eq!(before[4], address(old));
            scene.flip(1, new).await;
            assert_eq!(scene.end_live(2, OnFlip::Cut).await, 0, "lane 2 lost nothing");
            assert_eq!(scene.end_live(1, OnFlip::Finish).await, 0);
            assert_eq!(scene.end_live(1, OnFlip::Cut).await, lost as u64);
            assert_eq!(scene.executor().until_next_ending(), None, "nothing is waited for");
            for (client, peer) in clients.iter_mut().zip(&before) {
                match client.talks() {
                    Ok(answer) => assert_eq!((answer.as_str(), *peer), ("250 ok\r\n", address(new))),
                    Err(error) => {
                        assert_eq!((error.kind(), *peer), (ErrorKind::ConnectionAborted, address(old)));
                    }
                }
            }
            other.talks().unwrap();
            eventually("the receivers saw the resets", || {
                scene.receiver.gone().iter().filter(|peer| **peer == address(old)).count() == lost
            });
        }
    });
}

/// As where the kernel closes no sockets for others: without its entry a connection ends with its next packet.
#[test]
fn without_its_entry_a_local_connection_ends_at_its_next_word() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        for (source, to) in [(1, WORLD[0]), (5, WORLD[1])] {
            let mut client = Client::new(USER, to);
            let found = entries(1, source);
            assert_eq!(conntrack::delete(&found).unwrap(), 1);
            let error = client.talks().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
    });
}

#[test]
fn close_idle_ends_what_is_idle_and_leaves_what_is_busy() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        for (new, to) in [(2, WORLD[0]), (6, WORLD[1])] {
            let (mut idle, mut busy) = (Client::new(USER, to), Client::new(USER, to));
            idle.talks().unwrap();
            busy.talks().unwrap();
            eventually(
                "its turn for some ticks",
                || matches!(busy.turn(), Some(Turn::Ours(silent)) if silent >= Duration::from_millis(20)),
            );
            busy.says("WAIT").unwrap();
            assert_eq!(busy.turn(), Some(Turn::Theirs));
            scene.flip(1, new).await;
            let began = Instant::now();
            scene.end_idle_until(1, 1).await;
            assert!(began.elapsed() > IDLE / 2, "nobody is idle as soon as that");
            assert_eq!(idle.talks().unwrap_err().kind(), ErrorKind::ConnectionAborted);
            scene.receiver.answer();
            assert_eq!(busy.hears().unwrap(), "250 ok\r\n", "it was not its turn");
            scene.end_idle_until(1, 1).await;
            assert_eq!(busy.talks().unwrap_err().kind(), ErrorKind::ConnectionAborted, "and now it was");
            assert_eq!(scene.end_live(1, OnFlip::CloseIdle).await, 0);
            assert_eq!(scene.executor().until_next_ending(), None, "none is left to be waited for");
        }
    });
}

#[test]
fn forwarded_connections_are_cut_by_their_entry_and_are_idle_later() {
    here(async {
        let mut scene = Scene::new();
        scene.start().await;
        let container = Place::new();
        sh(&format!(
            "ip link add br0 type veth peer name eth0 netns {}; ip link set br0 up; ip addr add 172.22.1.1/24 dev br0",
            container.tid
        ));
        container.run(|| {
            sh("ip link set lo up; ip link set eth0 up; ip addr add 172.22.1.2/24 dev eth0
                ip route add default via 172.22.1.1")
        });
        let to = SocketAddr::new(WORLD[0].parse().unwrap(), PORT);
        let stream = container.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap());
        let mut client = Client::greeted(stream);
        client.talks().unwrap();
        assert_eq!(scene.receiver.seen(1), [address(1)]);
        scene.flip(3, 2).await;
        assert_eq!(scene.end_live(3, OnFlip::CloseIdle).await, 0);
        let wait = scene.executor().until_next_ending().expect("followed by its last packet");
        assert!(wait > UNSURE_IDLE / 2 && wait <= UNSURE_IDLE, "{wait:?}");
        client.talks().unwrap();
        assert_eq!(scene.end_live(3, OnFlip::Cut).await, 1);
        assert_eq!(client.talks().unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
