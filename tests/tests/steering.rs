//! A config, an agent, real connections: each leaves from the chosen address, and never from another.
//!
//! Each line of the balance is shown by what the receivers logged, and no test ends before the wire agrees with them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::agent::METRICS;
use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::poll;
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, NetNs, Options, Receiver};

/// One pool of each balance, each with four sources of both families.
const BALANCES: &str = r#"
mode = "enforce"
[pool.turns]
addresses = ["192.0.2.11-192.0.2.14", "2001:db8:a::11", "2001:db8:a::12", "2001:db8:a::13"]
weights = { "turns-1" = 3, "turns-6" = 0, "turns-7" = 2 }
[pool.chance]
addresses = ["192.0.2.21-192.0.2.24", "2001:db8:a::21", "2001:db8:a::22", "2001:db8:a::23", "2001:db8:a::24"]
balance = "random"
[pool.habit]
addresses = ["192.0.2.31-192.0.2.34", "2001:db8:a::31", "2001:db8:a::32", "2001:db8:a::33", "2001:db8:a::34"]
balance = "sticky"
[stream.turns]
uid = 1001
pool = "turns"
[stream.chance]
uid = 1002
pool = "chance"
[stream.share]
uid = 1003
pool = "chance"
mode = { canary = 0.30 }
[stream.habit]
uid = 1004
pool = "habit"
"#;

/// The n-th source by the lab's plan, of either family.
fn source(n: u8, v6: bool) -> IpAddr {
    let uplink = &uplinks()[0];
    if v6 { uplink.source6(n) } else { uplink.source4(n) }
}

/// The mail host's own address, which everything unsteered leaves from.
fn own(v6: bool) -> IpAddr {
    let uplink = &uplinks()[0];
    if v6 { uplink.own6.into() } else { uplink.own4.into() }
}

/// A lab with one uplink, its receivers, and the agent.
struct Bench {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
}

impl Bench {
    fn new(config: Option<&str>) -> Self {
        let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let agent = match config {
            Some(config) => Agent::start(&lab, config).unwrap(),
            None => Agent::launch(&lab, None).unwrap(),
        };
        Self { lab, receiver, agent }
    }

    /// Forgets all connections, once they are over: one that the receiver has not seen end yet would count as the next
    /// load's.
    fn forget(&self) {
        let over = || self.receiver.connections().iter().all(|connection| !connection.open);
        poll::until_true(Duration::from_secs(10), "every connection to be over", over).unwrap();
        self.receiver.forget();
    }

    /// Connections of a user, all of which must be served; how many came from each address.
    fn serve(&self, uid: u32, count: u64, to: Vec<IpAddr>) -> BTreeMap<IpAddr, u64> {
        self.forget();
        let capture = Capture::start(&self.lab.world, &["wa"], 25).unwrap();
        let cgroup = Some(self.lab.cgroup().unwrap().to_owned());
        let load = Load { rate: 1000, count, uid, gid: uid, to, cgroup, ..Load::default() };
        let report = load.run(&self.lab.mail).unwrap();
        assert_all_served(&report, count);
        let (wire, by_peer) = (capture.stop().unwrap(), self.receiver.by_peer());
        assert_eq!(wire.lost, 0);
        // A SYN may have been sent again on a busy machine, and then from the same address.
        let on_wire: Vec<IpAddr> = wire.by_source.keys().map(|(_, source)| *source).collect();
        assert_eq!(on_wire, by_peer.keys().copied().collect::<Vec<_>>());
        by_peer
    }

    fn established(&self, stream: &str, source: &str) -> f64 {
        let labels = [
            format!("stream=\"{stream}\""),
            format!("source=\"{source}\""),
            "outcome=\"established\"".to_owned(),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.agent.metric(METRICS, "mailsteer_connections_total", &labels).unwrap()
    }

    /// Waits for the metric, which is read anew every few seconds.
    fn wait_established(&self, stream: &str, source: &str, count: u64) {
        poll::until_true(Duration::from_secs(10), &format!("{count} of {stream:?} from {source:?}"), || {
            self.established(stream, source) == count as f64
        })
        .unwrap_or_else(|e| panic!("{e}: {}", self.agent.metrics(METRICS).unwrap()));
    }

    fn close(self) {
        drop(self.agent);
        self.receiver.stop().unwrap();
        self.lab.close().unwrap();
    }
}

fn assert_all_served(report: &Report, count: u64) {
    assert_eq!((report.attempts, report.ok), (count, count), "{report:?}");
}

/// Addresses in `a` are exactly those that have a share, and each has it within `tolerance` connections.
fn assert_shares(seen: &BTreeMap<IpAddr, u64>, wanted: &[(IpAddr, f64)], tolerance: f64) {
    let total: u64 = seen.values().sum();
    let addresses: Vec<IpAddr> = wanted.iter().map(|(address, _)| *address).collect();
    assert!(seen.keys().all(|address| addresses.contains(address)), "{seen:?}");
    for (address, share) in wanted {
        let count = seen.get(address).copied().unwrap_or_default() as f64;
        let off = (count - total as f64 * share).abs();
        assert!(off <= tolerance, "{address} is {off} off: {seen:?}");
    }
}

#[test]
fn round_robin_is_exact_to_one_connection() {
    let bench = Bench::new(Some(BALANCES));
    let seen = bench.serve(1001, 601, vec![receiver4(1)]);
    let wanted = [(0, 3.0 / 6.0), (1, 1.0 / 6.0), (2, 1.0 / 6.0), (3, 1.0 / 6.0)];
    assert_shares(&seen, &wanted.map(|(n, share)| (source(n, false), share)), 1.0);
    for (n, name) in ["turns-1", "turns-2", "turns-3", "turns-4"].iter().enumerate() {
        bench.wait_established("turns", name, seen[&source(u8::try_from(n).unwrap(), false)]);
    }
    let seen = bench.serve(1001, 200, vec![receiver6(1), receiver6(2)]);
    assert_shares(&seen, &[(source(0, true), 1.0 / 3.0), (source(2, true), 2.0 / 3.0)], 1.0);
    // The turn goes on where it was: a restart of the agent makes no source come twice.
    let mut bench = bench;
    let before = bench.serve(1001, 3, vec![receiver4(1)]);
    bench.agent.restart().unwrap();
    let after = bench.serve(1001, 3, vec![receiver4(1)]);
    let both = before.into_iter().chain(after).fold(BTreeMap::new(), |mut sum, (address, count)| {
        *sum.entry(address).or_default() += count;
        sum
    });
    assert_shares(&both, &wanted.map(|(n, share)| (source(n, false), share)), 1.0);
    bench.close();
}

/// With n = 5,000 and a share of 25 %, a right program is more than 3 points off with a chance of 9.1e-7, and there
/// are 8 shares; with a share of 30 % the chance is 3.4e-6, and there are two. In all below 1 in 70,000.
const N: u64 = 5_000;
const THREE_POINTS: f64 = 0.03 * N as f64;

#[test]
fn random_and_a_canary_are_within_three_points() {
    let bench = Bench::new(Some(BALANCES));
    for (v6, to) in [(false, receiver4(1)), (true, receiver6(1))] {
        let quarters: Vec<_> = (10..14).map(|n| (source(n, v6), 0.25)).collect();
        let seen = bench.serve(1002, N, vec![to]);
        assert_shares(&seen, &quarters, THREE_POINTS);
        let seen = bench.serve(1003, N, vec![to]);
        let steered: u64 = quarters.iter().filter_map(|(address, _)| seen.get(address)).sum();
        let left_alone = seen[&own(v6)];
        assert_eq!(steered + left_alone, N, "{seen:?}");
        assert!((steered as f64 - 0.30 * N as f64).abs() <= THREE_POINTS, "{seen:?}");
        if v6 {
            continue;
        }
        bench.wait_established("share", "", left_alone);
    }
    bench.close();
}

/// Which address served each receiver; it must be one for each.
fn habits(bench: &Bench, to: &[IpAddr]) -> BTreeMap<IpAddr, IpAddr> {
    bench.serve(1004, 4 * to.len() as u64, to.to_vec());
    let mut habits = BTreeMap::new();
    for connection in bench.receiver.connections() {
        let known = *habits.entry(connection.to).or_insert(connection.peer.ip());
        assert_eq!(known, connection.peer.ip(), "{} was served from two addresses", connection.to);
    }
    assert_eq!(habits.len(), to.len());
    habits
}

#[test]
fn sticky_keeps_one_source_per_destination() {
    let mut bench = Bench::new(Some(BALANCES));
    let to: Vec<IpAddr> = (1..=60).map(receiver4).chain((1..=60).map(receiver6)).collect();
    let first = habits(&bench, &to);
    for v6 in [false, true] {
        // The hash is a fixed one, and so is what it makes of these receivers.
        let used = (20..24).filter(|n| first.values().any(|address| *address == source(*n, v6)));
        assert_eq!(used.count(), 4, "{first:?}");
    }
    bench.agent.restart().unwrap();
    assert_eq!(habits(&bench, &to), first, "a restart moves nothing");
    let said = bench.agent.cli(&["suspend", "habit-2", "--reason", "a test"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    let second = habits(&bench, &to);
    for (receiver, address) in &first {
        let moved = second[receiver] != *address;
        assert_eq!(moved, *address == source(21, false), "{receiver}: {address}, now {}", second[receiver]);
    }
    bench.close();
}

/// Entries of conntrack whose answer goes to another address than the one that asked: translated ones.
fn translated(ns: &NetNs) -> Vec<String> {
    let listing = ns.sh("conntrack -L -o extended 2>/dev/null; conntrack -L -f ipv6 2>/dev/null").unwrap();
    let differs = |line: &&str| {
        let value =
            |key: &str, nth: usize| line.split_whitespace().filter_map(|w| w.strip_prefix(key)).nth(nth);
        line.contains("dport=25 ") && value("src=", 0) != value("dst=", 1)
    };
    listing.lines().filter(differs).map(str::to_owned).collect()
}

const OBSERVED: &str = r#"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14", "2001:db8:a::11"]
[stream.mail]
uid = 1001
pool = "main"
"#;

#[test]
fn observe_changes_nothing_and_counts_everything() {
    for config in [Some(OBSERVED), None] {
        let bench = Bench::new(config);
        let routes = bench.lab.mail.sh("ip route; ip -6 route; ip rule; ip -6 rule").unwrap();
        for (v6, to) in [(false, receiver4(1)), (true, receiver6(1))] {
            let seen = bench.serve(1001, 300, vec![to]);
            assert_eq!(seen, BTreeMap::from([(own(v6), 300)]));
            assert_eq!(bench.serve(1002, 100, vec![to]), BTreeMap::from([(own(v6), 100)]));
        }
        assert_eq!(translated(&bench.lab.mail), Vec::<String>::new());
        assert_eq!(bench.lab.mail.sh("ip route; ip -6 route; ip rule; ip -6 rule").unwrap(), routes);
        let of_stream = if config.is_some() { 600 } else { 0 };
        if config.is_some() {
            bench.wait_established("mail", "", of_stream);
        }
        bench.wait_established("", "", 800 - of_stream);
        let rows = bench.agent.json_lines(&["connections", "-n", "1000"]).unwrap();
        assert_eq!(rows.len(), 800);
        assert!(rows.iter().all(|row| row["wanted_source"].is_null()), "{:?}", rows[0]);
        bench.close();
    }
}

/// Each stream is matched by another thing and has a source of each family for itself, so that the address tells which
/// stream it was. `last` takes what no stream before it took.
const MATCHES: &str = r#"
mode = "enforce"
[pool.p1]
addresses = ["192.0.2.11", "2001:db8:a::11"]
[pool.p2]
addresses = ["192.0.2.12", "2001:db8:a::12"]
[pool.p3]
addresses = ["192.0.2.13", "2001:db8:a::13"]
[pool.p4]
addresses = ["192.0.2.14", "2001:db8:a::14"]
[pool.p5]
addresses = ["192.0.2.15", "2001:db8:a::15"]
[pool.p6]
addresses = ["192.0.2.16", "2001:db8:a::16"]
[pool.p7]
addresses = ["192.0.2.17", "2001:db8:a::17"]
[pool.p8]
addresses = ["192.0.2.18", "2001:db8:a::18"]
[stream.tag]
tag = ["198.18.0.2", "fd00:6d73::2"]
pool = "p1"
[stream.destination]
destination = ["203.0.113.64/26", "2001:db8:ffff::64/128"]
pool = "p2"
[stream.both]
uid = 1001
gid = 2001
pool = "p3"
[stream.gid]
gid = 2001
pool = "p4"
[stream.uid]
uid = 1001
pool = "p5"
[stream.cgroup]
cgroup = "mta.slice"
pool = "p6"
[stream.mark]
mark = 0x17
pool = "p7"
[stream.subnet]
subnet = ["172.22.1.0/24", "fd4d:6169:6c63:6f77::/64"]
pool = "p8"
"#;

#[test]
fn every_kind_of_match_takes_its_own_and_the_first_wins() {
    let lab = Lab::new(Options { uplinks: 1, containers: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let cgroup = lab.cgroup().unwrap().to_owned();
    // One level deeper than the stream says: what lies below belongs to it.
    let inner = cgroup.join("mta.slice/smtp.scope");
    std::fs::create_dir_all(&inner).unwrap();
    let agent = Agent::start(&lab, MATCHES).unwrap();
    let bench = Bench { lab, receiver, agent };
    let base = |to| Load {
        count: 20,
        uid: 3000,
        gid: 3000,
        cgroup: Some(cgroup.clone()),
        to: vec![to],
        ..Load::default()
    };
    for v6 in [false, true] {
        let to = if v6 { receiver6(1) } else { receiver4(1) };
        let other = if v6 { receiver6(0x64) } else { receiver4(64) };
        let tag: IpAddr = if v6 { "fd00:6d73::2" } else { "198.18.0.2" }.parse().unwrap();
        let tagged = |load| Load { bind: Some(tag), ..load };
        let who = |uid, gid, load| Load { uid, gid, ..load };
        let inside = |load| Load { cgroup: Some(inner.clone()), ..load };
        let marked = |load| Load { mark: Some(0x17), uid: 0, gid: 0, ..load };
        let host = &bench.lab.mail;
        for (what, ns, load, from) in [
            ("a tag", host, tagged(base(to)), source(0, v6)),
            ("a tag, before all others", host, inside(who(1001, 2001, tagged(base(other)))), source(0, v6)),
            ("a destination", host, base(other), source(1, v6)),
            ("a destination, before the user", host, who(1001, 2001, base(other)), source(1, v6)),
            ("user and group", host, who(1001, 2001, base(to)), source(2, v6)),
            ("the group alone", host, who(3000, 2001, base(to)), source(3, v6)),
            ("the user alone", host, who(1001, 3000, base(to)), source(4, v6)),
            ("the user, before the cgroup", host, who(1001, 3000, inside(base(to))), source(4, v6)),
            ("a cgroup", host, inside(base(to)), source(5, v6)),
            ("a packet mark", host, marked(base(to)), source(6, v6)),
            ("a packet mark, inside the cgroup", host, inside(marked(base(to))), source(6, v6)),
            ("a container", &bench.lab.containers[0], base(to), source(7, v6)),
            ("a container's destination", &bench.lab.containers[0], base(other), source(1, v6)),
            ("nobody", host, base(to), own(v6)),
        ] {
            bench.forget();
            assert_all_served(&load.run(ns).unwrap(), 20);
            assert_eq!(bench.receiver.by_peer(), BTreeMap::from([(from, 20)]), "{what}");
        }
    }
    bench.close();
}
