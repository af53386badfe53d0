//! What the guard makes of a packet's headers: cut, wrapped, or not there.

use mailsteer_ebpf::Held;

use crate::world::{
    OTHER, RECEIVER, RECEIVER6, SOURCE, SOURCE6, World, assert_held, connect, held, mark, run, spec, steer,
};
use crate::{counters, raw};

/// Also with a mark that names the packet's own address: who can make such packets may hide another address in them.
#[test]
fn what_cannot_be_read_is_held() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let look_out = raw::LookOut::new(&world);
    for (from, to, source) in [(SOURCE, RECEIVER, 7), (SOURCE6, RECEIVER6, 8)] {
        let packets = raw::unreadable(from, to);
        let send_all = || {
            packets.iter().for_each(|packet| raw::send(packet, to, mark(source)));
            raw::send(&raw::wrapped_syn(from, to), to, 0);
        };
        let before = (held(&world, Held::Unreadable), held(&world, Held::NoMark));
        send_all();
        assert_eq!(look_out.arrived(from, to), 0, "{from}");
        let unreadable = packets.len() as u64;
        assert_eq!(
            (held(&world, Held::Unreadable), held(&world, Held::NoMark)),
            (before.0 + unreadable, before.1 + 1),
            "{from}"
        );
        programs.set_guard(&spec(false)).unwrap();
        send_all();
        assert_eq!(look_out.arrived(from, to), packets.len() + 1, "{from}: without a guard they arrive");
        programs.set_guard(&spec(true)).unwrap();
    }
}

/// Its ports are there, and by them it is judged.
#[test]
fn a_header_that_is_cut_is_judged_by_its_ports() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    let look_out = raw::LookOut::new(&world);
    for (from, to, source) in [(SOURCE, RECEIVER, 7), (SOURCE6, RECEIVER6, 8)] {
        let before = (held(&world, Held::Unreadable), held(&world, Held::NoMark));
        raw::send(&raw::cut_syn(from, to, 25), to, 0);
        assert_eq!(look_out.arrived(from, to), 0, "{from}: without a mark");
        assert_eq!(
            (held(&world, Held::Unreadable), held(&world, Held::NoMark)),
            (before.0, before.1 + 1),
            "{from}"
        );
        raw::send(&raw::cut_syn(from, to, 25), to, mark(source));
        raw::send(&raw::cut_syn(from, to, 80), to, 0);
        assert_eq!(look_out.arrived(from, to), 2, "{from}: its mark is right, and another's port");
    }
}

/// A gateway's MAC may begin as an IP header does, where a packet without a link header would.
#[test]
fn a_mac_that_begins_as_an_ip_header_does_changes_nothing() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    for receiver in [RECEIVER, RECEIVER6] {
        world.listen(receiver, 25);
    }
    steer(&world, &mut programs);
    for mac in ["02:45:00:00:00:01", "44:45:00:00:00:01", "46:00:00:28:00:01", "60:00:00:00:00:01"] {
        world.peer_mac(mac);
        connect(Some(SOURCE), RECEIVER, 25, mark(7)).expect(mac);
        connect(Some(SOURCE6), RECEIVER6, 25, mark(8)).expect(mac);
        assert_held(&world, Held::WrongAddress, Some(OTHER), RECEIVER, mark(7));
        assert_held(&world, Held::NoMark, Some(SOURCE6), RECEIVER6, 0);
    }
    assert_eq!(counters(&world, 7).established, 4);
    assert_eq!(counters(&world, 8).established, 4);
}

/// Of a packet without a link header: where an Ethernet header has its protocol, this one has a part of its source address.
#[test]
fn no_source_address_passes_for_a_link_header() {
    let Some(world) = World::new() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    run("ip tuntap add tun7 mode tun");
    run("ip link set tun7 up");
    run("ip addr add 8.0.69.1/32 dev tun7");
    run("ip addr add 2001:db8:86dd::1/128 dev tun7 nodad");
    for to in ["198.51.100.77", "2001:db8:9::77"] {
        run(&format!("ip route add {to} dev tun7"));
    }
    programs.attach(nix::net::if_::if_nametoindex("tun7").unwrap()).unwrap();
    assert_held(&world, Held::NoMark, Some("8.0.69.1"), "198.51.100.77", 0);
    assert_held(&world, Held::NoMark, Some("2001:db8:86dd::1"), "2001:db8:9::77", 0);
}
