//! Probes: they leave from the source that they name, though it holds no slot, past rules and guard.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mailsteer::observe::probe::{Patience, Probe};
use mailsteer_core::model::{LaneMatch, Sign, SourceId, UplinkId};
use mailsteer_ebpf::Mark;
use socket2::{Domain, Socket, Type};

use crate::nft_lab::{WORLD, sh};
use crate::scene::{CLOSED, PORT, Scene, address, pending};
use crate::{here, lose};

const SHORT: Patience =
    Patience { connect: Duration::from_millis(500), greeting: Duration::from_millis(500) };

fn probe(id: u16, to: &str, port: u16) -> Probe {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    Probe { slot: Some((SourceId(id), UplinkId(1))), from: address(id), to }
}

async fn why(probe: Probe) -> String {
    match probe.run(SHORT).await.unwrap() {
        Sign::ProbeFailed { why } => why,
        other => unreachable!("{other:?}"),
    }
}

/// Whatever connects, this test's own process too, is of a stream; so a probe has to get past it.
async fn everything_is_steered() -> Scene {
    let mut scene = Scene::new();
    scene.lane(LaneMatch::default());
    scene.start().await;
    scene
}

#[test]
fn a_probe_is_greeted_and_was_seen_from_its_source() {
    here(async {
        let scene = everything_is_steered().await;
        for (id, to) in [(3, WORLD[0]), (7, WORLD[1]), (1, WORLD[0]), (5, WORLD[1])] {
            let sign = probe(id, to, PORT).run(Patience::default()).await.unwrap();
            assert_eq!(sign, Sign::ProbeGreeted);
            assert_eq!(scene.receiver.seen(1), [address(id)], "source {id}");
        }
        let held: String = sh("nft list counters table inet mailsteer");
        assert!(held.contains("dropped_wrong {\n\t\tpackets 0"), "{held}");
    });
}

#[test]
fn a_probe_that_fails_says_what_it_met() {
    here(async {
        let scene = everything_is_steered().await;
        for (id, to) in [(3, "192.0.2.1"), (7, "2001:db8::1")] {
            assert_eq!(why(probe(id, to, CLOSED)).await, "refused", "{to}");
        }
        lose(&scene, 3);
        assert_eq!(why(probe(3, WORLD[0], PORT)).await, "no answer within 0.5 s");
        scene
            .lab
            .world
            .run(|| sh("sysctl -qw net.ipv4.ip_forward=1; ip route add unreachable 203.0.113.0/24"));
        let unreachable = why(probe(4, "203.0.113.9", PORT)).await;
        assert_eq!(unreachable, "unreachable: no route to host");
    });
}

/// What this host cannot do is no evidence against an address.
#[test]
fn an_address_that_is_not_here_is_no_sign() {
    here(async {
        let _scene = everything_is_steered().await;
        let from: IpAddr = "192.0.2.77".parse().unwrap();
        let error = Probe { from, ..probe(3, WORLD[0], PORT) }.run(SHORT).await.unwrap_err();
        assert!(error.to_string().contains("cannot be bound to the source's address"), "{error}");
        sh("ip route del default");
        let error = probe(3, WORLD[0], PORT).run(SHORT).await.unwrap_err();
        assert!(error.to_string().contains("cannot connect"), "{error}");
    });
}

/// A flip that takes a source's slots lets a probe of it be.
#[test]
fn a_pending_probe_stays_where_it_is() {
    here(async {
        let mut scene = everything_is_steered().await;
        lose(&scene, 3);
        let run =
            tokio::spawn(probe(3, WORLD[0], PORT).run(Patience { connect: Duration::from_secs(3), ..SHORT }));
        while pending(0, 3) == 0 {
            tokio::task::yield_now().await;
        }
        scene.flip(4, 2).await;
        assert_eq!(scene.move_pending().await, 0);
        assert_eq!(pending(0, 3), 1);
        assert!(matches!(run.await.unwrap().unwrap(), Sign::ProbeFailed { .. }));
        assert_eq!(scene.receiver.seen(0), [] as [IpAddr; 0]);
    });
}

/// A mark alone, an address alone, and a mark with another's address gain nothing: the slots say where they leave.
#[test]
fn a_strangers_mark_is_not_believed() {
    here(async {
        let scene = everything_is_steered().await;
        let to = SocketAddr::new(WORLD[0].parse().unwrap(), PORT);
        let mark = |lane, source| Mark { uplink: 1, lane, source }.pack();
        for (from, mark) in [
            (None, mark(0, 3)),
            (Some(address(3)), 0),
            (Some(address(4)), mark(0, 3)),
            (Some(address(3)), mark(4, 3)),
            (Some(address(3)), mark(0, 0)),
            (None, mark(0, 4000)),
        ] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_mark(mark).unwrap();
            if let Some(from) = from {
                socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            }
            socket.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
            crate::scene::Client::greeted(socket.into());
            assert_eq!(scene.receiver.seen(1), [address(1)], "bound to {from:?} with mark {mark:#x}");
        }
    });
}
