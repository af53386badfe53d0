//! The configs that `init` writes: as a person reads them, and that each passes `check` on its host.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at what should not happen")]

use std::net::{IpAddr, Ipv4Addr};

use mailsteer_core::config::{Checked, HostView, Mode, Problem, load};
use mailsteer_core::init::{Facts, MatchBy, Mta, write};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route};
use proptest::prelude::*;

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), up: true, loopback: name == "lo", point_to_point: false }
}

fn address(ifindex: u32, text: &str) -> Address {
    let (address, length) = text.split_once('/').unwrap();
    Address {
        ifindex,
        address: address.parse().unwrap(),
        prefix_len: length.parse().unwrap(),
        state: AddressState::Ready,
        ours: false,
    }
}

fn route(destination: &str, gateway: Option<&str>, ifindex: u32) -> Route {
    let gateway = gateway.map(|text| text.parse().unwrap());
    Route { destination: destination.parse().unwrap(), gateway, ifindex, metric: 0 }
}

fn user(mta: &str, file: &str, user: &str) -> Mta {
    Mta { name: mta.to_owned(), evidence: file.to_owned(), by: MatchBy::User(user.to_owned()) }
}

fn postfix() -> Mta {
    user("postfix", "/etc/postfix/main.cf", "postfix")
}

/// eth0 with a default route and these addresses.
fn one_uplink(addresses: &[&str]) -> Host {
    let mut all = vec![address(1, "127.0.0.1/8"), address(1, "::1/128"), address(2, "fe80::1/64")];
    all.extend(addresses.iter().map(|text| address(2, text)));
    Host {
        links: vec![link(1, "lo"), link(2, "eth0")],
        addresses: all,
        routes: vec![route("0.0.0.0/0", Some("203.0.113.1"), 2)],
    }
}

fn checked(facts: &Facts, text: &str) -> Checked {
    let ids = ["postfix", "Debian-exim", "opensmtpd"].iter().zip(101..);
    let view = HostView {
        users: ids.map(|(name, id)| ((*name).to_owned(), id)).collect(),
        host: Some(facts.host.clone()),
        ..HostView::default()
    };
    load("mailsteer.toml", text, &view)
}

/// Writes it, and sees that it passes on its host and observes.
fn written(facts: &Facts) -> String {
    let text = write(facts);
    let found = checked(facts, &text);
    let errors: Vec<&Problem> = found.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    let config = found.config.unwrap();
    assert_eq!(config.mode, Mode::Observe);
    let fits = |line: &str| !line.starts_with("# ") || line.chars().count() <= 110;
    assert!(text.lines().all(fits), "{text}");
    text
}

#[test]
fn a_point_to_point_uplink_has_no_gateway() {
    let mut host = one_uplink(&["203.0.113.10/24"]);
    host.links.push(Link { point_to_point: true, ..link(3, "ppp0") });
    host.addresses.extend([address(3, "198.51.100.7/32"), address(3, "2001:db8:b::7/64")]);
    // The other end tells of itself as the IPv6 router.
    host.routes.extend([route("0.0.0.0/0", None, 3), route("::/0", Some("fe80::1"), 3)]);
    let text = written(&Facts { host, mtas: vec![postfix()], ..Facts::default() });
    let entry = "[uplink.ppp0]\ninterface = \"ppp0\"\nprefix = [\"198.51.100.7/32\", \"2001:db8:b::/64\"]\n";
    assert!(text.contains(entry), "{text}");
    assert!(text.contains("    \"198.51.100.7\",\n    \"2001:db8:b::7\",\n"), "{text}");
}

#[test]
fn one_uplink_with_four_addresses_and_postfix() {
    let host = one_uplink(&["203.0.113.10/24", "203.0.113.11/32", "203.0.113.12/32", "203.0.113.13/32"]);
    let facts =
        Facts { host, mtas: vec![postfix()], name: Some("mail.example.com".to_owned()), ..Facts::default() };
    insta::assert_snapshot!(written(&facts));
}

#[test]
fn two_uplinks() {
    let mut host = one_uplink(&["192.0.2.10/25", "192.0.2.11/32", "2001:db8:5::10/64", "2001:db8:5::99/64"]);
    host.links.extend([link(3, "eth1"), link(4, "dummy0"), link(5, "mgmt")]);
    host.addresses.extend([
        address(3, "198.51.100.10/25"),
        address(3, "198.51.100.200/32"),
        address(4, "203.0.113.77/32"),
        address(5, "10.1.1.1/24"),
    ]);
    host.routes = vec![
        route("0.0.0.0/0", Some("192.0.2.1"), 2),
        route("::/0", Some("fe80::1"), 2),
        route("0.0.0.0/0", Some("198.51.100.1"), 3),
        route("0.0.0.0/0", Some("10.1.1.254"), 5),
    ];
    let passing = ["2001:db8:5::99".parse().unwrap()].into();
    let text = written(&Facts { host, passing, mtas: vec![postfix()], name: None });
    insta::assert_snapshot!(text);
}

#[test]
fn a_cloud_with_private_addresses_only() {
    let host = one_uplink(&["10.0.1.10/24", "10.0.1.11/24"]);
    let facts = Facts { host, mtas: vec![postfix()], ..Facts::default() };
    let text = written(&facts);
    insta::assert_snapshot!(text);
    // Filled in and with the marks of comments taken away, as the text says, it passes too.
    let mut publics = (7..).map(|last| format!("198.51.100.{last}"));
    let mut filled = String::new();
    for line in text.lines() {
        let line = line
            .strip_prefix('#')
            .filter(|rest| !rest.starts_with(' ') || rest.contains("local ="))
            .unwrap_or(line);
        let line = if line.contains("FILL IN\"") {
            line.replace("FILL IN", &publics.next().unwrap())
        } else {
            line.to_owned()
        };
        filled.push_str(&line);
        filled.push('\n');
    }
    let config = checked(&facts, &filled).config.unwrap_or_else(|| panic!("{filled}"));
    assert_eq!((config.pools["main"].sources.len(), config.streams.len()), (2, 1));
}

#[test]
fn containers_behind_bridges() {
    let mut host = one_uplink(&["203.0.113.20/24"]);
    host.links.extend([link(3, "docker0"), link(4, "br-mailcow")]);
    host.addresses.extend([
        address(3, "172.17.0.1/16"),
        address(4, "172.22.1.1/24"),
        address(4, "fd4d:6169:6c63:6f77::1/64"),
        address(4, "fe80::2/64"),
    ]);
    insta::assert_snapshot!(written(&Facts { host, ..Facts::default() }));
}

#[test]
fn exim_and_sendmail() {
    let host = one_uplink(&["203.0.113.10/24"]);
    let exim = user("exim", "/etc/exim4/exim4.conf.template", "Debian-exim");
    let sendmail = Mta {
        name: "sendmail".to_owned(),
        evidence: "/etc/mail/sendmail.cf".to_owned(),
        by: MatchBy::Cgroup("system.slice/sendmail.service".to_owned()),
    };
    insta::assert_snapshot!(written(&Facts { host, mtas: vec![exim, sendmail], ..Facts::default() }));
}

/// Names that the kernel takes: letters of both sizes, and control characters.
#[test]
fn interfaces_whose_names_no_config_can_hold_or_tell_apart() {
    let mut host = one_uplink(&["203.0.113.10/24"]);
    host.links.extend([link(3, "WAN.1"), link(4, "wan-1"), link(5, "eth\u{1b}")]);
    host.addresses.extend([
        address(3, "198.51.100.10/25"),
        address(4, "192.0.2.10/25"),
        address(5, "192.0.2.200/25"),
    ]);
    host.routes.extend([
        route("0.0.0.0/0", Some("198.51.100.1"), 3),
        route("0.0.0.0/0", Some("192.0.2.1"), 4),
        route("0.0.0.0/0", Some("192.0.2.129"), 5),
    ]);
    host.links.extend([link(6, "br-A"), link(7, "br-a"), link(8, "br-\u{7f}"), link(9, "br-b")]);
    for (ifindex, net) in (6..).zip(["172.20.0.1/16", "172.21.0.1/16", "172.22.0.1/16", "172.22.1.1/24"]) {
        host.addresses.push(address(ifindex, net));
    }
    let text = written(&Facts { host, mtas: vec![postfix()], ..Facts::default() });
    for line in ["[uplink.wan-1]", "[uplink.wan-1-2]", "[stream.br-a]", "[stream.br-a-2]", "[stream.br--]"] {
        assert_eq!(text.matches(line).count(), 1, "{line}\n{text}");
    }
    assert!(text.contains("192.0.2.200 is left out") && text.contains("br-b is left out"), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
}

#[test]
fn nothing_found() {
    insta::assert_snapshot!(written(&Facts::default()));
}

fn some_address() -> impl Strategy<Value = (u32, String)> {
    let v4 = (any::<u32>(), 8_u8..=32)
        .prop_map(|(bits, length)| format!("{}/{length}", Ipv4Addr::from_bits(bits)));
    let near = (0_u8..8, 24_u8..=32).prop_map(|(last, length)| format!("203.0.113.{last}/{length}"));
    let v6 = (any::<u128>(), 48_u8..=128).prop_map(|(bits, length)| {
        // Mostly global ones.
        let address = IpAddr::from(std::net::Ipv6Addr::from_bits(bits >> 3 | 1 << 125));
        format!("{address}/{length}")
    });
    (1_u32..6, prop_oneof![v4, near, v6])
}

proptest! {
    #[test]
    fn whatever_is_found_passes_on_its_host(
        addresses in proptest::collection::vec(some_address(), 0..12),
        routes in proptest::collection::vec((2_u32..6, any::<bool>(), any::<bool>()), 0..5),
        names in proptest::sample::subsequence(vec!["eth1", "br-a", "br-A", "Docker0", "wan.7", "WAN-7", "br-\u{7f}", "e\u{1b}", "ppp0"], 3),
        mta in any::<bool>(),
    ) {
        let links = ["lo", "eth0"].into_iter().chain(names).zip(1..).map(|(name, index)| link(index, name)).collect();
        let routes = routes.iter().map(|(ifindex, v6, direct)| {
            let (to, by) = if *v6 { ("::/0", "fe80::1") } else { ("0.0.0.0/0", "192.0.2.254") };
            route(to, (!direct).then_some(by), *ifindex)
        }).collect();
        let addresses = addresses.iter().map(|(ifindex, text)| address(*ifindex, text)).collect();
        let mtas = if mta { vec![postfix()] } else { vec![] };
        written(&Facts { host: Host { links, addresses, routes }, mtas, ..Facts::default() });
    }
}
