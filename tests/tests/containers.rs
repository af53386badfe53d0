//! Containers behind a bridge, with a Docker daemon's rules: every recipe of docs/mta-recipes.md for containers, by what
//! receivers accepted, what was on the wire, and what the agent counted.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod bridge_lab;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bridge_lab::{Counted, Place, SHOWN, connect, only_the_pool, own, pool, receivers, source};
use mailsteer_tests::load::Load;
use mailsteer_tests::postfix::{Pace, Settings};
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::topology::{container4, container6, receiver4, receiver6, uplinks};
use mailsteer_tests::{Capture, Lab, NetNs, Options, Postfix, Receiver, docker, poll, recipes, strangers};

/// Every recipe has a test below.
const RECIPES: [&str; 4] = ["mailcow.toml", "bridge.toml", "container-each.toml", "host-network.toml"];

/// Between two events of a siege.
const SPACING: Duration = Duration::from_millis(700);
/// Connections that live through a siege, with data.
const LIVE: u32 = 20;
/// The receiver of each family that sends back what it gets.
const ECHO: u8 = 99;

/// Postfix's number in many images.
const INSIDE: u32 = 101;

/// Open to strangers' flushes, on kernels whose table can be owned too.
const OPEN_TABLE: &str = "nft.own_table = \"never\"\n";
/// What keeps private networks out of steering by default.
const NO_EXCLUDES: &str = "exclude = []\n";

#[test]
fn every_recipe_has_its_test() {
    assert_eq!(recipes::names("Containers").unwrap(), RECIPES);
}

/// Load of two containers, one of them with an own user namespace, and live connections, through a series of events:
/// nothing wrong, nothing lost, nothing twice.
fn besiege(place: &mut Place, events: usize, mut event: impl FnMut(&mut Place, usize)) -> u64 {
    for echo in [receiver4(ECHO), receiver6(ECHO.into())] {
        place.receiver.script(Whom::To(echo), Behaviour::Echo);
    }
    place.receiver.script(Whom::All, Behaviour::BannerClose);
    place.forget();
    let before = place.counted();
    let capture = place.capture();
    let echoes = vec![receiver4(ECHO), receiver6(ECHO.into())];
    let live = place.start(1, &Load { live: LIVE, to: echoes, uid: INSIDE, gid: INSIDE, ..Load::default() });
    poll::until_true(SHOWN, "live connections", || place.receiver.count() >= LIVE as usize).unwrap();
    let load = Load { rate: 100, count: 0, to: receivers(8), uid: INSIDE, gid: INSIDE, ..Load::default() };
    let loads = [place.start(0, &load), place.start(1, &load)];
    let began = Instant::now();
    for n in 0..=events {
        let due = began.elapsed().max(SPACING * u32::try_from(n + 1).unwrap());
        poll::until_true(due + SPACING, "the next event's time", || began.elapsed() >= due).unwrap();
        if n < events {
            event(place, n);
        }
    }
    let loads = loads.map(|load| load.stop().unwrap());
    let live = live.stop().unwrap();
    for load in &loads {
        assert!(load.attempts > 0 && load.ok == load.attempts, "{load:?}");
    }
    assert_eq!((live.ok, live.attempts), (LIVE.into(), LIVE.into()), "{live:?}");
    let all = loads[0].ok + loads[1].ok + u64::from(LIVE);
    let slowest = loads[0].max_ms.max(loads[1].max_ms);
    eprintln!(
        "{all} connections, the slowest {slowest:.0} ms, longest stall {:.0} ms",
        live.longest_stall_ms
    );
    assert_eq!(place.receiver.count() as u64, all, "received");
    let counted = place.await_counted(before, all);
    assert_eq!(counted, Counted { attempts: all, established: all, wrong: 0, refused: 0 });
    only_the_pool(&capture.stop().unwrap());
    let seen: BTreeSet<IpAddr> = place.receiver.by_peer().into_keys().collect();
    assert_eq!(seen, pool());
    all
}

/// Of three events one each: Docker restarts, the whole ruleset is flushed and Docker's comes back, the agent is
/// killed and starts.
fn meddle(place: &mut Place, n: usize) {
    match n % 3 {
        0 => docker::restart(&place.lab.mail).unwrap(),
        1 => {
            strangers::flush(&place.lab.mail).unwrap();
            docker::start(&place.lab.mail).unwrap();
        }
        _ => place.agent.restart().unwrap(),
    }
}

fn two_containers() -> Options {
    Options { containers: 2, remapped: 1, ..Options::default() }
}

#[test]
fn flushes_restarts_and_a_restarting_docker_lose_nothing() {
    let mut place = Place::new(RECIPES[0], two_containers(), OPEN_TABLE);
    besiege(&mut place, 9, meddle);
    let status = place.agent.json(&["status"]).unwrap();
    assert!(status["totals"]["held"].as_u64() > Some(0), "the flushes bit: {status}");
    place.close();
}

/// Messages that a Postfix in a container sends, and how many each second.
const MESSAGES: usize = 480;
const RATE: usize = 60;

/// A message's receiver, named by its address: what Docker does to DNS is not under test.
fn recipient(n: usize) -> String {
    let host = u8::try_from(n / 2 % 8 + 1).unwrap();
    if n.is_multiple_of(2) {
        format!("user{n}@[{}]", receiver4(host))
    } else {
        format!("user{n}@[IPv6:{}]", receiver6(host.into()))
    }
}

#[test]
fn a_postfix_in_a_container_sends_each_message_once_and_defers_none() {
    let mut place = Place::new(RECIPES[0], Options { containers: 1, ..Options::default() }, OPEN_TABLE);
    let postfix = place.lab.inside(0, |lab| Postfix::start(lab, &Settings::default())).unwrap();
    place.forget();
    let (before, capture) = (place.counted(), place.capture());
    let submitting = postfix.submit_at(Pace { count: MESSAGES, rate: RATE, sessions: 2 }, recipient).unwrap();
    for n in 0..9 {
        let due = MESSAGES * (n + 1) / 12;
        poll::until_true(SHOWN * 2, "messages", || place.receiver.messages() >= due).unwrap();
        meddle(&mut place, n);
    }
    submitting.finish().unwrap();
    postfix.wait_sent(MESSAGES, Duration::from_secs(30)).unwrap();
    let deliveries = postfix.deliveries().unwrap();
    let unsent: Vec<_> = deliveries.iter().filter(|delivery| delivery.status != "sent").collect();
    assert!(unsent.is_empty(), "{} of {}: {:?}", unsent.len(), deliveries.len(), unsent[0]);
    let connections = place.receiver.connections();
    let messages = connections.iter().flat_map(|one| &one.messages).flat_map(|message| &message.to);
    let once: BTreeSet<&String> = messages.clone().collect();
    assert_eq!((messages.count(), once.len()), (MESSAGES, MESSAGES), "each came once");
    let count = connections.len() as u64;
    let counted = place.await_counted(before, count);
    assert_eq!(counted, Counted { attempts: count, established: count, wrong: 0, refused: 0 });
    only_the_pool(&capture.stop().unwrap());
    assert_eq!(place.receiver.by_peer().into_keys().collect::<BTreeSet<_>>(), pool());
    postfix.stop().unwrap();
    place.close();
}

#[test]
fn dockers_rules_come_and_go_and_each_connection_is_one_record() {
    let mut place = Place::new(RECIPES[0], two_containers(), "");
    let all = besiege(&mut place, 6, |place, n| match n % 3 {
        0 => docker::recreate_network(&place.lab.mail).unwrap(),
        1 => docker::restart(&place.lab.mail).unwrap(),
        // mailcow's own way to one address comes after ours.
        _ => docker::snat_to_source(&place.lab.mail, &[own(false), own(true)]).unwrap(),
    });
    // Which source served which receiver how often: a record has no port of a connection that was forwarded.
    let mut received: BTreeMap<(IpAddr, IpAddr), u64> = BTreeMap::new();
    for one in place.receiver.connections() {
        *received.entry((one.peer.ip(), one.to)).or_default() += 1;
    }
    let rows = poll::until(SHOWN, "the records", || {
        let mut rows = place.agent.json_lines(&["connections", "-n", "10000"])?;
        rows.retain(|row| row["stream"] == "mailcow");
        Ok(Some(rows).filter(|rows| rows.len() as u64 >= all))
    });
    let address = |value: &serde_json::Value| value.as_str().unwrap().parse::<IpAddr>().unwrap();
    let mut told: BTreeMap<(IpAddr, IpAddr), u64> = BTreeMap::new();
    for row in rows.unwrap() {
        assert!(row["outcome"] == "established" && row["pid"].is_null() && row["uid"].is_null(), "{row}");
        assert_eq!(row["wanted_address"], row["real_address"], "{row}");
        *told.entry((address(&row["real_address"]), address(&row["destination"]))).or_default() += 1;
    }
    assert_eq!(told, received);
    place.close();
}

#[test]
fn weights_are_exact_and_sticky_stays() {
    let place = Place::new(RECIPES[0], two_containers(), "");
    let load = |count, to| Load { rate: 400, count, to, ..Load::default() };
    let seen = place.serve_container(0, &load(401, vec![receiver4(1)]));
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!((300..=301).contains(&seen[&source(0, false)]), "three of four: {seen:?}");
    let seen = place.serve_container(1, &load(200, vec![receiver6(1)]));
    assert_eq!(seen, BTreeMap::from([(source(0, true), 100), (source(1, true), 100)]));
    place.close();

    let mut place = Place::new(RECIPES[1], two_containers(), "");
    let habits = |place: &Place, n| {
        place.serve_container(n, &load(160, receivers(40)));
        let connections = place.receiver.connections();
        let habits: BTreeSet<_> = connections.iter().map(|one| (one.to, one.peer.ip())).collect();
        assert_eq!(habits.len(), 80, "one source for each receiver: {habits:?}");
        assert_eq!(habits.iter().map(|(_, source)| *source).collect::<BTreeSet<_>>(), pool());
        habits
    };
    let first = habits(&place, 0);
    assert_eq!(habits(&place, 1), first, "whichever container asks");
    docker::restart(&place.lab.mail).unwrap();
    place.agent.restart().unwrap();
    assert_eq!(habits(&place, 0), first, "restarts move nothing");
    place.close();
}

#[test]
fn a_container_per_address() {
    let options = Options { containers: 4, remapped: 2, ..Options::default() };
    let place = Place::new(RECIPES[2], options, "");
    let load = Load { rate: 200, count: 40, to: receivers(2), ..Load::default() };
    let of = |n| BTreeMap::from([(source(n, false), 20), (source(n, true), 20)]);
    for (container, pool) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        assert_eq!(place.serve_container(container, &load), of(pool), "container {container}");
    }
    // Its pool has no eligible source any more: refused at once, and never sent from another's address.
    for name in ["newsletter-1", "newsletter-2"] {
        let said = place.agent.cli(&["suspend", name, "--reason", "a test"]).unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    place.forget();
    let (before, capture) = (place.counted(), place.capture());
    let refused = place.start(1, &load).finish().unwrap();
    let told = BTreeMap::from([("ECONNREFUSED".to_owned(), 40)]);
    assert_eq!((refused.ok, refused.failed), (0, told), "none waits for a time-out");
    let counted = place.await_counted(before, 0);
    assert_eq!(counted, Counted { attempts: 0, established: 0, wrong: 0, refused: 40 });
    assert_eq!(capture.stop().unwrap().by_source.len(), 0, "nothing left");
    assert_eq!(place.serve_container(0, &load), of(0), "the others go on");
    place.close();
}

/// What arrives in the first container, by source, SYNs byte for byte: from a container beside it, from the host, and
/// from the world by the published port.
fn arriving(lab: &Lab) -> BTreeMap<(String, IpAddr), BTreeSet<Vec<u8>>> {
    let listener = Receiver::start(&lab.containers[0], 25).unwrap();
    let capture = Capture::start(&lab.containers[0], &["eth0"], 25).unwrap();
    for v6 in [false, true] {
        let inside = if v6 { container6(0) } else { container4(0) };
        for (ns, to) in [(&lab.containers[1], inside), (&lab.mail, inside), (&lab.world, own(v6))] {
            let report = connect(ns, to);
            assert_eq!(report.ok, 1, "{} to {to}: {report:?}", ns.name());
        }
    }
    let seen: BTreeSet<IpAddr> = listener.by_peer().into_keys().collect();
    let wire = capture.stop().unwrap();
    listener.stop().unwrap();
    let on_wire: BTreeSet<IpAddr> = wire.by_source.keys().map(|(_, source)| *source).collect();
    assert_eq!(on_wire, seen);
    let uplink = &uplinks()[0];
    for from in [container4(1), container6(1), uplink.gateway4.into(), uplink.gateway6.into()] {
        assert!(seen.contains(&from), "{from}: {seen:?}");
    }
    wire.by_source.into_iter().map(|(from, seen)| (from, seen.syn_shapes)).collect()
}

/// Whether bridged packets go through the host's rules too; none where the kernel cannot.
fn bridged_through_rules(mail: &NetNs) -> Vec<&'static str> {
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        return vec!["0", "1"];
    }
    // Nothing can be switched, so what is tested is what such a kernel does.
    eprintln!("{}: this kernel has no br_netfilter: tested without it only", mail.name());
    vec![]
}

fn through_rules(mail: &NetNs, value: &str) {
    for family in ["iptables", "ip6tables"] {
        mail.sysctl(&format!("net.bridge.bridge-nf-call-{family}"), value).unwrap();
    }
}

#[test]
fn between_containers_nothing_is_touched_with_and_without_br_netfilter() {
    let place = Place::new(RECIPES[1], two_containers(), NO_EXCLUDES);
    let mail = &place.lab.mail;
    for container in [container4(0), container6(0)] {
        docker::publish_smtp(mail, container).unwrap();
    }
    let ways = bridged_through_rules(mail);
    let mut ways: Vec<Option<&str>> = ways.into_iter().map(Some).collect();
    if ways.is_empty() {
        ways.push(None);
    }
    let mut during = Vec::new();
    for way in &ways {
        way.inspect(|value| through_rules(mail, value));
        let before = place.counted();
        during.push(arriving(&place.lab));
        assert_eq!(place.await_counted(before, 0).attempts, 0, "none of it is mail to the world");
        // Else nothing would be shown: the same container's mail to the world is steered.
        let load = Load { count: 40, to: receivers(20), ..Load::default() };
        let seen: BTreeSet<IpAddr> = place.serve_container(1, &load).into_keys().collect();
        assert_eq!(seen, pool(), "br_netfilter {way:?}");
    }
    let answer = place.agent.cli(&["teardown", "--yes"]).unwrap();
    assert!(answer.status.success(), "{answer:?}");
    for (way, during) in ways.iter().zip(during) {
        way.inspect(|value| through_rules(mail, value));
        assert_eq!(arriving(&place.lab), during, "br_netfilter {way:?}");
    }
    place.close();
}

#[test]
fn in_the_hosts_network_by_cgroup_and_by_the_hosts_number_of_a_user() {
    let options = Options { containers: 1, remapped: 1, ..Options::default() };
    let place = Place::new(RECIPES[3], options, "");
    let (mail, remapped) = (&place.lab.mail, &place.lab.containers[0]);
    let cgroup = place.lab.cgroup().unwrap().to_owned();
    let load = |uid: u32, cgroup: &Path| Load {
        rate: 200,
        count: 40,
        to: receivers(2),
        uid,
        gid: uid,
        cgroup: Some(cgroup.to_owned()),
        ..Load::default()
    };
    let of = |from: fn(bool) -> IpAddr| BTreeMap::from([(from(false), 20), (from(true), 20)]);
    let served = |load: &Load, users: Option<&NetNs>| {
        place.serve(|| load.start_among(mail, users).unwrap(), load.count)
    };
    assert_eq!(served(&load(3000, &cgroup.join("mail.slice")), None), of(|v6| source(0, v6)), "by cgroup");
    let user = load(INSIDE, &cgroup);
    assert_eq!(served(&user, Some(remapped)), of(|v6| source(1, v6)), "by the host's number");
    assert_eq!(served(&user, None), of(own), "the host's own user of that number is another");
    // Behind the bridge it is nobody's process: not matched by the number that it has.
    let behind = Load { cgroup: None, ..user };
    assert_eq!(place.serve_container(0, &behind), of(own), "masqueraded, unsteered");
    place.close();
}
