//! The lab's own tests: an instrument that was not seen to tell right from wrong proves nothing.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::load::Load;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::topology::{container4, container6, receiver4, receiver6, uplinks};
use mailsteer_tests::{Capture, Lab, NetNs, Options, Receiver};

/// What a postmaster would write by hand: the lab's instruments must see it work.
const NUMGEN: &str = "table ip hand { chain post { type nat hook postrouting priority 90
    tcp dport 25 snat to numgen inc mod 4 map {
        0 : 192.0.2.11, 1 : 192.0.2.12, 2 : 192.0.2.13, 3 : 192.0.2.14 }
    }
}";

fn banner(ns: &NetNs, to: IpAddr) {
    let load = Load { count: 1, to: vec![to], ..Load::default() };
    let report = load.run(ns).unwrap();
    assert_eq!((report.ok, &report.failed), (1, &BTreeMap::new()), "{} to {to}", ns.name());
}

#[test]
fn every_host_reaches_every_receiver() {
    let lab = Lab::new(Options { containers: 2, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    for to in [
        receiver4(1),
        receiver6(1),
        receiver4(200),
        receiver6(0x200),
        mailsteer_tests::topology::RELAY.into(),
    ] {
        banner(&lab.mail, to);
        banner(&lab.containers[1], to);
    }
    let uplink = &uplinks()[0];
    let peers = receiver.by_peer();
    assert_eq!(peers.keys().copied().collect::<Vec<_>>(), [IpAddr::from(uplink.own4), uplink.own6.into()]);
    let local = Receiver::start(&lab.containers[0], 25).unwrap();
    banner(&lab.containers[1], container4(0));
    banner(&lab.mail, container6(0));
    drop((receiver, local));
    lab.close().unwrap();
}

#[test]
fn capture_and_receiver_see_what_a_rule_by_hand_does() {
    let lab = Lab::new(Options { plumbed: 4, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    receiver.script(Whom::All, Behaviour::BannerClose);
    lab.mail.nft(NUMGEN).unwrap();
    let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
    let load = Load { count: 2000, rate: 1000, to: (1..=20).map(receiver4).collect(), ..Load::default() };
    let report = load.run(&lab.mail).unwrap();
    let wire = capture.stop().unwrap();
    assert_eq!((report.attempts, report.ok, wire.lost), (2000, 2000, 0), "{report:?}");
    assert!(report.rate() >= 500.0, "{report:?}");
    let sources: Vec<IpAddr> = (0..4).map(|n| uplinks()[0].source4(n)).collect();
    for source in &sources {
        assert_eq!(receiver.by_peer()[source], 500);
        assert_eq!(wire.syns(*source), 500);
        assert!(wire.packets(*source) >= 1500);
    }
    assert!(wire.others(&sources).is_empty());
    // And it does tell an offender: without the rule, the host's own address shows.
    lab.mail.sh("nft delete table ip hand").unwrap();
    let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
    banner(&lab.mail, receiver4(1));
    let offenders = capture.stop().unwrap().others(&sources);
    assert_eq!(offenders.len(), 1, "{offenders:?}");
    assert!(offenders[0].starts_with("192.0.2.10 on wa"), "{offenders:?}");
    drop(receiver);
    lab.close().unwrap();
}

#[test]
fn receivers_follow_their_script_and_live_connections_are_watched() {
    let lab = Lab::new(Options::default()).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    receiver.script(Whom::To(receiver4(2)), Behaviour::Reset);
    receiver.script(Whom::To(receiver4(3)), Behaviour::Silent);
    receiver.script(Whom::To(receiver4(4)), Behaviour::Echo);
    let to = vec![receiver4(1), receiver4(2), receiver4(3)];
    let report = Load { count: 30, to, timeout_ms: 500, ..Load::default() }.run(&lab.mail).unwrap();
    let expected = BTreeMap::from([("ECONNRESET".to_owned(), 10), ("timeout".to_owned(), 10)]);
    assert_eq!((report.ok, report.failed), (10, expected));
    receiver.forget();
    let live = Load { live: 20, to: vec![receiver4(4)], ..Load::default() }.start(&lab.mail).unwrap();
    mailsteer_tests::poll::until_true(Duration::from_secs(5), "20 live connections", || {
        receiver.count() >= 20
    })
    .unwrap();
    let report = live.stop().unwrap();
    assert_eq!((report.attempts, report.ok), (20, 20), "{report:?}");
    drop(receiver);
    lab.close().unwrap();
}

#[test]
fn a_panic_leaves_nothing_and_leftovers_are_seen() {
    let lab = Lab::new(Options { containers: 1, ..Options::default() }).unwrap();
    let identity = lab.identity().unwrap();
    let mut child = lab.mail_command("sleep").unwrap().arg("600").spawn().unwrap();
    let found = identity.leftovers().unwrap().join("\n");
    for what in ["(sleep) in a namespace", "mount ", "directory ", "namespace net:"] {
        assert!(found.contains(what), "{what} is not among:\n{found}");
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lab = lab;
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    child.wait().unwrap();
    assert_eq!(identity.leftovers().unwrap(), Vec::<String>::new());
}

#[test]
fn a_stock_postfix_delivers_by_dns_through_two_transports() {
    use mailsteer_tests::dns::{Dns, Records};
    use mailsteer_tests::postfix::{Postfix, Settings};
    let lab = Lab::new(Options::default()).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let records = Records::default()
        .domain("example.org", &[receiver4(1), receiver6(1)])
        .and_then(|r| r.domain("example.net", &[receiver4(2)]))
        .unwrap();
    let dns = Dns::start(&lab.world, &records).unwrap();
    lab.mail.sh("ip address add 198.18.0.2/32 dev lo").unwrap();
    // Nobody translates the tag here, so the world has to know the way back to it.
    lab.world.sh("ip route add 198.18.0.2/32 via 192.0.2.10").unwrap();
    let settings = Settings {
        transports: BTreeMap::from([("marketing".into(), "198.18.0.2".into())]),
        routes: BTreeMap::from([("example.net".into(), "marketing".into())]),
        ..Settings::default()
    };
    let postfix = Postfix::start(&lab, &settings).unwrap();
    postfix
        .submit(50, |n| format!("user{n}@{}", if n % 2 == 0 { "example.org" } else { "example.net" }))
        .unwrap();
    postfix.submit(1, |_| "user@nowhere.example".into()).unwrap();
    postfix.wait_sent(50, Duration::from_secs(30)).unwrap();
    assert_eq!(receiver.messages(), 50);
    for connection in receiver.connections().iter().filter(|c| !c.messages.is_empty()) {
        let marketing = connection.messages.iter().all(|m| m.to[0].ends_with("@example.net"));
        assert_eq!(connection.peer.ip() == IpAddr::from([198, 18, 0, 2]), marketing, "{connection:?}");
        assert_eq!(connection.ehlo.as_deref(), Some("mail.example.com"));
    }
    let services: std::collections::BTreeSet<_> =
        postfix.deliveries().unwrap().into_iter().filter(|d| d.status == "sent").map(|d| d.service).collect();
    assert_eq!(services.into_iter().collect::<Vec<_>>(), ["postfix-marketing/smtp", "postfix/smtp"]);
    postfix.stop().unwrap();
    drop((receiver, dns));
    lab.close().unwrap();
}

#[test]
fn strangers_do_what_they_say() {
    use mailsteer_tests::strangers;
    use mailsteer_tests::tcx::{Program, Verdict};
    let lab = Lab::new(Options { uplinks: 1, plumbed: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let strangers = [
        ("notrack", strangers::notrack as fn(&NetNs) -> anyhow::Result<()>),
        ("mark", strangers::other_mark),
        ("masquerade", strangers::masquerade_first),
        ("lo", strangers::drop_resets_on_lo),
    ];
    for (name, come) in strangers {
        come(&lab.mail).unwrap();
        banner(&lab.mail, receiver4(1));
        strangers::leave(&lab.mail, name).unwrap();
    }
    strangers::masquerade_first(&lab.mail).unwrap();
    strangers::conntrack_full(&lab.mail).unwrap();
    let full = Load { count: 1, to: vec![receiver4(1)], timeout_ms: 1500, ..Load::default() };
    assert_eq!(full.run(&lab.mail).unwrap().ok, 0, "a full table lets nothing new out");
    strangers::conntrack_flush(&lab.mail).unwrap();
    banner(&lab.mail, receiver4(1));
    strangers::flush(&lab.mail).unwrap();
    assert_eq!(lab.mail.sh("nft list ruleset").unwrap(), "");
    let accepts = Program::attach(&lab.mail, "upa", Verdict::Accept).unwrap();
    banner(&lab.mail, receiver4(1));
    let drops = Program::attach(&lab.mail, "upa", Verdict::Drop).unwrap();
    assert_eq!(full.run(&lab.mail).unwrap().ok, 0, "the one attached last comes first");
    drop(drops);
    banner(&lab.mail, receiver4(1));
    drop(accepts);
    drop(receiver);
    lab.close().unwrap();
}
