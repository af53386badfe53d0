//! Providers by the names of their mail servers and receivers by country, end to end: the names are looked up in the test internet's
//! DNS, the streams leave from the pools that provider and country choose, and what a log makes up is not believed.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::load::Load;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{MAIL, METRICS, SHOWN};
use mailsteer_tests::topology::{receiver4, receiver6};
use mailsteer_tests::{Agent, Lab, Options, Receiver, agent, mmdb, poll};

const CONFIG: &str = r#"
mode = "enforce"
[uplink.a]
interface = "upa"
gateway = ["192.0.2.1", "2001:db8:a::1"]
prefix = ["192.0.2.0/24", "2001:db8:a::/64"]
[uplink.b]
interface = "upb"
gateway = ["198.51.100.1", "2001:db8:b::1"]
prefix = ["198.51.100.0/24", "2001:db8:b::/64"]
[providers]
resolver = "203.0.113.53"
names = []
domains = ["big.example"]
interval_minutes = 5
[provider.big]
mx = ["*.mx.big.example"]
[pool.big]
addresses = ["192.0.2.11", "2001:db8:a::11"]
[pool.german]
addresses = ["198.51.100.21", "2001:db8:b::21"]
[pool.main]
addresses = ["192.0.2.12", "2001:db8:a::12"]
[stream.big]
uid = 1001
provider = "big"
pool = "big"
[stream.german]
uid = 1001
destination_country = ["DE"]
pool = "german"
[stream.mail]
uid = 1001
pool = "main"
"#;

const BIG: [&str; 2] = ["192.0.2.11", "2001:db8:a::11"];
const GERMAN: [&str; 2] = ["198.51.100.21", "2001:db8:b::21"];
const MAIN: [&str; 2] = ["192.0.2.12", "2001:db8:a::12"];
/// How long a look-up and what follows may take.
const LEARNED: Duration = Duration::from_secs(30);

struct Internet {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
    dns: Option<Dns>,
}

impl Internet {
    fn new() -> Self {
        let lab = Lab::new(Options { uplinks: 2, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        receiver.script(Whom::All, Behaviour::BannerClose);
        let [first, second] = ["a.mx.big.example", "b.mx.big.example"];
        let host = |records: Records, name: &str, n: u8| {
            records.host(name, receiver4(n)).unwrap().host(name, receiver6(n.into())).unwrap()
        };
        let records =
            host(host(Records::default(), first, 31), second, 32).mx("big.example", 10, first).unwrap();
        let dns = Dns::start(&lab.world, &records).unwrap();
        let database = lab.dir().join("countries.mmdb");
        fs::write(&database, countries()).unwrap();
        let config = format!("{CONFIG}\n[countries]\ndatabase = \"{}\"\n", database.display());
        let agent = Agent::start(&lab, &config).unwrap();
        Self { lab, receiver, agent, dns: Some(dns) }
    }

    /// From which addresses connections to these receivers come.
    fn from(&self, n: u8) -> BTreeSet<String> {
        self.receiver.forget();
        let user = self.lab.mail.uid(MAIL);
        let to: Vec<IpAddr> = vec![receiver4(n), receiver6(n.into())];
        let cgroup = Some(self.lab.cgroup().unwrap().to_owned());
        let load = Load { rate: 50, count: 10, uid: user, gid: user, to, cgroup, ..Load::default() };
        let report = load.run(&self.lab.mail).unwrap();
        assert_eq!(report.ok, 10, "{report:?}");
        self.receiver.by_peer().keys().map(ToString::to_string).collect()
    }

    fn explained(&self, receiver: IpAddr) -> (String, String) {
        let told = self.agent.json(&["explain", "--uid", "1001", &receiver.to_string()]).unwrap();
        let word = |key: &str| told[0][key].as_str().unwrap_or_default().to_owned();
        (word("provider"), word("provider_by"))
    }

    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.agent.cli(&["status", "--json"]).unwrap();
        self.agent.metric(METRICS, name, labels).unwrap_or(-1.0)
    }

    fn log(&self, lines: &str) {
        let mut command = self.lab.mail.command(agent::binary().unwrap());
        self.lab.mail.as_its_root(&mut command);
        command.args(["report-outcome", "--log", "postfix", "--socket"]).arg(self.agent.socket());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

/// Receivers 64 to 127 are in Germany; of IPv6 those of which the last two digits of the address say so.
fn countries() -> Vec<u8> {
    mmdb::database(&[
        ("203.0.113.64/26", "DE"),
        ("2001:db8:ffff::40/122", "DE"),
        ("203.0.113.128/25", "FR"),
        ("2001:db8:ffff::80/121", "FR"),
    ])
}

fn set(addresses: [&str; 2]) -> BTreeSet<String> {
    addresses.map(str::to_owned).into()
}

fn line(host: &str, address: IpAddr) -> String {
    format!(
        "2026-11-25T11:59:58+00:00 host postfix/smtp[1]: 4JfcC62DS0z: to=<a@b.example>, relay={host}[{address}]:25, delay=1, \
         delays=1/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 ok)\n"
    )
}

#[test]
fn provider_and_country_choose_the_pool_and_a_forged_name_moves_nobody() {
    let mut net = Internet::new();
    poll::until_true(LEARNED, "the mail servers of the listed domain are known", || {
        net.metric("mailsteer_receivers", &["provider=\"big\""]) >= 2.0
    })
    .unwrap();
    for (n, leaves) in [(31, BIG), (70, GERMAN), (41, MAIN), (200, MAIN)] {
        assert_eq!(net.from(n), set(leaves), "receiver {n}");
    }
    let counted = |provider: &str| {
        net.metric("mailsteer_provider_connections_total", &[provider, "outcome=\"established\""])
    };
    poll::until_true(SHOWN, "all are counted", || counted("provider=\"other\"") >= 30.0).unwrap();
    assert_eq!((counted("provider=\"big\""), counted("provider=\"other\"")), (10.0, 30.0));
    assert_eq!(net.metric("mailsteer_provider_other_ratio", &[]), 0.75);
    let by = net.explained(receiver4(31));
    assert_eq!(by, ("big".to_owned(), "the name a.mx.big.example, which leads there".to_owned()));

    // The log: one next hop that is true, one whose name leads elsewhere, one whose name only ends alike.
    assert_eq!(net.explained(receiver4(32)).0, "other");
    net.log(
        &[
            line("b.mx.big.example", receiver4(32)),
            line("a.mx.big.example", receiver4(40)),
            line("a.mx.big.example.evil.example", receiver4(42)),
        ]
        .concat(),
    );
    poll::until_true(LEARNED, "the true one is believed", || net.explained(receiver4(32)).0 == "big")
        .unwrap();
    // One name is asked for twice in five minutes at most; what it leads to was known before.
    assert_eq!(
        ["other", "other"],
        [40, 42].map(|n| net.explained(receiver4(n)).0).each_ref().map(String::as_str)
    );
    assert_eq!((net.from(32), net.from(40)), (set(BIG), set(MAIN)));

    // What is known outlives the agent and the DNS.
    net.dns = None;
    assert!(net.agent.terminate().unwrap().success());
    net.agent.restart().unwrap();
    assert_eq!(net.explained(receiver6(32)).0, "big");
    assert_eq!((net.from(31), net.from(32), net.from(41)), (set(BIG), set(BIG), set(MAIN)));

    // A broken database changes nothing.
    let database = net.lab.dir().join("countries.mmdb");
    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let reload = net.agent.cli(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&reload.stderr).into_owned();
    assert!(!reload.status.success() && said.contains("the database of countries cannot be used"), "{said}");
    assert_eq!((net.from(70), net.from(41)), (set(GERMAN), set(MAIN)));
    // Another one is taken at the next reload.
    fs::write(&database, mmdb::database(&[("203.0.113.0/26", "DE"), ("2001:db8:ffff::/122", "DE")])).unwrap();
    assert!(net.agent.cli(&["reload"]).unwrap().status.success());
    assert_eq!((net.from(70), net.from(41), net.from(31)), (set(MAIN), set(GERMAN), set(BIG)));
    assert_eq!(net.metric("mailsteer_wrong_source_total", &[]), 0.0);

    let Internet { lab, receiver, agent, .. } = net;
    drop(agent);
    receiver.stop().unwrap();
    lab.close().unwrap();
}
