//! A stock Postfix above the agent: two streams, each from its own pool, whatever happens beneath it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::agent::METRICS;
use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::postfix::{Pace, Settings, UID};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Postfix, Receiver, poll, strangers};

/// The design's first config, with IPv6: marketing by its tags, all else that Postfix sends by its user.
fn config(more: &str) -> String {
    format!(
        r#"
mode = "enforce"
{more}
[pool.transactional]
addresses = ["192.0.2.11", "192.0.2.12", "2001:db8:a::11", "2001:db8:a::12"]
[pool.marketing]
addresses = ["192.0.2.13", "192.0.2.14", "2001:db8:a::13", "2001:db8:a::14"]
[stream.marketing]
tag = ["198.18.0.2", "fd00:6d73::2"]
pool = "marketing"
[stream.transactional]
uid = {UID}
pool = "transactional"
"#
    )
}

/// Recipient domains with the one receiver of each: by stream, and by the only family it has.
const DOMAINS: [&str; 4] = ["shop4.example", "shop6.example", "news4.example", "news6.example"];

fn receiver_of(domain: &str) -> IpAddr {
    match domain {
        "shop4.example" => receiver4(1),
        "shop6.example" => receiver6(1),
        "news4.example" => receiver4(2),
        _ => receiver6(2),
    }
}

/// The sources that a domain's mail may leave from.
fn pool_of(domain: &str) -> Vec<IpAddr> {
    let uplink = &uplinks()[0];
    let first = if domain.starts_with("news") { 2 } else { 0 };
    let of = |n| if domain.contains('6') { uplink.source6(n) } else { uplink.source4(n) };
    vec![of(first), of(first + 1)]
}

/// A lab with one uplink, receivers, their names, the agent, and a Postfix with two transports.
struct Host {
    lab: Lab,
    receiver: Receiver,
    dns: Dns,
    agent: Agent,
    postfix: Postfix,
}

impl Host {
    fn new(more: &str, main: &[&str]) -> Self {
        Self::with(more, main, |lab, config| Agent::start(lab, config).unwrap())
    }

    /// As it went down: mail is queued, and neither Postfix nor anything of mailsteer's runs or stands.
    fn down(more: &str) -> Self {
        let agent = |lab: &Lab, config: &str| Agent::prepare(lab, Some(config)).unwrap();
        // What is held without an agent waits for Postfix's own patience: 30 s unless told otherwise.
        let main = ["defer_transports = smtp marketing", "smtp_connect_timeout = 6s"];
        let host = Self::with(more, &main, agent);
        host.postfix.submit(QUEUED, |n| format!("user{n}@{}", DOMAINS[n % DOMAINS.len()])).unwrap();
        poll::until_true(Duration::from_secs(20), "queued mail", || {
            host.postfix.queue().unwrap().len() == QUEUED
        })
        .unwrap();
        host.postfix.tool(&["postfix", "stop"]).unwrap();
        host.postfix.tool(&["postconf", "-e", "defer_transports ="]).unwrap();
        assert_eq!(host.receiver.count(), 0);
        host
    }

    /// Guard and rules, then Postfix, which tries all that it has.
    fn boot_with_postfix(&self) {
        let said = self.agent.boot().unwrap();
        assert!(said.status.success(), "{said:?}");
        self.postfix.tool(&["postfix", "start"]).unwrap();
        self.postfix.flush().unwrap();
    }

    /// Whatever was deferred while it was held is tried again at once; an administrator would wait.
    fn assert_all_sent(&self, messages: usize) {
        self.postfix.flush().unwrap();
        self.postfix.wait_sent(messages, Duration::from_secs(40)).unwrap();
        assert_eq!(self.postfix.queue().unwrap(), Vec::<String>::new());
        self.assert_delivered(messages);
    }

    fn with(more: &str, main: &[&str], agent: impl FnOnce(&Lab, &str) -> Agent) -> Self {
        let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let records = DOMAINS
            .iter()
            .try_fold(Records::default(), |records, domain| records.domain(domain, &[receiver_of(domain)]));
        let dns = Dns::start(&lab.world, &records.unwrap()).unwrap();
        let agent = agent(&lab, &config(more));
        let marketing = |domain: &str| (domain.to_owned(), "marketing".to_owned());
        let settings = Settings {
            main: main.iter().map(|&line| line.to_owned()).collect(),
            transports: BTreeMap::from([("marketing".into(), "198.18.0.2 fd00:6d73::2".into())]),
            routes: DOMAINS.iter().filter(|d| d.starts_with("news")).map(|d| marketing(d)).collect(),
            ..Settings::default()
        };
        let postfix = Postfix::start(&lab, &settings).unwrap();
        Self { lab, receiver, dns, agent, postfix }
    }

    /// Each recipient's connection: how often the message came, and from where.
    fn delivered(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut delivered: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for connection in self.receiver.connections() {
            for message in connection.messages {
                for to in message.to {
                    delivered.entry(to).or_default().push(connection.peer.ip());
                }
            }
        }
        delivered
    }

    /// Every message came once, and from its own pool.
    fn assert_delivered(&self, messages: usize) {
        let delivered = self.delivered();
        assert_eq!(delivered.len(), messages);
        for (to, peers) in &delivered {
            let (_, domain) = to.split_once('@').unwrap();
            assert_eq!(peers.len(), 1, "{to} came {} times", peers.len());
            assert!(pool_of(domain).contains(&peers[0]), "{to} came from {}", peers[0]);
        }
    }

    /// Nothing on the wire to any receiver that was not from its pool.
    fn assert_wire(&self, capture: Capture) {
        let wire = capture.stop().unwrap();
        assert_eq!(wire.lost, 0);
        for domain in DOMAINS {
            let offenders = wire.others_to(&[receiver_of(domain)], &pool_of(domain));
            assert!(offenders.is_empty(), "{domain}: {offenders:?}");
        }
    }

    fn operator(&self, args: &[&str]) {
        let said = self.agent.cli(args).unwrap();
        assert!(said.status.success(), "{args:?}: {said:?}");
    }

    fn close(self) {
        self.postfix.stop().unwrap();
        drop((self.agent, self.dns));
        self.receiver.stop().unwrap();
        self.lab.close().unwrap();
    }
}

#[test]
fn every_message_leaves_from_its_pool() {
    let host = Host::new("", &[]);
    let capture = Capture::start(&host.lab.world, &["wa"], 25).unwrap();
    host.postfix.submit(400, |n| format!("user{n}@{}", DOMAINS[n % DOMAINS.len()])).unwrap();
    host.postfix.wait_sent(400, Duration::from_secs(60)).unwrap();
    assert!(host.postfix.deliveries().unwrap().iter().all(|d| d.status == "sent"));
    host.assert_delivered(400);
    host.assert_wire(capture);
    let peers: BTreeSet<IpAddr> = host.receiver.by_peer().into_keys().collect();
    assert_eq!(peers, DOMAINS.iter().flat_map(|domain| pool_of(domain)).collect(), "all sources are used");
    host.close();
}

/// 1,700 messages at 100 a second last 17 seconds.
const MESSAGES: usize = 1_700;
const RATE: usize = 100;

#[test]
fn flushes_and_restarts_defer_nothing() {
    // Not owned, so that a stranger's flush bites.
    let mut host = Host::new("[nft]\nown_table = \"never\"", &[]);
    let capture = Capture::start(&host.lab.world, &["wa"], 25).unwrap();
    let pace = Pace { count: MESSAGES, rate: RATE, sessions: 4 };
    let submitting = host.postfix.submit_at(pace, |n| format!("user{n}@news4.example")).unwrap();
    for round in 1..=5 {
        // Spread over the whole run: twice in each fifth, by how many messages are through.
        let due = |half: usize| MESSAGES * (4 * round - 4 + half) / 20;
        wait_messages(&host.receiver, due(1));
        strangers::flush(&host.lab.mail).unwrap();
        wait_repaired(&host.agent);
        wait_messages(&host.receiver, due(3));
        host.agent.restart().unwrap();
    }
    submitting.finish().unwrap();
    host.postfix.wait_sent(MESSAGES, Duration::from_secs(30)).unwrap();
    let unsent: Vec<_> =
        host.postfix.deliveries().unwrap().into_iter().filter(|d| d.status != "sent").collect();
    assert!(unsent.is_empty(), "{} not sent at once: {:?}", unsent.len(), unsent[0]);
    assert_eq!(host.postfix.queue().unwrap(), Vec::<String>::new());
    host.assert_delivered(MESSAGES);
    host.assert_wire(capture);
    host.close();
}

/// The flush bit: this agent, which counts from its own start, had a table to repair.
fn wait_repaired(agent: &Agent) {
    poll::until(Duration::from_secs(5), "a repair", || {
        let repairs = agent.json(&["status"])?["table_repairs"].as_u64();
        Ok(repairs.filter(|&repairs| repairs > 0))
    })
    .unwrap();
}

fn wait_messages(receiver: &Receiver, count: usize) {
    poll::until_true(Duration::from_secs(30), &format!("message {count}"), || receiver.messages() >= count)
        .unwrap_or_else(|e| panic!("{e}: {} came", receiver.messages()));
}

/// Waits until every message has been tried, and returns what the log says of each.
fn wait_deferred(host: &Host, count: usize) -> Vec<String> {
    poll::until(Duration::from_secs(20), &format!("{count} deferred messages"), || {
        let all = host.postfix.deliveries()?;
        let deferred: Vec<String> =
            all.into_iter().filter(|d| d.status == "deferred").map(|d| d.said).collect();
        Ok((deferred.len() >= count).then_some(deferred))
    })
    .unwrap_or_else(|e| panic!("{e}: {}", host.postfix.log().unwrap()))
}

const MARKETING: [&str; 4] = ["marketing-1", "marketing-2", "marketing-3", "marketing-4"];

#[test]
fn an_exhausted_pool_is_refused_at_once_deferred_and_delivered_later() {
    let host = Host::new("", &[]);
    for source in MARKETING {
        host.operator(&["suspend", source, "--reason", "a test"]);
    }
    let capture = Capture::start(&host.lab.world, &["wa"], 25).unwrap();
    let domain = |n: usize| ["news4.example", "news6.example", "shop4.example"][n % 3];
    host.postfix.submit(30, |n| format!("user{n}@{}", domain(n))).unwrap();
    let deferred = wait_deferred(&host, 20);
    for said in &deferred {
        let at_once = said.contains("No route to host") || said.contains("Connection refused");
        assert!(at_once || said.contains("delivery temporarily suspended"), "{said}");
    }
    host.postfix.wait_sent(10, Duration::from_secs(20)).unwrap();
    host.assert_delivered(10);
    host.assert_wire(capture);
    assert_refused(&host);
    for source in MARKETING {
        host.operator(&["resume", source, "--reason", "the test goes on"]);
    }
    host.postfix.flush().unwrap();
    host.postfix.wait_sent(30, Duration::from_secs(30)).unwrap();
    host.assert_delivered(30);
    assert_eq!(host.postfix.queue().unwrap(), Vec::<String>::new());
    host.close();
}

/// The refusals are counted, and told as ours: not as the receiver's doing.
fn assert_refused(host: &Host) {
    let labels = ["stream=\"marketing\"", "reason=\"exhausted\""];
    let rows = poll::until(Duration::from_secs(10), "refusals counted and told", || {
        let counted = host.agent.metric(METRICS, "mailsteer_refused_total", &labels)?;
        let rows = host.agent.json_lines(&["connections", "-n", "1000"])?;
        let told: Vec<_> = rows.into_iter().filter(|row| row["outcome"] == "policy").collect();
        Ok((counted > 0.0 && counted == told.len() as f64).then_some(told))
    })
    .unwrap();
    let to: BTreeSet<_> = rows.iter().filter_map(|row| row["destination"].as_str()).collect();
    assert_eq!(to, BTreeSet::from(["203.0.113.2", "2001:db8:ffff::2"]));
    assert!(rows.iter().all(|row| row["stream"] == "marketing" && row["real_address"].is_null()), "{rows:?}");
}

/// Messages that a host had when it went down.
const QUEUED: usize = 40;

/// The oneshot, then Postfix with queued mail, then the agent. IPv6 addresses are tentative when the oneshot ends: what
/// they would carry is held until the agent runs.
#[test]
fn at_a_boot_queued_mail_is_steered_before_the_agent_runs() {
    let mut host = Host::down("");
    let capture = Capture::start(&host.lab.world, &["wa"], 25).unwrap();
    host.boot_with_postfix();
    host.postfix.wait_sent(QUEUED / 2, Duration::from_secs(40)).unwrap();
    host.agent.restart().unwrap();
    host.assert_all_sent(QUEUED);
    let counted = |name: &str| {
        let status = host.agent.json(&["status"]).unwrap();
        status["totals"][name].as_u64().unwrap()
    };
    let received = host.receiver.count() as u64;
    poll::until_true(Duration::from_secs(10), "what left before the agent ran to be counted", || {
        counted("established") == received
    })
    .unwrap();
    assert_eq!(counted("wrong"), 0);
    host.assert_wire(capture);
    host.close();
}

/// Addresses that others put on the host, and have not yet: held, by the oneshot and by the agent, and then steered.
#[test]
fn at_a_boot_mail_waits_for_addresses_that_are_not_there_yet() {
    let mut host = Host::down("[host]\naddresses = \"adopt\"");
    let capture = Capture::start(&host.lab.world, &["wa"], 25).unwrap();
    host.boot_with_postfix();
    let tried = wait_deferred_since_boot(&host, QUEUED);
    let refused = |said: &&String| said.contains("refused") || said.contains("No route to host");
    assert_eq!(tried.iter().filter(refused).collect::<Vec<_>>(), Vec::<&String>::new(), "held, not refused");
    assert_eq!(host.receiver.count(), 0, "no agent runs, and no address is there");
    host.agent.relaunch().unwrap();
    host.postfix.flush().unwrap();
    wait_deferred_since_boot(&host, 2 * QUEUED);
    assert_eq!(host.receiver.count(), 0, "no address is there");
    let uplink = &uplinks()[0];
    for n in 0..4 {
        let (v4, v6) = (uplink.source4(n), uplink.source6(n));
        let add =
            format!("ip address add {v4}/32 dev upa; ip address add {v6}/128 dev upa nodad preferred_lft 0");
        host.lab.mail.sh(&add).unwrap();
    }
    let serving = || {
        let rows = host.agent.json(&["sources"]).unwrap();
        rows.as_array().unwrap().iter().all(|row| row["state"] == "healthy")
    };
    poll::until_true(Duration::from_secs(10), "every source to serve", serving).unwrap();
    host.assert_all_sent(QUEUED);
    host.assert_wire(capture);
    host.close();
}

/// Waits until this many attempts failed, of those that were made at all: not those that Postfix was told to defer; and
/// returns what the log says of each.
fn wait_deferred_since_boot(host: &Host, count: usize) -> Vec<String> {
    poll::until(Duration::from_secs(60), &format!("{count} attempts that failed"), || {
        let all = host.postfix.deliveries()?.into_iter().filter(|d| d.status == "deferred");
        let failed: Vec<String> = all.map(|d| d.said).filter(|s| !s.contains("deferred transport")).collect();
        Ok((failed.len() >= count).then_some(failed))
    })
    .unwrap_or_else(|e| panic!("{e}: {}", host.postfix.log().unwrap()))
}
