//! The config as an operator meets it: the shipped files, and each mistake with the message it gets.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stop at what should not happen")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mailsteer_core::config::{
    CODES, Checked, Config, HostView, Mode, Problem, Tier, load, reference, schema,
};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route};
use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A mail host: lo, eth0 with a /24 and a default route, eth1, and a container bridge.
fn host(ipv6: bool) -> Host {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        up: true,
        loopback: name == "lo",
        point_to_point: false,
    };
    let address = |ifindex, text: &str, prefix_len| Address {
        ifindex,
        address: text.parse().unwrap(),
        prefix_len,
        state: AddressState::Ready,
        ours: false,
    };
    let route = |destination: &str, gateway: Option<&str>, ifindex| Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|text| text.parse().unwrap()),
        ifindex,
        metric: 0,
    };
    let mut host = Host {
        links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "br-mailcow")],
        addresses: vec![
            address(2, "203.0.113.10", 24),
            address(2, "203.0.113.11", 24),
            address(2, "10.0.1.10", 32),
            address(2, "10.0.1.11", 32),
            address(4, "172.22.1.1", 24),
        ],
        routes: vec![
            route("0.0.0.0/0", Some("203.0.113.1"), 2),
            route("203.0.113.0/24", None, 2),
            route("172.22.1.0/24", None, 4),
        ],
    };
    if ipv6 {
        host.routes.push(route("::/0", Some("fe80::1"), 2));
    }
    host
}

/// The host on which a file is checked; a first line `# host: none` or `# host: ipv4` says another.
fn view(text: &str) -> HostView {
    let host = match text.lines().next() {
        Some("# host: none") => None,
        Some("# host: ipv4") => Some(host(false)),
        _ => Some(host(true)),
    };
    let ids = |names: &[(&str, u32)]| {
        names.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect::<BTreeMap<_, _>>()
    };
    HostView {
        users: ids(&[("root", 0), ("postfix", 101)]),
        groups: ids(&[("postfix", 103), ("mail", 8)]),
        host,
        lists: None,
        replies: None,
        providers: None,
        countries: match text.lines().next() {
            Some("# countries: broken") => Some(Err("it ends too early".to_owned())),
            Some("# countries: some") => {
                Some(Ok([("DE".to_owned(), vec!["198.51.100.0/24".parse().unwrap()])].into()))
            }
            _ => None,
        },
    }
}

fn rendered(checked: &Checked) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut text = String::new();
    for problem in &checked.problems {
        handler.render_report(&mut text, problem).unwrap();
        text.push('\n');
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn sound(text: &str) -> Config {
    let checked = load("test.toml", text, &view(text));
    assert!(checked.problems.is_empty(), "{}", rendered(&checked));
    checked.config.unwrap()
}

#[test]
fn every_mistake_gets_its_message() {
    let mut seen = BTreeSet::new();
    for path in files(&repo().join("agent/core/tests/wrong")) {
        let text = read(&path);
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let checked = load(&format!("{stem}.toml"), &text, &view(&text));
        let code = stem.split_once('.').map_or(stem, |(code, _)| code);
        let codes: Vec<&str> = checked.problems.iter().map(|problem| problem.code).collect();
        assert!(codes.contains(&code) || code == "many", "{stem}: found {codes:?}\n{}", rendered(&checked));
        assert_eq!(checked.config.is_none(), checked.problems.iter().any(Problem::is_error));
        for problem in &checked.problems {
            assert!(problem.help.is_some(), "{stem}: {problem} does not say what to do");
            for label in &problem.labels {
                assert!(label.start <= label.end && label.end <= text.len(), "{stem}: {label:?}");
            }
        }
        seen.extend(codes);
        insta::assert_snapshot!(stem, rendered(&checked));
    }
    // Too long to read as files.
    for (text, code) in too_many() {
        let checked = load("test.toml", &text, &view(&text));
        let found = checked.problems.iter().find(|problem| problem.code == code);
        assert!(found.is_some(), "{code}: {}", rendered(&checked));
        seen.insert(code);
    }
    let unseen: Vec<_> = CODES.iter().filter(|code| !seen.contains(**code)).collect();
    assert!(unseen.is_empty(), "checks without a wrong config: {unseen:?}");
}

fn too_many() -> Vec<(String, &'static str)> {
    let mut streams = "[pool.p]\naddresses = \"203.0.113.10\"\n".to_owned();
    for n in 0..256 {
        streams += &format!("[stream.s{n}]\npool = \"p\"\nuid = {}\n", 1000 + n);
    }
    let mut uplinks = String::new();
    for n in 0..16 {
        uplinks += &format!("[uplink.u{n}]\ninterface = \"eth{n}\"\nprefix = \"192.0.{n}.0/24\"\n");
    }
    let ranges: Vec<String> = (0..4).map(|n| format!("\"20.0.{}.0/22\"", n * 4)).collect();
    let sources = format!("[pool.p]\naddresses = [{}]\n", ranges.join(", "));
    let mut lanes = "[pool.p]\naddresses = \"203.0.113.10\"\n".to_owned();
    for n in 0..32 {
        lanes += &format!("[stream.s{n}]\npool = \"p\"\nuid = {}\n", 1000 + n);
    }
    for n in 0..7 {
        lanes += &format!("[provider.p{n}]\nnetworks = \"20.{n}.0.0/16\"\n");
    }
    vec![
        (streams, "too-many-streams"),
        (lanes, "too-many-lanes"),
        (uplinks, "too-many-uplinks"),
        (sources, "too-many-sources"),
    ]
}

#[test]
fn a_receiver_is_one_providers_or_others() {
    let text = r#"
        [provider.big]
        networks = ["198.51.100.0/25", "198.51.100.128/25", "2001:db8:77::/48"]
        [provider.small]
        networks = "192.0.2.25"
    "#;
    let config = sound(text);
    let of = |address: &str| {
        let found = config.provider_by_network(address.parse().unwrap());
        found.map_or("other", |(provider, _)| provider).to_owned()
    };
    assert_eq!(
        ["198.51.100.200", "2001:db8:77::1", "192.0.2.25", "192.0.2.26"].map(of),
        ["big", "big", "small", "other"]
    );
    assert_eq!(config.providers[0].networks.len(), 2, "neighbours are one network");
    assert_eq!(config.all_providers().map(|(name, _)| name).collect::<Vec<_>>(), ["big", "small", "other"]);
}

#[test]
fn the_shipped_files_are_sound_and_silent() {
    sound(&read(&repo().join("config/default.toml")));
    for path in files(&repo().join("config/examples")) {
        let text = read(&path);
        let checked = load(path.to_str().unwrap(), &text, &HostView::default());
        assert!(checked.problems.is_empty(), "{}", rendered(&checked));
        assert!(checked.config.is_some());
    }
}

#[test]
fn the_examples_stay_without_warning_when_they_enforce() {
    for path in files(&repo().join("config/examples")) {
        let text = read(&path).replace("mode = \"observe\"", "");
        let checked =
            load(path.to_str().unwrap(), &format!("mode = \"enforce\"\n{text}"), &HostView::default());
        assert!(checked.problems.is_empty(), "{}", rendered(&checked));
    }
}

#[test]
fn the_default_file_says_the_defaults() {
    assert_eq!(sound(&read(&repo().join("config/default.toml"))), Config::observe_only());
}

#[test]
fn the_default_file_shows_every_key_and_all_of_it_parses() {
    let text = read(&repo().join("config/default.toml"));
    let open: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let checked = load("default.toml", &open, &view(&open));
    let unread = |code: &str| ["syntax", "unknown-key", "wrong-type", "unknown-value"].contains(&code);
    assert!(!checked.problems.iter().any(|problem| unread(problem.code)), "{}", rendered(&checked));
    let schema = schema();
    let tables = ["Host", "Nft", "Metrics", "Control", "Uplink", "Pool", "Stream"];
    let parts = tables.iter().map(|name| &schema["$defs"][name]).chain([&schema]);
    for key in parts.flat_map(|part| part["properties"].as_object().unwrap().keys()) {
        let shown = text.contains(&format!("{key} = ")) || text.contains(&format!("[{key}"));
        assert!(shown, "config/default.toml does not show `{key}`");
    }
}

/// Compares a committed file with what the source makes of it; `MAILSTEER_BLESS=1` writes it.
fn current(path: &str, made: &str) {
    let path = repo().join(path);
    if std::env::var_os("MAILSTEER_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    assert!(read(&path) == made, "{} is out of date: run this test with MAILSTEER_BLESS=1", path.display());
}

#[test]
fn the_schema_file_is_current() {
    current("config/schema.json", &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"));
}

#[test]
fn the_reference_is_current() {
    current("docs/config.md", &reference());
}

#[test]
fn streams_match_in_file_order_and_sources_are_named_by_their_place() {
    let config = sound(
        "mode = { canary = 0.305 }\n[pool.z]\naddresses = [\"203.0.113.32/30\", \"2001:db8:5::10\"]\nspare = \"198.51.100.1\"\n\
         weights = { z-2 = 3 }\n[stream.zebra]\ntag = \"198.18.0.2\"\npool = \"z\"\nmode = \"enforce\"\n\
         [stream.ant]\npool = \"z\"\nuser = \"postfix\"\n",
    );
    let names: Vec<&str> = config.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["zebra", "ant"]);
    assert_eq!(config.streams[0].mode, Mode::Enforce);
    assert_eq!(config.streams[1].mode, Mode::Canary(305));
    assert_eq!(config.streams[1].matches.uids, [101]);
    let sources: Vec<_> =
        config.pools["z"].sources.iter().map(|s| (s.name.as_str(), s.weight, s.tier)).collect();
    assert_eq!(sources[1], ("z-2", 3, Tier::Primary));
    assert_eq!(sources[4], ("z-5", 1, Tier::Primary));
    assert_eq!(sources[5], ("z-spare-1", 1, Tier::Spare));
    assert_eq!(config.pools["z"].sources[3].local, "203.0.113.35".parse::<IpAddr>().unwrap());
}

#[test]
fn sources_go_to_the_uplink_whose_prefix_holds_them() {
    let config = sound(&read(&repo().join("config/examples/two-uplinks.toml")));
    let uplinks: Vec<_> = config.pools["main"].sources.iter().map(|source| source.uplink).collect();
    assert_eq!(uplinks, [Some(0), Some(0), Some(1), Some(1)]);
}

#[test]
fn away_from_its_host_an_unknown_user_matches_nobody_and_is_said() {
    let text = "[pool.p]\naddresses = \"203.0.113.10\"\n[stream.a]\nuser = \"mta-a\"\npool = \"p\"\n\
                [stream.b]\nuser = \"mta-b\"\npool = \"p\"\n";
    let checked = load("test.toml", text, &HostView::default());
    assert!(checked.problems.is_empty(), "{}", rendered(&checked));
    assert_eq!(checked.not_checked.len(), 2);
    let config = checked.config.unwrap();
    assert_eq!(config.streams[0].matches.uids, [u32::MAX]);
    assert_eq!(config.streams[1].matches.uids, [u32::MAX]);
}

/// Keys, tables and values of the format, so that random files get past the syntax.
fn fragment() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("\"203.0.113.0/28\"".to_owned()),
        Just("[\"203.0.113.1-203.0.113.9\", { local = \"10.0.0.1\" }]".to_owned()),
        Just("{ canary = 0.5 }".to_owned()),
        "\"[a-z0-9:./-]{0,20}\"",
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
    ];
    let key = prop::sample::select(vec![
        "mode",
        "ports",
        "exclude",
        "pool",
        "user",
        "uid",
        "tag",
        "subnet",
        "via",
        "mark",
        "cgroup",
        "destination",
        "addresses",
        "spare",
        "weights",
        "ehlo",
        "gateway",
        "prefix",
        "interface",
        "listen",
        "nonsense",
    ]);
    prop_oneof![
        (key, value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        "\\[(pool|stream|uplink)\\.[a-z]{1,2}\\]\n",
        prop::sample::select(vec![
            "[host]\n".to_owned(),
            "[metrics]\n".to_owned(),
            "[state]\n".to_owned(),
            "[nft]\n".to_owned()
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let checked = load("fuzz", &text, &view(&text));
        prop_assert_eq!(checked.config.is_none(), checked.problems.iter().any(Problem::is_error));
        rendered(&checked);
    }

    #[test]
    fn no_file_of_known_keys_makes_it_panic(parts in prop::collection::vec(fragment(), 0..20)) {
        let text = parts.concat();
        let checked = load("fuzz", &text, &view(&text));
        prop_assert_eq!(checked.config.is_none(), checked.problems.iter().any(Problem::is_error));
        rendered(&checked);
    }
}
