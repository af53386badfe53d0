//! The example configs of the design: each is good, and each steers.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mailsteer_tests::probe::Asker;
use mailsteer_tests::topology::{receiver4, receiver6};
use mailsteer_tests::{Agent, Lab, Options, Receiver, agent, exec};

/// Every example has a test below.
const EXAMPLES: [&str; 6] =
    ["bulk.toml", "cloud-nat.toml", "ipv6.toml", "mailcow.toml", "two-streams.toml", "two-uplinks.toml"];

/// The user that stands for `postfix`, which need not be installed here.
const USER: (&str, u32) = ("nobody", 65534);

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("config/examples")
}

/// An example as it stands, but for what the lab calls otherwise (user and interfaces) and for the mode: all steer.
fn for_the_lab(name: &str) -> String {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    let text = text
        .replace(r#""postfix""#, &format!("{:?}", USER.0))
        .replace(r#""eth0""#, r#""upa""#)
        .replace(r#""eth1""#, r#""upb""#);
    if text.contains(r#"mode = "observe""#) {
        text.replace(r#"mode = "observe""#, r#"mode = "enforce""#)
    } else {
        format!("mode = \"enforce\"\n{text}")
    }
}

/// The way back to the examples' addresses. In the world, 203.0.113.0/24 is the receivers': what the examples take
/// out of it has to stand before that, in the same table.
const WAY_BACK: &str = "
    for net in 203.0.113.8/29 203.0.113.20/30 203.0.113.40/30; do
        ip route add $net via 192.0.2.10 dev wa table local
    done
    ip route add 10.0.1.0/24 via 192.0.2.10 dev wa
    ip route add 2001:db8:5::/64 via 2001:db8:a::10 dev wa";

struct Place {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
}

impl Place {
    /// A lab in which the example is checked and runs.
    fn new(name: &str, options: Options, prepare: &str) -> Self {
        let lab = Lab::new(options).unwrap();
        lab.world.sh(WAY_BACK).unwrap();
        lab.mail.sh(prepare).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let config = for_the_lab(name);
        let file = lab.dir().join(name);
        fs::write(&file, &config).unwrap();
        let said = exec::output(lab.mail.command(agent::binary().unwrap()).arg("check").arg(&file)).unwrap();
        assert!(said.contains(": good ("), "{said}");
        let agent = Agent::start(&lab, &config).unwrap();
        Self { lab, receiver, agent }
    }

    fn user(&self) -> Asker {
        Asker::on_host(&self.lab, USER.1).unwrap()
    }

    fn leaves_from(&self, asker: &Asker, count: u64, to: IpAddr, pool: &[&str]) {
        let pool: BTreeSet<IpAddr> = pool.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(asker.sources(&self.receiver, count, to).unwrap(), pool, "{asker:?} to {to}");
    }

    fn close(self) {
        let Self { lab, receiver, agent } = self;
        drop((agent, receiver));
        lab.close().unwrap();
    }
}

fn one_uplink() -> Options {
    Options { uplinks: 1, ..Options::default() }
}

fn tag(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn every_example_has_its_test() {
    let mut names: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, EXAMPLES);
}

#[test]
fn two_streams() {
    let place = Place::new(EXAMPLES[4], one_uplink(), "");
    place.leaves_from(&place.user(), 4, receiver4(1), &["203.0.113.10", "203.0.113.11"]);
    let marketing = place.user().bound_to(tag("198.18.0.2"));
    place.leaves_from(&marketing, 4, receiver4(1), &["203.0.113.12", "203.0.113.13"]);
    drop(marketing);
    place.close();
}

#[test]
fn bulk() {
    let place = Place::new(EXAMPLES[0], one_uplink(), "");
    place.lab.world.sh("ip route add 198.51.100.32/27 via 192.0.2.10 dev wa").unwrap();
    let pool: Vec<String> = (32..64).map(|host| format!("198.51.100.{host}")).collect();
    let names: Vec<&str> = pool.iter().map(String::as_str).collect();
    place.leaves_from(&place.user(), 66, receiver4(1), &names);
    let by_peer = place.receiver.by_peer();
    // Two rounds of 33 shares, of which bulk-1 has two.
    assert_eq!((by_peer[&tag(names[0])], by_peer[&tag(names[1])]), (4, 2), "{by_peer:?}");
    for source in 1..=32 {
        let name = format!("bulk-{source}");
        let said = place.agent.cli(&["suspend", &name, "--reason", "a test"]).unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    let spare = ["203.0.113.40", "203.0.113.41", "203.0.113.42", "203.0.113.43"];
    place.leaves_from(&place.user(), 8, receiver4(1), &spare);
    place.close();
}

#[test]
fn mailcow() {
    let place = Place::new(EXAMPLES[3], Options { containers: 1, ..one_uplink() }, "");
    let container = Asker::in_container(&place.lab, 0);
    place.leaves_from(&container, 4, receiver4(1), &["203.0.113.20", "203.0.113.21"]);
    // The pool has no IPv6 source: refused, so that the MTA falls back to IPv4.
    let refused = container.connect(2, vec![receiver6(1)]).unwrap();
    assert_eq!((refused.ok, refused.failed.contains_key("timeout")), (0, false), "{refused:?}");
    // The host's own mail is in no stream.
    place.leaves_from(&place.user(), 2, receiver4(1), &["192.0.2.10"]);
    drop(container);
    place.close();
}

#[test]
fn cloud_nat() {
    let own = "ip address add 10.0.1.10/32 dev upa; ip address add 10.0.1.11/32 dev upa";
    let place = Place::new(EXAMPLES[1], one_uplink(), own);
    // The translation to the public addresses is the cloud's.
    place.leaves_from(&place.user(), 4, receiver4(1), &["10.0.1.10", "10.0.1.11"]);
    let rows = place.agent.json(&["sources"]).unwrap();
    assert_eq!(rows[0]["public"], "198.51.100.7", "known by the address that the world sees: {rows}");
    place.close();
}

#[test]
fn two_uplinks() {
    let place = Place::new(EXAMPLES[5], Options::default(), "");
    let pool = ["192.0.2.10", "192.0.2.11", "198.51.100.10", "198.51.100.11"];
    place.leaves_from(&place.user(), 8, receiver4(1), &pool);
    place.close();
}

#[test]
fn ipv6() {
    let place = Place::new(EXAMPLES[2], one_uplink(), "");
    place.leaves_from(&place.user(), 4, receiver4(1), &["203.0.113.10", "203.0.113.11"]);
    place.leaves_from(&place.user(), 4, receiver6(1), &["2001:db8:5::10", "2001:db8:5::11"]);
    place.leaves_from(&place.user().bound_to(tag("198.18.0.2")), 2, receiver4(1), &["203.0.113.12"]);
    let news = place.user().bound_to(tag("fd00:7461:67::2"));
    let refused = news.connect(2, vec![receiver6(1)]).unwrap();
    assert_eq!((refused.ok, refused.failed.contains_key("timeout")), (0, false), "{refused:?}");
    drop(news);
    place.close();
}
