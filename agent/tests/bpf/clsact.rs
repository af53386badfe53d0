//! What only filters need: the qdisc they stand in, which is everybody's, and neighbours that can be put before them.

use std::process::Command;

use mailsteer::act::bpf::{BpfError, Programs};
use mailsteer_ebpf::Held;

use crate::world::{RECEIVER, World, assert_held, run, steer};

fn tc(args: &str) -> String {
    let out = Command::new("tc").args(args.split(' ')).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// A filter of the classic kind, for IPv4 alone, that matches nothing.
fn stranger(side: &str, priority: u16) {
    let place = format!("filter add dev up0 {side} prio {priority} protocol ip bpf bytecode");
    let done = Command::new("tc").args(place.split(' ')).arg("1,6 0 0 0").status().unwrap();
    assert!(done.success(), "{place}");
}

fn has_qdisc() -> bool {
    tc("qdisc show dev up0").contains("clsact")
}

#[test]
fn filters_stand_where_tc_shows_them_and_go_with_their_qdisc() {
    let Some(world) = World::by_clsact() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    assert_eq!(programs.attached(), [world.uplink]);
    let egress = tc("filter show dev up0 egress");
    let guard = egress.find("mailsteer_guard").expect("the guard");
    assert!(guard < egress.find("mailsteer_flow_out").expect("flow tracking"), "{egress}");
    assert!(egress.contains("pref 1 bpf") && egress.contains("direct-action"), "{egress}");
    assert!(tc("filter show dev up0 ingress").contains("mailsteer_flow_in"));
    drop(programs);
    let adopted = world.programs();
    assert_eq!(adopted.attached(), [world.uplink], "filters outlive the agent");
    assert_ne!(tc("filter show dev up0 egress"), egress, "and have the next one's programs");
    assert_held(&world, Held::NoMark, None, RECEIVER, 0);
    Programs::remove(&world.paths).unwrap();
    assert!(!has_qdisc() && !world.home.join("mailsteer").exists());
}

#[test]
fn a_qdisc_that_was_there_or_is_used_by_others_stays() {
    let Some(world) = World::by_clsact() else { return };
    run("tc qdisc add dev up0 clsact");
    let mut programs = world.programs();
    steer(&world, &mut programs);
    programs.detach(world.uplink).unwrap();
    assert!(has_qdisc(), "it was there before us");
    assert_eq!(tc("filter show dev up0 egress"), "");

    run("tc qdisc del dev up0 clsact");
    programs.attach(world.uplink).unwrap();
    stranger("ingress", 9);
    Programs::remove(&world.paths).unwrap();
    assert!(has_qdisc(), "somebody uses it now");
    assert!(tc("filter show dev up0 ingress").contains("pref 9 bpf"));
    assert_eq!(tc("filter show dev up0 egress"), "");
}

#[test]
fn a_stranger_who_removes_qdisc_or_filters_is_noticed_and_mended() {
    let Some(world) = World::by_clsact() else { return };
    let mut programs = world.programs();
    steer(&world, &mut programs);
    for done in ["qdisc del dev up0 clsact", "filter del dev up0 egress", "filter del dev up0 ingress"] {
        run(&format!("tc {done}"));
        assert!(programs.attached().is_empty(), "{done}");
        programs.attach(world.uplink).unwrap();
        assert_eq!(programs.attached(), [world.uplink], "{done}");
        assert_held(&world, Held::NoMark, None, RECEIVER, 0);
    }
}

#[test]
fn a_first_priority_that_cannot_be_shared_is_named() {
    let Some(world) = World::by_clsact() else { return };
    run("tc qdisc add dev up0 clsact");
    stranger("egress", 1);
    let mut programs = world.programs();
    let refused = programs.attach(world.uplink).unwrap_err();
    assert!(matches!(refused, BpfError::PriorityTaken { .. }), "{refused}");
    assert!(programs.attached().is_empty());
    run("tc filter del dev up0 egress prio 1");
    stranger("egress", 2);
    programs.attach(world.uplink).unwrap();
    assert_eq!(programs.attached(), [world.uplink]);
}
