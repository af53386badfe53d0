//! `mailsteer init`: any host, any names. What it writes passes `check` on that host, and observes.

use std::net::IpAddr;

use arbitrary::{Arbitrary, Unstructured};
use ipnet::IpNet;
use mailsteer_core::config::{HostView, Mode, Problem, load};
use mailsteer_core::init::{Facts, MatchBy, Mta, write};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route};

/// A name that the kernel takes for an interface, whoever chose it.
#[derive(Debug)]
struct Name(String);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(from: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let text = <&str>::arbitrary(from)?;
        let allowed = |c: &char| !matches!(c, '/' | ':' | '\0' | '\u{b}') && !c.is_ascii_whitespace();
        let mut name: String = text.chars().filter(allowed).take(15).collect();
        while name.len() > 15 {
            name.pop();
        }
        Ok(Self(if matches!(name.as_str(), "" | "." | "..") { "eth0".to_owned() } else { name }))
    }
}

#[derive(Arbitrary, Debug)]
struct AnyLink {
    name: Name,
    up: bool,
    loopback: bool,
    point_to_point: bool,
}

#[derive(Arbitrary, Debug)]
struct AnyAddress {
    link: u8,
    address: IpAddr,
    length: u8,
    state: u8,
    passing: bool,
}

#[derive(Arbitrary, Debug)]
struct AnyRoute {
    link: u8,
    to: Option<(IpAddr, u8)>,
    v6: bool,
    gateway: Option<IpAddr>,
    metric: u32,
}

#[derive(Arbitrary, Debug)]
struct Found {
    links: Vec<AnyLink>,
    addresses: Vec<AnyAddress>,
    routes: Vec<AnyRoute>,
    postfix: bool,
    sendmail: bool,
    name: Option<String>,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(found) = Found::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let facts = facts(&found);
    let text = write(&facts);
    let view = HostView {
        users: [("postfix".to_owned(), 101)].into(),
        host: Some(facts.host.clone()),
        ..HostView::default()
    };
    let checked = load("mailsteer.toml", &text, &view);
    let errors: Vec<&Problem> = checked.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}\n{facts:#?}");
    assert_eq!(checked.config.map(|config| config.mode), Some(Mode::Observe));
}

fn facts(found: &Found) -> Facts {
    let mut host = Host::default();
    for (index, link) in (1..).zip(found.links.iter().take(6)) {
        // A namespace has no two of one name.
        if host.links.iter().all(|other: &Link| other.name != link.name.0) {
            let Name(name) = &link.name;
            let AnyLink { up, loopback, point_to_point, .. } = *link;
            host.links.push(Link { index, name: name.clone(), up, loopback, point_to_point });
        }
    }
    let index = |at: u8| 1 + u32::from(at % 6);
    let fits = |address: IpAddr, length: u8| length % if address.is_ipv4() { 33 } else { 129 };
    host.addresses = found
        .addresses
        .iter()
        .take(12)
        .map(|one| Address {
            ifindex: index(one.link),
            address: one.address,
            prefix_len: fits(one.address, one.length),
            state: [AddressState::Ready, AddressState::Tentative, AddressState::DadFailed]
                [usize::from(one.state % 3)],
            ours: false,
        })
        .collect();
    host.routes = found
        .routes
        .iter()
        .take(12)
        .filter_map(|one| {
            let any = if one.v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
            let (to, length) = one.to.map_or((any, 0), |(to, length)| (to, fits(to, length)));
            let destination = IpNet::new(to, length).ok()?.trunc();
            Some(Route { destination, gateway: one.gateway, ifindex: index(one.link), metric: one.metric })
        })
        .collect();
    let passing = found.addresses.iter().filter(|one| one.passing).map(|one| one.address).collect();
    let user = |name: &str| Mta {
        name: name.to_owned(),
        evidence: "/etc/postfix/main.cf".to_owned(),
        by: MatchBy::User(name.to_owned()),
    };
    let mut mtas: Vec<Mta> = found.postfix.then(|| user("postfix")).into_iter().collect();
    mtas.extend(found.sendmail.then(|| Mta {
        name: "sendmail".to_owned(),
        evidence: "/etc/mail/sendmail.cf".to_owned(),
        by: MatchBy::Cgroup("system.slice/sendmail.service".to_owned()),
    }));
    // As it is read: one line, or the value of a setting.
    let name = found.name.as_ref().and_then(|name| Some(name.lines().next()?.trim().to_owned()));
    Facts { host, passing, mtas, name: name.filter(|name| name.contains('.')) }
}

/// A host with an uplink of both families, for configs.
pub(crate) fn a_host() -> Host {
    let address = |text: &str| {
        let net: Option<IpNet> = text.parse().ok();
        net.map(|net| Address {
            ifindex: 2,
            address: net.addr(),
            prefix_len: net.prefix_len(),
            state: AddressState::Ready,
            ours: false,
        })
    };
    let link = |index, name: &str| Link {
        index,
        name: name.to_owned(),
        up: true,
        loopback: index == 1,
        point_to_point: false,
    };
    let route = |to: &str, by: &str| {
        Some(Route { destination: to.parse().ok()?, gateway: Some(by.parse().ok()?), ifindex: 2, metric: 0 })
    };
    let addresses = ["203.0.113.10/24", "203.0.113.11/24", "2001:db8::10/64", "10.0.0.5/24"];
    Host {
        links: vec![link(1, "lo"), link(2, "eth0"), link(3, "docker0")],
        addresses: addresses.into_iter().filter_map(address).collect(),
        routes: [route("0.0.0.0/0", "203.0.113.1"), route("::/0", "fe80::1")].into_iter().flatten().collect(),
    }
}
