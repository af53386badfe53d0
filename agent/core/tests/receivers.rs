//! Whose a receiver is: the table, names, what is learned and what is not believed.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at what should not happen")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::{self, Config, HostView};
use mailsteer_core::decide::{self, Observation, World};
use mailsteer_core::model::Family;
use mailsteer_core::plan::{self, Action, Observed};
use mailsteer_core::signal::providers::{
    Claim, DEFAULT, Groups, Learner, LearnerPace, NameAnswer, NameQuery, Pattern, ProviderTable, Wanted,
};
use proptest::prelude::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn at(hours: i64) -> Timestamp {
    "2026-11-25T00:00:00Z".parse::<Timestamp>().unwrap() + HOUR * i32::try_from(hours).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn claim(host: &str, address: &str) -> Claim {
    Claim { host: host.to_owned(), address: ip(address) }
}

fn groups() -> Groups {
    let mut groups = Groups::default();
    for (group, pattern) in [
        ("google", "*.google.com"),
        ("outlook", "*.olc.protection.outlook.com"),
        ("office365", "*.protection.outlook.com"),
        ("exact", "mx0.example.net"),
    ] {
        groups.add(Pattern::read(pattern).unwrap(), group).unwrap();
    }
    groups
}

fn learner(domains: &[&str]) -> Learner {
    let pace = LearnerPace { interval: HOUR, per_minute: 60_000 };
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    Learner::new(Wanted { groups: groups(), domains, pace }, vec![], (7, at(0)))
}

/// Answers whatever is asked out of a zone within a minute, as fast as the budget lets it be asked; says what was asked.
fn answer(learner: &mut Learner, zone: &BTreeMap<&str, Vec<&str>>, now: Timestamp) -> Vec<NameQuery> {
    let (mut asked, mut now, end) = (vec![], now, now + SignedDuration::from_secs(60));
    loop {
        let queries = learner.due(now);
        match learner.next_deadline() {
            Some(next) if queries.is_empty() && next > now && next < end => now = next,
            _ if queries.is_empty() => return asked,
            _ => {}
        }
        for query in queries {
            let found = |name: &str| zone.get(name).cloned();
            let said = match &query {
                NameQuery::Mx(domain) => found(domain)
                    .map(|hosts| NameAnswer::Hosts(hosts.into_iter().map(str::to_owned).collect())),
                NameQuery::Addresses(name, family) => found(name).map(|all| {
                    let all = all.into_iter().map(ip);
                    NameAnswer::Addresses(all.filter(|address| Family::of(*address) == *family).collect())
                }),
            };
            learner.answered(&query, &said.unwrap_or(NameAnswer::Nothing), now);
            asked.push(query);
        }
    }
}

fn fail(learner: &mut Learner, now: Timestamp) -> usize {
    let queries = learner.due(now);
    for query in &queries {
        learner.answered(query, &NameAnswer::Failed("SERVFAIL".to_owned()), now);
    }
    queries.len()
}

fn learned(learner: &Learner) -> BTreeMap<String, String> {
    learner.learned().iter().map(|(address, named)| (address.to_string(), named.provider.clone())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn the_shipped_table_is_sound_and_fresh() {
    let checked = ProviderTable::load("config/providers.toml", DEFAULT);
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let table = checked.table.unwrap();
    assert!(table.groups.iter().filter(|group| group.default).count() >= 5);
    assert_eq!(table.stale("2026-12-01".parse().unwrap()), [""; 0]);
    assert!(table.stale("2028-01-01".parse().unwrap()).contains(&"google"));
    assert!(table.find("gogle").unwrap_err().contains("google"));
}

#[test]
fn a_table_with_mistakes_is_told_each_of_them() {
    let text = r#"
        [group.a]
        mx = ["*.example.net", "mx*.example.net", "*.net", "plain"]
        source = "s"
        checked = "2026"
        [group.b]
        mx = "*.example.net"
        networks = "192.0.2.1/24"
        domains = "-"
        [group.other]
    "#;
    let checked = ProviderTable::load("own", text);
    assert!(checked.table.is_none());
    let codes: BTreeSet<&str> = checked.problems.iter().map(|problem| problem.code).collect();
    let wanted =
        ["bad-name", "bad-network", "missing-key", "month-invalid", "mx-invalid", "providers-overlap"];
    assert_eq!(codes, wanted.into(), "{:?}", checked.problems);
    assert!(checked.problems.iter().all(|problem| problem.help.is_some()));
}

#[test]
fn names_fit_on_the_boundary_of_a_label_and_the_longest_wins() {
    let groups = groups();
    let of = |host: &str| groups.of(host).map(|(group, _)| group.to_owned());
    assert_eq!(of("aspmx.l.google.com").as_deref(), Some("google"));
    assert_eq!(of("a.olc.protection.outlook.com").as_deref(), Some("outlook"));
    assert_eq!(of("b.mail.protection.outlook.com").as_deref(), Some("office365"));
    assert_eq!(of("mx0.example.net").as_deref(), Some("exact"));
    for nobodys in
        ["google.com", "notgoogle.com", "mx.google.com.evil.example", ".google.com", "a.mx0.example.net"]
    {
        assert_eq!(of(nobodys), None, "{nobodys}");
    }
    for wrong in
        ["*", "*.", "*.com", "a.*.example", "*example.net", "", "mx", "-a.example", "*.*.example.net"]
    {
        assert!(Pattern::read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn mail_servers_of_listed_domains_are_learned_in_both_families() {
    let mut learner = learner(&["gmail.com", "example.org"]);
    let zone = BTreeMap::from([
        ("gmail.com", vec!["GMAIL-smtp-in.l.google.com.", "mx.elsewhere.example"]),
        ("gmail-smtp-in.l.google.com", vec!["192.0.2.26", "2001:db8::1b"]),
        ("mx.elsewhere.example", vec!["192.0.2.99"]),
    ]);
    answer(&mut learner, &zone, at(0));
    assert!(learner.take_changed());
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google"), ("2001:db8::1b", "google")]));
    answer(&mut learner, &zone, at(1));
    assert!(!learner.take_changed(), "the same again");
}

/// Whoever writes a log line, or answers an MX query for a domain of his own, may name any host.
#[test]
fn a_forged_name_moves_no_address() {
    let mut learner = learner(&[]);
    let zone = BTreeMap::from([
        ("mx.google.com", vec!["192.0.2.26"]),
        ("mx.google.com.evil.example", vec!["198.51.100.66"]),
    ]);
    for host in
        ["mx.google.com", "made-up.google.com", "mx.google.com.evil.example", "mx.google.com evil", ""]
    {
        learner.claim(&claim(host, "198.51.100.66"), at(0));
    }
    let asked = answer(&mut learner, &zone, at(0));
    assert!(
        !asked.iter().any(|query| matches!(query, NameQuery::Addresses(name, _) if name.contains("evil")))
    );
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google")]), "only what the name's own zone says");
    assert_eq!((learner.standing().confirmed, learner.standing().refused), (0, 2));
    learner.claim(&claim("mx.google.com", "192.0.2.26"), at(0));
    assert!(answer(&mut learner, &zone, at(0)).is_empty(), "known: nothing is asked");
    assert_eq!(learner.standing().hosts, 1, "a name that leads nowhere takes no room");
}

#[test]
fn a_true_name_out_of_a_log_is_believed_once_it_is_confirmed() {
    let mut learner = learner(&[]);
    let zone = BTreeMap::from([("t.mail.protection.outlook.com", vec!["192.0.2.47", "2001:db8::47"])]);
    learner.claim(&claim("T.mail.protection.outlook.com.", "192.0.2.47"), at(0));
    assert!(learner.learned().is_empty(), "not before it is looked up");
    answer(&mut learner, &zone, at(0));
    assert_eq!(learner.standing().confirmed, 1);
    assert_eq!(learned(&learner), pairs(&[("192.0.2.47", "office365"), ("2001:db8::47", "office365")]));
}

#[test]
fn an_address_of_two_groups_is_nobodys() {
    let mut learner = learner(&[]);
    let zone = BTreeMap::from([
        ("mx.google.com", vec!["192.0.2.26", "192.0.2.27"]),
        ("mx0.example.net", vec!["192.0.2.27"]),
    ]);
    for host in ["mx.google.com", "mx0.example.net"] {
        learner.claim(&claim(host, "192.0.2.27"), at(0));
    }
    answer(&mut learner, &zone, at(0));
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google")]));
    assert_eq!(learner.standing().conflicts, 1);
}

#[test]
fn silence_takes_nothing_away_and_an_answer_does_after_two_days() {
    let mut learner = learner(&["gmail.com"]);
    let first = BTreeMap::from([("gmail.com", vec!["mx.google.com"]), ("mx.google.com", vec!["192.0.2.26"])]);
    answer(&mut learner, &first, at(0));
    for hour in 1..100 {
        assert!(fail(&mut learner, at(hour)) > 0);
    }
    assert!(learner.standing().failures > 100 && learner.standing().why.as_deref() == Some("SERVFAIL"));
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google")]));
    let moved = BTreeMap::from([("gmail.com", vec!["mx.google.com"]), ("mx.google.com", vec!["192.0.2.28"])]);
    answer(&mut learner, &moved, at(101));
    assert_eq!(learned(&learner), pairs(&[("192.0.2.28", "google")]));
    assert_eq!((learner.standing().failures, learner.standing().why.clone()), (0, None));
    // A name that leads to a few of many at a time keeps them all for a while.
    answer(&mut learner, &first, at(103));
    assert_eq!(learned(&learner).len(), 2);
    answer(&mut learner, &first, at(150));
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google")]));
}

#[test]
fn what_nobody_names_any_more_is_forgotten() {
    let mut learner = learner(&[]);
    let zone = BTreeMap::from([("mx.google.com", vec!["192.0.2.26"])]);
    learner.claim(&claim("mx.google.com", "192.0.2.26"), at(0));
    for hour in 0..24 * 20 {
        answer(&mut learner, &zone, at(hour));
    }
    assert!(learner.learned().is_empty());
}

#[test]
fn memory_is_bounded_and_names_of_listed_domains_stay() {
    let mut learner = learner(&["gmail.com"]);
    let zone = BTreeMap::from([("gmail.com", vec!["mx.google.com"]), ("mx.google.com", vec!["192.0.2.26"])]);
    answer(&mut learner, &zone, at(0));
    for n in 0..20_000 {
        learner.claim(&claim(&format!("h{n}.google.com"), "192.0.2.26"), at(1));
    }
    assert_eq!(learner.standing().hosts, 4096);
    answer(&mut learner, &zone, at(1));
    assert_eq!(learner.standing().hosts, 1, "made-up names are gone");
    assert_eq!(learned(&learner), pairs(&[("192.0.2.26", "google")]));
}

#[test]
fn questions_keep_to_their_budget() {
    let pace = LearnerPace { interval: HOUR, per_minute: 60 };
    let mut learner = Learner::new(Wanted { groups: groups(), domains: vec![], pace }, vec![], (7, at(0)));
    for n in 0..200 {
        learner.claim(&claim(&format!("h{n}.google.com"), "192.0.2.26"), at(0));
    }
    let mut asked = 0;
    for second in 0..30 {
        let now = at(0) + SignedDuration::from_secs(second);
        for query in learner.due(now) {
            learner.answered(&query, &NameAnswer::Nothing, now);
            asked += 1;
        }
    }
    assert!((29..=32).contains(&asked), "{asked} in half a minute");
}

#[test]
fn a_restart_and_another_config_keep_what_still_holds() {
    let mut learner = learner(&["gmail.com"]);
    let zone = BTreeMap::from([
        ("gmail.com", vec!["mx.google.com"]),
        ("mx.google.com", vec!["192.0.2.26"]),
        ("mx0.example.net", vec!["192.0.2.30"]),
    ]);
    learner.claim(&claim("mx0.example.net", "192.0.2.30"), at(0));
    answer(&mut learner, &zone, at(0));
    let kept = learner.kept();
    let text = serde_json::to_string(&kept).unwrap();
    let pace = LearnerPace { interval: HOUR, per_minute: 60 };
    let wanted = Wanted { groups: groups(), domains: vec![], pace };
    let again = Learner::new(wanted, serde_json::from_str(&text).unwrap(), (8, at(1)));
    assert_eq!(again.learned(), learner.learned());
    let mut fewer = Groups::default();
    fewer.add(Pattern::read("*.example.net").unwrap(), "mine").unwrap();
    let mut again = again.follow(Wanted { groups: fewer, domains: vec![], pace }, at(1));
    assert!(again.take_changed());
    assert_eq!(learned(&again), pairs(&[("192.0.2.30", "mine")]));
}

proptest! {
    /// Whatever is claimed and answered: an address is a group's only if the zone of a name of that group led to it.
    #[test]
    fn nothing_is_learned_that_no_zone_said(
        steps in prop::collection::vec((0..6_usize, 0..5_usize, 0..4_u8, any::<bool>(), 0..80_i64), 1..60),
    ) {
        let names = ["a.google.com", "b.google.com", "a.olc.protection.outlook.com", "mx0.example.net",
            "a.google.com.evil.example", "evil.example"];
        let groups = groups();
        let mut learner = learner(&["gmail.com"]);
        let (mut said, mut now): (BTreeMap<IpAddr, BTreeSet<String>>, _) = (BTreeMap::new(), at(0));
        for (name, address, kind, lies, minutes) in steps {
            now += SignedDuration::from_mins(minutes);
            let address = IpAddr::from([192, 0, 2, u8::try_from(address).unwrap()]);
            learner.claim(&Claim { host: names[name].to_owned(), address }, now);
            for query in learner.due(now) {
                let answer = match (&query, kind) {
                    (_, 0) => NameAnswer::Failed("late".to_owned()),
                    (_, 1) => NameAnswer::Nothing,
                    (NameQuery::Mx(_), _) => NameAnswer::Hosts(vec![names[name].to_owned()]),
                    (NameQuery::Addresses(host, Family::V4), _) => {
                        let found = if lies { IpAddr::from([198, 51, 100, 1]) } else { address };
                        let group = groups.of(host).map(|(group, _)| group.to_owned()).unwrap_or_default();
                        said.entry(found).or_default().insert(group);
                        NameAnswer::Addresses(vec![found])
                    }
                    (NameQuery::Addresses(..), _) => NameAnswer::Nothing,
                };
                learner.answered(&query, &answer, now);
            }
            for (address, named) in learner.learned() {
                let groups = said.get(address).unwrap_or_else(|| panic!("{address} was never answered"));
                prop_assert!(groups.contains(&named.provider), "{address}: {named:?} {groups:?}");
            }
        }
    }
}

const CONFIG: &str = r#"
mode = "enforce"
[providers]
resolver = "127.0.0.1"
names = ["google"]
domains = ["example.org"]
[provider.net]
networks = ["198.51.100.0/24", "2001:db8:77::/48"]
[provider.mine]
mx = ["*.example.net"]
[pool.main]
addresses = ["203.0.113.10"]
[pool.fast]
addresses = ["203.0.113.11", "2001:db8::11"]
[stream.fast]
provider = ["google", "mine"]
uid = 1001
pool = "fast"
[stream.rest]
uid = 1001
pool = "main"
"#;

fn config(text: &str) -> Config {
    let checked = config::load("test", text, &HostView::default());
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    checked.config.unwrap()
}

fn taught(world: &mut World, told: &[(&str, &str)]) {
    let named = |(address, provider): &(&str, &str)| {
        let named = serde_json::json!({ "provider": provider, "host": "mx.test.example" });
        (ip(address), serde_json::from_value(named).unwrap())
    };
    world.apply(Observation::Receivers(Arc::new(told.iter().map(named).collect())), at(0));
}

#[test]
fn networks_come_before_names_and_who_is_unknown_is_other() {
    let config = config(CONFIG);
    let learning = config.learning.as_ref().unwrap();
    assert_eq!(learning.wanted.domains, ["gmail.com", "example.org"]);
    assert_eq!(learning.wanted.groups.of("mx.example.net").unwrap().0, "mine");
    let mut world = World::new(config, at(0));
    taught(
        &mut world,
        &[
            ("192.0.2.26", "google"),
            ("198.51.100.7", "google"),
            ("192.0.2.30", "mine"),
            ("192.0.2.31", "gone"),
        ],
    );
    let of = |address: &str| world.provider_of(ip(address)).to_owned();
    let all = ["192.0.2.26", "198.51.100.7", "192.0.2.30", "192.0.2.31", "192.0.2.99"].map(of);
    assert_eq!(all, ["google", "net", "mine", "other", "other"]);
    let desired = decide::desired(&world, at(0)).desired;
    let sets: Vec<(&str, usize)> =
        desired.receivers.iter().map(|(name, set)| (name.as_str(), set.len())).collect();
    assert_eq!(sets, [("google", 1), ("mine", 1)], "no address of a network, and none of nobody's");
    let lanes: Vec<(&str, &str)> =
        desired.lanes.iter().map(|lane| (lane.stream.as_str(), lane.provider.as_str())).collect();
    assert_eq!(
        lanes,
        [
            ("fast", "mine"),
            ("fast", "google"),
            ("rest", "net"),
            ("rest", "mine"),
            ("rest", "google"),
            ("rest", "other")
        ]
    );
}

#[test]
fn a_stream_by_provider_is_explained() {
    let mut world = World::new(config(CONFIG), at(0));
    taught(&mut world, &[("192.0.2.26", "google")]);
    let desired = decide::desired(&world, at(0)).desired;
    let who = decide::Who { uid: Some(1001), ..decide::Who::default() };
    let told = decide::explain(&world, &desired, &who, ip("192.0.2.26"));
    assert_eq!((told.stream.as_deref(), told.provider.as_deref()), (Some("fast"), Some("google")));
    assert_eq!(told.provider_by.as_deref(), Some("the name mx.test.example, which leads there"));
    let told = decide::explain(&world, &desired, &who, ip("192.0.2.27"));
    assert_eq!((told.stream.as_deref(), told.provider.as_deref()), (Some("rest"), Some("other")));
    assert_eq!(told.streams[0].why, "192.0.2.27 is at other, not at google or mine");
    let told = decide::explain(&world, &desired, &who, ip("198.51.100.7"));
    assert_eq!(told.provider_by.as_deref(), Some("its network 198.51.100.0/24"));
}

#[test]
fn what_is_learned_changes_elements_and_no_rule() {
    let mut world = World::new(config(CONFIG), at(0));
    taught(&mut world, &[("192.0.2.26", "google")]);
    let mut observed = Observed::default();
    let settle = |world: &World, observed: &mut Observed| {
        let actions = plan::plan(&decide::desired(world, at(0)).desired, observed);
        for action in &actions {
            *observed = plan::carried_out(std::mem::take(observed), action);
        }
        actions
    };
    let first = settle(&world, &mut observed);
    assert!(
        first.iter().any(
            |action| matches!(action, Action::Table { receivers, .. } if receivers["google"].len() == 1)
        )
    );
    taught(&mut world, &[("192.0.2.27", "google"), ("2001:db8:1::1", "mine")]);
    let then: Vec<String> = settle(&world, &mut observed).iter().map(ToString::to_string).collect();
    let told: Vec<&String> = then.iter().filter(|text| text.contains("rules")).collect();
    assert_eq!(told, ["tell the rules whose receivers are: 2 more, 1 less"]);
    assert_eq!(settle(&world, &mut observed).len(), 0, "nothing is left to do");
}

fn by_country(countries: &str, extra: &str) -> config::Checked {
    let known = BTreeMap::from([
        ("DE".to_owned(), vec!["192.0.2.0/25".parse().unwrap(), "2001:db8:49::/48".parse().unwrap()]),
        ("FR".to_owned(), vec!["192.0.2.128/25".parse().unwrap()]),
    ]);
    let view = HostView { countries: Some(Ok(known)), ..HostView::default() };
    let text = format!(
        "mode = \"enforce\"\n[countries]\ndatabase = \"x.mmdb\"\n[pool.de]\naddresses = \"203.0.113.10\"\n[pool.rest]\n\
         addresses = \"203.0.113.11\"\n[stream.de]\nuid = 7\ndestination_country = {countries}\npool = \"de\"\n{extra}\n\
         [stream.rest]\nuid = 7\npool = \"rest\"\n"
    );
    let asked = config::countries_asked(&text).unwrap();
    assert_eq!(asked.database, "x.mmdb");
    config::load("test", &text, &view)
}

#[test]
fn a_stream_by_country_has_the_networks_of_the_database() {
    let checked = by_country(r#"["de", "FR"]"#, "");
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let world = World::new(checked.config.unwrap(), at(0));
    let countries = &world.config().streams[0].matches.countries;
    assert_eq!(countries.codes, ["DE", "FR"]);
    assert_eq!(countries.networks().len(), 2, "the halves of a network are one");
    let desired = decide::desired(&world, at(0)).desired;
    let who = decide::Who { uid: Some(7), ..decide::Who::default() };
    let stream = |to: &str| decide::explain(&world, &desired, &who, ip(to)).stream.unwrap();
    assert_eq!(["192.0.2.200", "2001:db8:49::1", "192.0.3.1"].map(stream), ["de", "de", "rest"]);
    let why = decide::explain(&world, &desired, &who, ip("192.0.3.1")).streams[0].why.clone();
    assert_eq!(why, "192.0.3.1 is not in DE or FR");
}

#[test]
fn a_country_that_the_database_has_not_is_warned_of() {
    let checked = by_country(r#"["UK", "DE"]"#, "");
    let codes: Vec<&str> = checked.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["country-unknown"]);
    assert!(checked.config.is_some());
}
