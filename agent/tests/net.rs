//! Addresses, routes and rules in namespaces of their own. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use common::netns::{Pair, enter, ip, run};
use mailsteer::act::net::{
    Added, Net, Removed, TornDown, restore_src_valid_mark, set_src_valid_mark, src_valid_mark,
};
use mailsteer::netlink::Connection;
use mailsteer::observe::net::{Monitor, RECEIVE_BUFFER, ours, snapshot};
use mailsteer_core::model::{AddressState, Family, UplinkId, WantedKind};
use mailsteer_core::plan::{AddressAt, RouteAt, RuleSpec};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(15);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await.expect("in time") })
}

fn at(address: &str, interface: &str) -> AddressAt {
    let kind = if interface == "lo" { WantedKind::Tag } else { WantedKind::Source };
    AddressAt { address: address.parse().unwrap(), interface: interface.to_owned(), kind, ours: true }
}

/// What `ip -j` says of an address.
fn shown(address: &str) -> Option<Value> {
    let links: Value = serde_json::from_str(&ip("-j addr show")).unwrap();
    let mut all =
        links.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array().unwrap().clone());
    all.find(|one| one["local"] == address)
}

fn base() {
    ip("addr add 198.51.100.1/24 dev up0");
    ip("addr add 2001:db8::1/64 dev up0 nodad");
    ip("route add default via 198.51.100.254");
    ip("route add default via 2001:db8::fe");
}

#[test]
fn an_address_is_added_as_ours_and_leaves_other_traffic_alone() {
    let _pair = Pair::new();
    base();
    let destinations =
        ["192.0.2.1", "203.0.113.9", "198.51.100.77", "8.8.8.8", "2001:db8:1::1", "2001:db8::77"];
    // The tail of an IPv6 line may say how long a cached route stays.
    let source_of = |to: &&str| {
        ip(&format!("-o route get {to}"))
            .split_whitespace()
            .map(str::to_owned)
            .skip_while(|word| word != "src")
            .nth(1)
    };
    let before: Vec<_> = destinations.iter().map(source_of).collect();
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        let wanted = [
            at("198.51.100.10", "up0"),
            at("2001:db8::10", "up0"),
            at("10.99.0.1", "lo"),
            at("fd99::1", "lo"),
        ];
        for one in &wanted {
            assert_eq!(net.add_address(one).await.unwrap(), Added::New);
            assert_eq!(net.add_address(one).await.unwrap(), Added::Present);
        }
        let v4 = shown("198.51.100.10").unwrap();
        assert_eq!((v4["prefixlen"].as_u64(), v4["label"].as_str()), (Some(32), Some("up0:ms")));
        let v6 = shown("2001:db8::10").unwrap();
        assert_eq!((v6["prefixlen"].as_u64(), v6["preferred_life_time"].as_u64()), (Some(128), Some(0)));
        assert_eq!(destinations.iter().map(source_of).collect::<Vec<_>>(), before);
        let found = ours(connection.handle(), &BTreeSet::new()).await.unwrap().addresses;
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted.iter().cloned().collect());
        assert_eq!(net.remove_address(&wanted[0]).await.unwrap(), Removed::Gone);
        assert_eq!(net.remove_address(&wanted[0]).await.unwrap(), Removed::Absent);
        assert_eq!(net.teardown().await.unwrap(), TornDown { addresses: 3, routes: 0, rules: 0 });
        assert!(wanted.iter().all(|one| shown(&one.address.to_string()).is_none()));
        assert!(shown("198.51.100.1").is_some() && shown("2001:db8::1").is_some());
    });
}

#[test]
fn a_foreign_address_is_adopted_and_never_removed() {
    let _pair = Pair::new();
    base();
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        let foreign = at("198.51.100.1", "up0");
        assert_eq!(net.add_address(&foreign).await.unwrap(), Added::Adopted);
        assert_eq!(net.remove_address(&foreign).await.unwrap(), Removed::Foreign);
        net.teardown().await.unwrap();
        assert!(shown("198.51.100.1").is_some());
        let wanted: BTreeSet<IpAddr> = [foreign.address].into();
        let found = ours(connection.handle(), &wanted).await.unwrap().addresses;
        assert_eq!(found, [AddressAt { ours: false, ..foreign }]);
    });
}

/// Waits until an address is in a state.
async fn settled(connection: &Connection, address: &str, state: AddressState) {
    let address: IpAddr = address.parse().unwrap();
    let found = async || {
        let host = snapshot(connection.handle()).await.unwrap();
        host.addresses.iter().any(|one| one.address == address && one.state == state && one.ours)
    };
    let mut monitor = Monitor::open(RECEIVE_BUFFER).unwrap();
    while !found().await {
        monitor.changed().await.unwrap();
    }
}

#[test]
fn duplicate_address_detection_is_seen_and_not_waited_for() {
    let pair = Pair::new();
    pair.peer_ip("addr add 2001:db8::10/64 dev peer0 nodad");
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        for address in ["2001:db8::10", "2001:db8::11"] {
            assert_eq!(net.add_address(&at(address, "up0")).await.unwrap(), Added::New);
            // It takes a second at least (RetransTimer), so whoever waited would not see this.
            assert_eq!(shown(address).unwrap()["tentative"], true);
        }
        settled(&connection, "2001:db8::10", AddressState::DadFailed).await;
        settled(&connection, "2001:db8::11", AddressState::Ready).await;
    });
}

#[test]
fn neighbours_learn_the_new_place() {
    let pair = Pair::new();
    base();
    let hardware: Value = serde_json::from_str(&ip("-j link show up0")).unwrap();
    // The peer believes another host to have both.
    for address in ["198.51.100.10", "2001:db8::10"] {
        pair.peer_ip(&format!("neigh add {address} lladdr 02:00:00:00:00:01 dev peer0 nud stale"));
    }
    pair.peer_ip("addr add 198.51.100.254/24 dev peer0");
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        for address in ["198.51.100.10", "2001:db8::10"] {
            net.add_address(&at(address, "up0")).await.unwrap();
            let learned = || {
                let all: Value = serde_json::from_str(&pair.peer_ip("-j neigh show dev peer0")).unwrap();
                let found = all.as_array().unwrap().iter().find(|one| one["dst"] == address).cloned();
                found.is_some_and(|one| one["lladdr"] == hardware[0]["address"])
            };
            let learning = async {
                while !learned() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(10), learning).await;
            assert!(in_time.is_ok(), "the neighbour never learned where {address} is");
        }
    });
}

#[test]
fn routes_and_rules_are_read_back_as_they_were_written() {
    let _pair = Pair::new();
    base();
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        let ifindex = snapshot(connection.handle())
            .await
            .unwrap()
            .links
            .iter()
            .find(|l| l.name == "up1")
            .unwrap()
            .index;
        let route = |uplink, to: &str, gateway: Option<&str>, metric| RouteAt {
            uplink,
            destination: to.parse().unwrap(),
            gateway: gateway.map(|one| one.parse().unwrap()),
            ifindex,
            metric,
        };
        let second = Some(UplinkId(2));
        let mut routes = vec![
            route(second, "0.0.0.0/0", Some("203.0.113.1"), 0),
            route(second, "203.0.113.0/24", None, 0),
            route(second, "::/0", Some("fe80::1"), 0),
            route(second, "2001:db8:7::/64", None, 0),
            route(None, "0.0.0.0/0", Some("203.0.113.1"), 100),
            route(None, "::/0", Some("fe80::1"), 1024),
        ];
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let uplink = UplinkId(2);
            rules.push(RuleSpec::Uplink { family, uplink });
            rules.push(RuleSpec::Replies { family, uplink, interface: "up1".to_owned() });
            rules.push(RuleSpec::Fallback { family, port: 25 });
        }
        for _ in 0..2 {
            for one in &routes {
                net.add_route(one).await.unwrap();
            }
            for one in &rules {
                net.add_rule(one).await.unwrap();
            }
        }
        let mut found = ours(connection.handle(), &BTreeSet::new()).await.unwrap();
        found.routes.sort();
        found.rules.sort();
        routes.sort();
        rules.sort();
        assert_eq!(found.routes, routes);
        assert_eq!(found.rules, rules);
        assert!(ip("route get 192.0.2.1 mark 0x4d201001").contains("dev up1"));
        assert!(ip("route get 192.0.2.1 mark 0x4d101001").contains("dev up0"));
        ip("route del default");
        assert!(ip("route get 192.0.2.1 ipproto tcp dport 25").contains("dev up1"));
        let to_80 = "route get 192.0.2.1 ipproto tcp dport 80".split(' ');
        assert!(!std::process::Command::new("ip").args(to_80).output().unwrap().status.success());
        net.remove_rule(&rules[0]).await.unwrap();
        net.remove_route(&routes[0]).await.unwrap();
        assert_eq!(net.teardown().await.unwrap(), TornDown { addresses: 0, routes: 5, rules: 5 });
        let left = ours(connection.handle(), &BTreeSet::new()).await.unwrap();
        assert!(left.routes.is_empty() && left.rules.is_empty());
    });
}

#[test]
fn every_change_is_noticed_and_a_flood_is_not_lost() {
    let pair = Pair::new();
    base();
    block_on(async {
        let mut monitor = Monitor::open(RECEIVE_BUFFER).unwrap();
        for change in ["addr del 2001:db8::1/64 dev up0", "route del default", "rule add pref 99 lookup main"]
        {
            ip(change);
            assert!(monitor.changed().await.unwrap().events > 0, "{change}");
        }
        let connection = Connection::open().unwrap();
        pair.peer_ip("link set peer0 down");
        let up = async || {
            snapshot(connection.handle())
                .await
                .unwrap()
                .links
                .iter()
                .any(|link| link.name == "up0" && link.up)
        };
        while up().await {
            monitor.changed().await.unwrap();
        }
        let mut small = Monitor::open(4096).unwrap();
        let batch: String = (0..1000).map(|n| format!("rule add pref {} lookup main\n", n + 1000)).collect();
        let file = std::env::temp_dir().join(&pair.host);
        std::fs::write(&file, batch.clone() + &batch.replace("add", "del")).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let change = small.changed().await.unwrap();
        assert!(change.overruns > 0 && change.events < 2000, "{change:?}");
    });
}

/// Connects with this packet mark, from this address.
fn connect(mark: u32, from: Option<&str>, to: &str) -> std::io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_mark(mark)?;
    if let Some(from) = from {
        socket.bind(&std::net::SocketAddr::new(from.parse().unwrap(), 0).into())?;
    }
    let to: std::net::SocketAddr = to.parse().unwrap();
    socket.connect_timeout(&to.into(), Duration::from_millis(700))
}

#[test]
fn marked_connections_leave_by_their_uplink_also_with_strict_reverse_path_filtering() {
    let pair = Pair::new();
    base();
    ip("addr add 203.0.113.1/24 dev up1");
    pair.peer_ip("addr add 198.51.100.254/24 dev peer0");
    pair.peer_ip("addr add 203.0.113.254/24 dev peer1");
    pair.peer_ip("addr add 192.0.2.1/32 dev lo");
    let peer = pair.peer.clone();
    let listen = move || {
        enter(&peer);
        std::net::TcpListener::bind("192.0.2.1:25").unwrap()
    };
    let _listener = std::thread::spawn(listen).join().unwrap();
    let rules = "table inet t { \
        chain out { type filter hook output priority -150; ct mark set meta mark; }; \
        chain pre { type filter hook prerouting priority -150; meta mark set ct mark; }; }";
    run(&["nft", rules]);
    for interface in ["all", "up0", "up1"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "1").unwrap();
    }
    let ifindex = nix::net::if_::if_nametoindex("up1").unwrap();
    block_on(async {
        let connection = Connection::open().unwrap();
        let mut net = Net::new(connection.handle().clone());
        let family = Family::V4;
        let uplink = UplinkId(2);
        let destination = "0.0.0.0/0".parse().unwrap();
        let gateway = Some("203.0.113.254".parse().unwrap());
        for uplink in [Some(uplink), None] {
            net.add_route(&RouteAt { uplink, destination, gateway, ifindex, metric: 0 }).await.unwrap();
        }
        net.add_rule(&RuleSpec::Uplink { family, uplink }).await.unwrap();
        net.add_rule(&RuleSpec::Replies { family, uplink, interface: "up1".to_owned() }).await.unwrap();
        net.add_rule(&RuleSpec::Fallback { family, port: 25 }).await.unwrap();
        let second = || connect(0x4d20_1001, Some("203.0.113.1"), "192.0.2.1:25");
        assert_eq!(second().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        let before = src_valid_mark("up1").unwrap();
        set_src_valid_mark("up1").unwrap();
        assert_eq!(src_valid_mark("up1").unwrap(), "1");
        second().unwrap();
        restore_src_valid_mark("up1", &before).unwrap();
        assert_eq!(src_valid_mark("up1").unwrap(), "0");
        // The main table loses its default: steered ports still get as far as the hooks, others do not.
        ip("route del default");
        assert!(connect(0, None, "192.0.2.1:80").unwrap_err().raw_os_error() == Some(nix::libc::ENETUNREACH));
        for interface in ["all", "up1"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
        }
        connect(0, None, "192.0.2.1:25").unwrap();
        net.teardown().await.unwrap();
    });
}
