//! The nftables table on the real kernel: each test is a host and a world in namespaces of their own. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

#[path = "../nft_lab/mod.rs"]
mod nft_lab;
mod receivers;
mod table;
mod unguarded;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mailsteer::act::nft::{Elements, Error, Table};
use mailsteer::nftnl::{self, Counter, Ours, PairSet, RejectCause};
use mailsteer::observe::nft::{self as reading, Watch};
use mailsteer_core::config::{Balance, OwnTable};
use mailsteer_core::model::{
    Family, Lane, LaneId, LaneMatch, ReceiverSets, RefuseReason, SlotTarget, Slots, SourceId, Steering,
    UplinkId,
};
use mailsteer_core::plan::{LaneSpec, SlotChange, TableSpec};
use nft_lab::{
    Lab, PRIMARY, Place, WORLD, as_user, connect_as, connect_bound, connect_within, eventually, sh,
};

const USER: u32 = 1001;

/// What a test writes.
#[derive(Clone)]
struct Setup {
    spec: TableSpec,
    slots: BTreeMap<(LaneId, Family), Slots>,
    sources: BTreeMap<SourceId, IpAddr>,
    receivers: ReceiverSets,
}

fn source(id: u16) -> SlotTarget {
    SlotTarget::Source(SourceId(id), UplinkId(1))
}

/// Sources 1 to 4 are 192.0.2.11 to .14, 5 to 8 are 2001:db8::11 to ::14.
fn setup() -> Setup {
    let mut sources = BTreeMap::new();
    for n in 1..=4 {
        sources.insert(SourceId(n), format!("192.0.2.{}", 10 + n).parse().unwrap());
        sources.insert(SourceId(4 + n), format!("2001:db8::{}", 10 + n).parse().unwrap());
    }
    let exclude = ["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec();
    let spec = TableSpec {
        ports: vec![25],
        exclude,
        uplinks: vec!["up0".into()],
        guarded: true,
        ..TableSpec::default()
    };
    Setup { spec, slots: BTreeMap::new(), sources, receivers: ReceiverSets::new() }
}

impl Setup {
    fn lane(mut self, matches: LaneMatch, steering: Steering, v4: &[SlotTarget], v6: &[SlotTarget]) -> Self {
        let id = LaneId(u8::try_from(self.spec.lanes.len() + 1).unwrap());
        let lane = Lane {
            id,
            stream: format!("stream{id}"),
            provider: "other".into(),
            networks: Vec::new(),
            matches,
            steering,
            balance: Balance::RoundRobin,
            slots: BTreeMap::new(),
        };
        let counts = [(Family::V4, v4), (Family::V6, v6)];
        let slots =
            counts.iter().map(|(family, list)| (*family, u32::try_from(list.len()).unwrap())).collect();
        self.spec.lanes.push(LaneSpec { lane, slots });
        for (family, list) in counts {
            self.slots.insert((id, family), Slots(list.to_vec()));
        }
        self
    }

    fn users(self, steering: Steering, v4: &[SlotTarget], v6: &[SlotTarget]) -> Self {
        self.lane(LaneMatch { uids: vec![USER], ..LaneMatch::default() }, steering, v4, v6)
    }

    async fn apply(&self, table: &mut Table) {
        table.apply(&self.spec, self.elements()).await.unwrap();
    }

    fn elements(&self) -> Elements<'_> {
        Elements { slots: &self.slots, translations: &self.sources, receivers: &self.receivers }
    }
}

fn steered() -> Setup {
    setup().users(Steering::Enforce, &[source(1), source(2)], &[source(5), source(6)])
}

fn here<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn lab(work: impl AsyncFnOnce(&Lab)) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes network namespaces");
    let lab = Lab::new();
    here(work(&lab));
}

fn open(mode: OwnTable) -> Table {
    Table::open(mode, Ours::default()).unwrap()
}

async fn counted(counter: Counter) -> u64 {
    reading::counters().await.unwrap().known.get(&counter).copied().unwrap_or(0)
}

fn tally(seen: Vec<IpAddr>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for address in seen {
        *tally.entry(address.to_string()).or_default() += 1;
    }
    tally
}

const LANE: LaneId = LaneId(1);

#[test]
fn the_ruleset_reads_well() {
    lab(async |_| {
        let mut table = open(OwnTable::Never);
        let all = LaneMatch {
            uids: vec![USER, 1002],
            gids: vec![7],
            cgroups: vec!["/b".into(), "/a".into()],
            tags: vec!["198.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            marks: vec![5],
            destinations: vec!["198.51.100.0/24".parse().unwrap()],
            ..LaneMatch::default()
        };
        let containers = LaneMatch {
            subnets: vec!["172.22.1.0/24".parse().unwrap(), "fd4d::/64".parse().unwrap()],
            via: vec!["br0".into()],
            ..LaneMatch::default()
        };
        let refuse = SlotTarget::Refuse(RefuseReason::NoIpv6Source);
        let setup = setup()
            .lane(all, Steering::Enforce, &[source(1), source(1), source(2)], &[refuse])
            .lane(containers, Steering::Canary(300), &[source(3)], &[SlotTarget::Pass])
            .lane(LaneMatch::default(), Steering::Observe, &[], &[]);
        setup.apply(&mut table).await;
        insta::assert_snapshot!("steering", sh("nft list table inet mailsteer"));
        observing().apply(&mut table).await;
        insta::assert_snapshot!("observing", sh("nft list table inet mailsteer"));
    });
}

fn observing() -> Setup {
    Setup { slots: BTreeMap::new(), sources: BTreeMap::new(), ..setup() }.users(Steering::Observe, &[], &[])
}

#[test]
fn round_robin_is_exact_by_weight() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let v4 = [source(1), source(1), source(1), source(2)];
        let v6 = [source(5), source(5), source(5), source(6)];
        setup().users(Steering::Enforce, &v4, &v6).apply(&mut table).await;
        for (to, addresses) in
            WORLD.iter().zip([["192.0.2.11", "192.0.2.12"], ["2001:db8::11", "2001:db8::12"]])
        {
            for _ in 0..401 {
                connect_as(USER, to, 25).unwrap();
            }
            let tally = tally(lab.seen());
            assert_eq!(tally.values().sum::<usize>(), 401, "{tally:?}");
            assert!((300..=301).contains(&tally[addresses[0]]), "{tally:?}");
            assert!((100..=101).contains(&tally[addresses[1]]), "{tally:?}");
        }
        connect_as(1002, WORLD[0], 25).unwrap();
        connect_as(USER, WORLD[0], 26).unwrap();
        assert_eq!(tally(lab.seen()), BTreeMap::from([(PRIMARY[0].to_owned(), 2)]), "not steered");
    });
}

#[test]
fn a_decision_refuses_at_once_and_is_counted() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let exhausted = SlotTarget::Refuse(RefuseReason::Exhausted);
        let no_v6 = SlotTarget::Refuse(RefuseReason::NoIpv6Source);
        setup().users(Steering::Enforce, &[exhausted], &[no_v6]).apply(&mut table).await;
        let begun = Instant::now();
        let v4 = connect_as(USER, WORLD[0], 25).unwrap_err();
        let v6 = connect_as(USER, WORLD[1], 25).unwrap_err();
        // Before the kernel would send a SYN again: at once, and not by its silence.
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(v4.raw_os_error(), Some(libc::EHOSTUNREACH));
        assert_eq!(v6.raw_os_error(), Some(libc::ECONNREFUSED));
        assert_eq!(counted(Counter::Refused(LANE, RefuseReason::Exhausted)).await, 1);
        assert_eq!(counted(Counter::Refused(LANE, RefuseReason::NoIpv6Source)).await, 1);
        assert!(lab.seen().is_empty());
    });
}

#[test]
fn a_gap_holds_until_the_slot_is_back() {
    lab(async |lab| {
        let mut table = open(OwnTable::Never);
        let setup = setup().users(Steering::Enforce, &[source(1)], &[]);
        setup.apply(&mut table).await;
        sh("nft flush map inet mailsteer slots");
        let waiting = std::thread::spawn({
            let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                connect_as(USER, WORLD[0], 25)
            }
        });
        while counted(Counter::HeldGap).await == 0 {
            tokio::task::yield_now().await;
        }
        setup.apply(&mut table).await;
        waiting.join().unwrap().unwrap();
        assert_eq!(tally(lab.seen()), BTreeMap::from([("192.0.2.11".to_owned(), 1)]));
        assert_eq!(counted(Counter::Refused(LANE, RefuseReason::Exhausted)).await, 0);
        let v6 = connect_within(USER, WORLD[1], 25, Duration::from_millis(300)).unwrap_err();
        assert_eq!(v6.kind(), ErrorKind::TimedOut, "a family without slots holds too");
    });
}

#[test]
fn a_retransmitted_syn_keeps_its_source_also_after_a_flip() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        setup().users(Steering::Enforce, &[source(1), source(2), source(3)], &[]).apply(&mut table).await;
        lab.world.run(|| {
            sh("nft 'add table ip t; add set ip t who { type ipv4_addr; flags dynamic; }
                add chain ip t in { type filter hook input priority 0; }
                add counter ip t syns
                add rule ip t in tcp dport 25 add @who { ip saddr } counter name syns drop'")
        });
        let socket = as_user(USER, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let to: std::net::SocketAddr = format!("{}:25", WORLD[0]).parse().unwrap();
            let _ = socket.connect(&to.into());
            socket
        });
        let changes: Vec<_> = (0..3)
            .map(|slot| SlotChange {
                lane: LANE,
                family: Family::V4,
                slot,
                from: source(slot + 1),
                to: source(4),
            })
            .collect();
        table.flip(&BTreeMap::new(), &changes, &BTreeMap::new()).await.unwrap();
        let syns = || lab.world.run(|| sh("nft list counter ip t syns"));
        eventually("three SYNs", || {
            !["packets 0", "packets 1 ", "packets 2 "].iter().any(|n| syns().contains(n))
        });
        let who = lab.world.run(|| sh("nft list set ip t who"));
        assert!(who.contains("elements = { 192.0.2.11 }"), "{who}");
        drop(socket);
    });
}

#[test]
fn what_conntrack_lost_or_never_knew_is_rejected() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        steered().apply(&mut table).await;
        let mut stream = connect_as(USER, WORLD[0], 25).unwrap();
        sh("conntrack -F 2>/dev/null");
        let _ = stream.write_all(b"EHLO x\r\n");
        eventually("reset", || stream.write_all(b"x").is_err());
        assert!(counted(Counter::Rejected(LANE, RejectCause::Midstream)).await >= 1);
        lab.seen();
        sh("nft 'add table inet s; add chain inet s o { type filter hook output priority raw; }
            add rule inet s o tcp dport 25 notrack'");
        for (to, errno) in WORLD.iter().zip([libc::EHOSTUNREACH, libc::ECONNREFUSED]) {
            assert_eq!(connect_as(USER, to, 25).unwrap_err().raw_os_error(), Some(errno));
        }
        assert_eq!(counted(Counter::Rejected(LANE, RejectCause::Untracked)).await, 2);
        assert!(lab.seen().is_empty());
        connect_as(1002, WORLD[0], 25).unwrap();
        assert_eq!(tally(lab.seen()), BTreeMap::from([(PRIMARY[0].to_owned(), 1)]), "not of a stream");
    });
}

#[test]
fn local_and_excluded_destinations_are_untouched() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        steered().apply(&mut table).await;
        let listener = std::net::TcpListener::bind("[::]:25").unwrap();
        for to in ["127.0.0.1", "::1", PRIMARY[0], PRIMARY[1]] {
            let address = std::net::SocketAddr::new(to.parse().unwrap(), 25);
            let client = as_user(USER, move || std::net::TcpStream::connect(address)).unwrap();
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip().to_canonical(), address.ip());
            drop(client);
        }
        connect_as(USER, "10.9.0.1", 25).unwrap();
        assert_eq!(tally(lab.seen()), BTreeMap::from([(PRIMARY[0].to_owned(), 1)]));
    });
}

#[test]
fn containers_tags_and_marks_take_their_streams() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let subnets = vec!["172.22.1.0/24".parse().unwrap(), "fd4d::/64".parse().unwrap()];
        setup()
            .lane(
                LaneMatch { tags: vec!["198.18.0.2".parse().unwrap()], ..LaneMatch::default() },
                Steering::Enforce,
                &[source(1)],
                &[],
            )
            .lane(LaneMatch { marks: vec![5], ..LaneMatch::default() }, Steering::Enforce, &[source(2)], &[])
            .lane(
                LaneMatch { subnets, ..LaneMatch::default() },
                Steering::Enforce,
                &[source(3)],
                &[source(7)],
            )
            .lane(
                LaneMatch {
                    destinations: vec!["198.51.100.9/32".parse().unwrap()],
                    uids: vec![USER],
                    ..LaneMatch::default()
                },
                Steering::Enforce,
                &[source(4)],
                &[],
            )
            .apply(&mut table)
            .await;
        sh("ip addr add 198.18.0.2/32 dev lo");
        connect_bound(Some("198.18.0.2"), 0, WORLD[0]).unwrap();
        connect_bound(None, 5, WORLD[0]).unwrap();
        connect_as(USER, "198.51.100.9", 25).unwrap();
        connect_as(USER, WORLD[0], 25).unwrap();
        let container = Place::new();
        sh(&format!(
            "ip link add br0 type bridge; ip link set br0 up
             ip addr add 172.22.1.1/24 dev br0; ip addr add fd4d::1/64 dev br0 nodad
             ip link add c0 type veth peer name eth0 netns {}; ip link set c0 master br0 up
             nft 'add table inet d; add chain inet d p {{ type nat hook postrouting priority 100; }}
                  add rule inet d p oifname up0 masquerade'",
            container.tid
        ));
        container.run(|| {
            sh("ip link set lo up; ip link set eth0 up
                ip addr add 172.22.1.2/24 dev eth0; ip addr add fd4d::2/64 dev eth0 nodad
                ip route add default via 172.22.1.1; ip -6 route add default via fd4d::1")
        });
        for to in WORLD {
            let mut answer = None;
            eventually("the container's way is up", || {
                answer = Some(container.run(move || connect_within(0, to, 25, Duration::from_secs(1))));
                answer.as_ref().is_some_and(Result::is_ok)
            });
        }
        let seen = tally(lab.seen());
        let wanted = ["192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14", PRIMARY[0], "2001:db8::13"];
        assert_eq!(seen.keys().collect::<Vec<_>>(), {
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            wanted
        });
        let refuse = SlotTarget::Refuse(RefuseReason::Exhausted);
        let change = SlotChange { lane: LaneId(3), family: Family::V4, slot: 0, from: source(3), to: refuse };
        table.flip(&BTreeMap::new(), &[change], &BTreeMap::new()).await.unwrap();
        let refused = container.run(|| connect_as(0, WORLD[0], 25)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
        let change = SlotChange { lane: LaneId(3), family: Family::V6, slot: 0, from: source(7), to: refuse };
        table.flip(&BTreeMap::new(), &[change], &BTreeMap::new()).await.unwrap();
        let refused =
            container.run(|| connect_within(0, WORLD[1], 25, Duration::from_millis(700))).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    });
}

#[test]
fn strangers_marks_and_nat_lead_to_no_wrong_address() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        steered().apply(&mut table).await;
        sh("nft 'add table inet s; add chain inet s o { type route hook output priority -100; }
            add rule inet s o tcp dport 25 meta mark set 0x99'");
        connect_as(USER, WORLD[0], 25).unwrap();
        connect_as(USER, WORLD[1], 25).unwrap();
        let seen = tally(lab.seen());
        assert_eq!(seen, BTreeMap::from([("192.0.2.11".into(), 1), ("2001:db8::11".into(), 1)]));
        sh("nft 'delete table inet s; add table inet s; add chain inet s p { type nat hook postrouting priority 50; }
            add rule inet s p oifname up0 masquerade'");
        for to in WORLD {
            let held = connect_within(USER, to, 25, Duration::from_millis(300)).unwrap_err();
            assert_eq!(held.kind(), ErrorKind::TimedOut);
        }
        let masqueraded = counted(Counter::DroppedWrong).await;
        assert!(masqueraded >= 2);
        sh("nft 'delete table inet s; add table inet s; add chain inet s o { type filter hook output priority 0; }
            add rule inet s o tcp dport 25 ct mark set 0x1'");
        for to in WORLD {
            let held = connect_within(USER, to, 25, Duration::from_millis(300)).unwrap_err();
            assert_eq!(held.kind(), ErrorKind::TimedOut, "its ct mark is a stranger's");
        }
        assert!(counted(Counter::DroppedWrong).await >= masqueraded + 2);
        assert!(lab.seen().is_empty());
    });
}

#[test]
fn a_canary_steers_its_share() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        setup().users(Steering::Canary(300), &[source(1)], &[]).apply(&mut table).await;
        // n = 4,000, p = 0.3: 3 points are 4.1 standard deviations, so a right program fails once in 28,000 runs.
        as_user(USER, || {
            for _ in 0..4000 {
                connect_bound(None, 0, WORLD[0]).unwrap();
            }
        });
        let steered = tally(lab.seen()).get("192.0.2.11").copied().unwrap_or(0);
        assert!((1080..=1320).contains(&steered), "{steered} of 4000");
    });
}

#[test]
fn observe_leaves_marks_of_others_alone_and_stamps_the_rest() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        observing().apply(&mut table).await;
        let plain = connect_as(USER, WORLD[0], 25).unwrap();
        let entries = sh("conntrack -L -p tcp --dport 25 2>/dev/null");
        assert!(entries.contains(&format!("mark={}", 0x4d00_1000)), "{entries}");
        drop(plain);
        sh("conntrack -F 2>/dev/null
            nft 'add table inet s; add chain inet s o { type filter hook output priority -160; }
            add rule inet s o tcp dport 25 ct mark set 0x77'");
        let marked = connect_as(USER, WORLD[0], 25).unwrap();
        let entries = sh("conntrack -L -p tcp --dport 25 2>/dev/null");
        assert!(entries.contains(&format!("mark={}", 0x77)), "{entries}");
        drop(marked);
        assert_eq!(tally(lab.seen()), BTreeMap::from([(PRIMARY[0].to_owned(), 2)]));
    });
}
