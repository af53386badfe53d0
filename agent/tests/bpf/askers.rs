//! What is noted at a socket, over several tries of one.

use std::io::ErrorKind;
use std::net::SocketAddr;

use mailsteer_ebpf::{Outcome, Total};

use super::events;
use super::world::{RECEIVER, SOURCE, World, mark, socket, steer};

/// To which no route leads.
const NOWHERE: &str = "100.64.0.1";

fn at(address: &str) -> socket2::SockAddr {
    SocketAddr::new(address.parse().unwrap(), 25).into()
}

#[test]
fn a_socket_that_asks_again_is_told_of_each_try() {
    let Some(world) = World::new() else { return };
    world.listen(RECEIVER, 25);
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let all = events(&world, 3, || {
        let asking = socket(Some(SOURCE), RECEIVER, mark(7));
        for _ in 0..2 {
            let error = asking.connect(&at(NOWHERE)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
        }
        asking.connect(&at(RECEIVER)).unwrap();
    });
    let told: Vec<_> = all.iter().map(|event| (event.outcome, event.daddr[12..].to_vec())).collect();
    let (nowhere, receiver) = (vec![100, 64, 0, 1], vec![192, 0, 2, 100]);
    let not_sent = (Outcome::NotSent as u8, nowhere);
    assert_eq!(told, [not_sent.clone(), not_sent, (Outcome::Established as u8, receiver)]);
    // All of one socket, each with a time of its own.
    assert!(all.iter().all(|event| event.cookie == all[0].cookie), "{all:?}");
    assert!(all[0].started < all[1].started && all[1].started < all[2].started, "{all:?}");
    let totals = world.reader().totals().unwrap();
    assert_eq!((totals[Total::Asked as usize], totals[Total::NotSent as usize]), (3, 2));
}
