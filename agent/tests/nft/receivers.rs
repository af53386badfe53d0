//! Providers by learned addresses, and streams by country: sets whose elements move, on the real kernel.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mailsteer_core::model::Countries;

use super::*;

/// Others that the world answers for.
const ELSEWHERE: [&str; 2] = ["198.51.100.2", "2001:db8:5::2"];

fn sets(provider: &str, addresses: &[&str]) -> ReceiverSets {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
    [(provider.to_owned(), addresses)].into()
}

/// A stream at `big` by sources 1 and 5, elsewhere by 2 and 6.
fn at_big(learned: &[&str]) -> Setup {
    let mut setup = setup().users(Steering::Enforce, &[source(1)], &[source(5)]).users(
        Steering::Enforce,
        &[source(2)],
        &[source(6)],
    );
    setup.spec.lanes[0].lane.provider = "big".to_owned();
    setup.spec.named = vec!["big".to_owned()];
    setup.receivers = sets("big", learned);
    setup
}

fn leaves_from(lab: &Lab, to: &str) -> String {
    lab.seen();
    drop(connect_as(USER, to, 25).unwrap());
    let mut from = None;
    eventually("it is seen", || {
        from = lab.seen().pop();
        from.is_some()
    });
    from.unwrap().to_string()
}

#[test]
fn learned_addresses_tell_the_lane_and_move_without_a_rule() {
    here(async {
        let lab = Lab::new();
        let mut table = Table::open(OwnTable::Auto, Ours::default()).unwrap();
        let setup = at_big(&[]);
        setup.apply(&mut table).await;
        let rules = nftnl::fingerprint(&mut nftnl::Connection::open().unwrap()).unwrap();
        let all = [WORLD, ELSEWHERE].concat();
        let from = |to: &[&str]| to.iter().map(|one| leaves_from(&lab, one)).collect::<Vec<_>>();
        assert_eq!(from(&all), ["192.0.2.12", "2001:db8::12", "192.0.2.12", "2001:db8::12"]);
        let named = setup.spec.named.clone();
        table.receivers(&named, &sets("big", &WORLD), &ReceiverSets::new()).unwrap();
        assert_eq!(from(&all), ["192.0.2.11", "2001:db8::11", "192.0.2.12", "2001:db8::12"]);
        table.receivers(&named, &sets("big", &ELSEWHERE), &sets("big", &WORLD)).unwrap();
        assert_eq!(from(&all), ["192.0.2.12", "2001:db8::12", "192.0.2.11", "2001:db8::11"]);
        let mut connection = nftnl::Connection::open().unwrap();
        assert_eq!(nftnl::fingerprint(&mut connection).unwrap(), rules, "no rule was touched");
        let found = nftnl::contents(&mut connection).unwrap();
        assert!(found.are(&setup.slots, &setup.sources, &sets("big", &ELSEWHERE)));
        assert!(!found.are(&setup.slots, &setup.sources, &sets("big", &WORLD)), "what is missing is seen");
        let gone = table.receivers(&named, &ReceiverSets::new(), &sets("big", &WORLD)).unwrap_err();
        assert!(matches!(gone, Error::Belief(_)), "{gone:?}");
        // Written anew without the provider, its sets are gone with its rules.
        super::setup().users(Steering::Enforce, &[source(3)], &[source(7)]).apply(&mut table).await;
        let left = nftnl::sets(&mut connection).unwrap();
        assert!(!left.iter().any(|name| name.starts_with("learned")), "{left:?}");
        assert_eq!(from(&ELSEWHERE), ["192.0.2.13", "2001:db8::13"]);
    });
}

#[test]
fn a_stream_by_country_takes_what_is_there_in_both_families() {
    here(async {
        let lab = Lab::new();
        let mut table = Table::open(OwnTable::Auto, Ours::default()).unwrap();
        let nets: Vec<IpNet> = ["198.51.100.0/31", "2001:db8:5::/127"].map(|net| net.parse().unwrap()).into();
        let mut setup = setup().users(Steering::Enforce, &[source(1)], &[source(5)]).users(
            Steering::Enforce,
            &[source(2)],
            &[source(6)],
        );
        setup.spec.lanes[0].lane.matches.countries = Countries::new(vec!["DE".to_owned()], &nets);
        setup.apply(&mut table).await;
        let all = [WORLD, ELSEWHERE].concat();
        let from: Vec<String> = all.iter().map(|to| leaves_from(&lab, to)).collect();
        assert_eq!(from, ["192.0.2.11", "2001:db8::11", "192.0.2.12", "2001:db8::12"]);
        let mut connection = nftnl::Connection::open().unwrap();
        let before = nftnl::fingerprint(&mut connection).unwrap();
        setup.spec.lanes[0].lane.matches.countries =
            Countries::new(vec!["DE".to_owned()], &nets[..1].to_vec());
        setup.apply(&mut table).await;
        assert_ne!(nftnl::fingerprint(&mut connection).unwrap(), before, "a network less is seen");
    });
}

/// As many networks as a large country and its neighbours have.
#[test]
fn fifty_thousand_networks_are_written_and_read_within_seconds() {
    here(async {
        let _lab = Lab::new();
        let mut table = Table::open(OwnTable::Auto, Ours::default()).unwrap();
        let v4 = (0..40_000_u32).map(|n| IpNet::new(IpAddr::from((0x1400_0000 + n * 512).to_be_bytes()), 24));
        let v6 = (0..10_000_u128)
            .map(|n| IpNet::new(IpAddr::from(((0x2a00 << 112) + (n << 81)).to_be_bytes()), 48));
        let nets: Vec<IpNet> = v4.chain(v6).map(Result::unwrap).collect();
        let mut setup = setup().users(Steering::Enforce, &[source(1)], &[source(5)]);
        let countries = Countries::new(vec!["DE".to_owned()], &nets);
        assert_eq!(countries.networks().len(), 50_000);
        setup.spec.lanes[0].lane.matches.countries = countries;
        let began = Instant::now();
        setup.apply(&mut table).await;
        let written = began.elapsed();
        let mut connection = nftnl::Connection::open().unwrap();
        nftnl::fingerprint(&mut connection).unwrap();
        println!("50,000 networks: written in {written:?}, read in {:?}", began.elapsed() - written);
        assert!(began.elapsed() < Duration::from_secs(20));
    });
}
