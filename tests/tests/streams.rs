//! Several streams of one user, with real MTAs: every recipe of docs/mta-recipes.md for them, by what receivers got and
//! from where.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::mta::{
    Envelope, Exim, HOSTNAME, MARKETING_NAME, Mta, OpenSmtpd, SUBMIT, Sendmail, TAGS,
};
use mailsteer_tests::postfix::Settings;
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Postfix, Receiver, poll, recipes};

/// Sections, and the recipes that have a test below.
const RECIPES: [(&str, &[&str]); 5] = [
    ("Any MTA", &["tags.toml", "destination.toml"]),
    (
        "Postfix",
        &[
            "/etc/postfix/master.cf",
            "/etc/postfix/main.cf",
            "/etc/postfix/sender_transport",
            "second-instance.sh",
            "instances.toml",
        ],
    ),
    (
        "Exim",
        &[
            "/etc/exim4/conf.d/router/190_marketing",
            "/etc/exim4/conf.d/transport/31_marketing",
            "/etc/exim4/conf.d/main/000_localmacros",
        ],
    ),
    ("OpenSMTPD", &["/etc/smtpd.conf"]),
    ("sendmail", &["/etc/mail/marketing.mc", "/etc/mail/sendmail.mc"]),
];

/// Where a second instance or daemon takes messages.
const SECOND: &str = "127.0.0.1:2526";
/// Messages of each stream.
const MESSAGES: usize = 40;
/// Sender domains: of all other mail, and of marketing.
const SENDERS: [&str; 2] = ["shop.example", "news.example"];

/// Recipient domains by the one address that each has. The last two are those that one recipe sends by.
fn inboxes() -> [(&'static str, IpAddr); 4] {
    [
        ("inbox4.example", receiver4(1)),
        ("inbox6.example", receiver6(1)),
        ("large4.example", receiver4(200)),
        ("large6.example", receiver6(200)),
    ]
}

/// A host that steers by a recipe, and the world.
struct Host {
    lab: Lab,
    receiver: Receiver,
    dns: Dns,
    agent: Agent,
    capture: Capture,
}

impl Host {
    fn new(recipe: &str) -> Self {
        let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
        for instance in [OTHER, MARKETING] {
            // A stream's cgroup has to be there.
            std::fs::create_dir_all(lab.cgroup().unwrap().join(instance)).unwrap();
        }
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let senders = SENDERS.iter().map(|name| (*name, receiver4(1)));
        let records = senders
            .chain(inboxes())
            .fold(Records::default(), |records, (name, address)| records.domain(name, &[address]).unwrap());
        let dns = Dns::start(&lab.world, &records).unwrap();
        let agent = Agent::start(&lab, &recipes::config(recipe).unwrap()).unwrap();
        let capture = Capture::start(&lab.world, &[uplinks()[0].far], 25).unwrap();
        Self { lab, receiver, dns, agent, capture }
    }

    /// Every message came once, from its stream's pool, under its stream's name.
    fn assert_delivered(&self, names: [&str; 2]) {
        let mut came = BTreeSet::new();
        for connection in self.receiver.connections() {
            for message in &connection.messages {
                let to = message.to.concat();
                let stream = usize::from(to.starts_with("user1-"));
                let peer = connection.peer.ip();
                assert!(
                    pool(stream, connection.to.is_ipv6()).contains(&peer),
                    "{to} came from {peer}: {message:?}"
                );
                assert_eq!(connection.ehlo.as_deref(), Some(names[stream]), "{to}");
                assert!(came.insert(to.clone()), "{to} came twice");
            }
        }
        assert_eq!(came.len(), 2 * MESSAGES);
    }

    fn close(self) {
        let Self { lab, receiver, dns, agent, capture } = self;
        let status = agent.json(&["status"]).unwrap();
        let totals = &status["totals"];
        assert_eq!((&totals["wrong"], &totals["refused"]), (&0.into(), &0.into()), "{status}");
        let wire = capture.stop().unwrap();
        assert_eq!(wire.lost, 0);
        let sources = [0, 1].into_iter().flat_map(|n| [pool(n, false), pool(n, true)].concat());
        let (sources, used): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            (sources.collect(), wire.by_source.keys().map(|(_, source)| *source).collect());
        assert!(used.is_subset(&sources), "on the wire: {used:?}");
        drop((agent, dns));
        receiver.stop().unwrap();
        lab.close().unwrap();
    }
}

/// The sources of a stream: of all other mail, or of marketing.
fn pool(stream: usize, v6: bool) -> Vec<IpAddr> {
    let (uplink, first) = (&uplinks()[0], if stream == 1 { 2 } else { 0 });
    [first, first + 1].map(|n| if v6 { uplink.source6(n) } else { uplink.source4(n) }).into()
}

/// Message `n` of a stream by its sender: to both families by turns.
fn by_sender(stream: usize, n: usize) -> Envelope {
    let (inbox, _) = inboxes()[n % 2];
    Envelope { from: format!("sender@{}", SENDERS[stream]), to: format!("user{stream}-{n}@{inbox}") }
}

/// Hands in the messages of both streams, each where it belongs, and waits for them.
fn deliver(mta: &impl Mta, host: &Host, at: [&str; 2], envelope: impl Fn(usize, usize) -> Envelope + Sync) {
    for (stream, at) in at.into_iter().enumerate() {
        mta.instance().submit_to(at, MESSAGES, |n| envelope(stream, n)).unwrap();
    }
    let all = || host.receiver.messages() >= 2 * MESSAGES;
    let came = poll::until_true(Duration::from_secs(60), "all messages", all);
    came.map_err(|e| e.context(mta.log().unwrap_or_default())).unwrap();
}

#[test]
fn every_recipe_has_its_test() {
    for (section, names) in RECIPES {
        assert_eq!(recipes::names(section).unwrap(), names);
    }
    let sections: BTreeSet<String> = recipes::all().unwrap().into_iter().map(|one| one.section).collect();
    let known = RECIPES.iter().map(|(section, _)| *section).chain(["Containers"]);
    assert_eq!(sections.iter().map(String::as_str).collect::<BTreeSet<_>>(), known.collect());
}

/// Two streams of one MTA by tags, as its recipe has it; then what is to be seen of its log.
fn by_tags<M: Mta>(at: [&str; 2], log: impl Fn(&Host, &str)) {
    let host = Host::new("tags.toml");
    let mta = M::start_by_recipe(&host.lab).unwrap();
    deliver(&mta, &host, at, by_sender);
    host.assert_delivered([HOSTNAME, MARKETING_NAME]);
    log(&host, &mta.log().unwrap());
    mta.stop().unwrap();
    host.close();
}

/// What a log says of a delivery.
#[derive(Debug)]
struct Logged<'a> {
    to: &'a str,
    /// Process or local port.
    number: u64,
    destination: &'a str,
}

/// Each delivery that `parse` finds in the log has its connection: the same number in `field`, the same receiver.
fn assert_joined<'a>(host: &Host, log: &'a str, field: &str, parse: impl Fn(&'a str) -> Option<Logged<'a>>) {
    let logged: Vec<Logged<'_>> = log.lines().filter_map(parse).collect();
    assert!(!logged.is_empty(), "{log}");
    let found = poll::until_true(Duration::from_secs(20), "the records", || {
        let rows = host.agent.json_lines(&["connections", "-n", "1000"]).unwrap();
        logged.iter().all(|one| {
            let stream = if one.to.starts_with("user1-") { "marketing" } else { "other" };
            rows.iter().any(|row| {
                row[field] == one.number && row["destination"] == one.destination && row["stream"] == stream
            })
        })
    });
    found.map_err(|e| e.context(format!("{logged:#?}"))).unwrap();
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

#[test]
fn postfix_by_sender() {
    by_tags::<Postfix>([SUBMIT; 2], |host, log| {
        assert_joined(host, log, "pid", |line| {
            // Another process may have made a connection that is used again.
            let own = line.contains("status=sent") && !line.contains("conn_use=");
            let number = between(line, "/smtp[", "]").filter(|_| own)?.parse().ok()?;
            let destination = between(line.split_once("relay=")?.1, "[", "]")?;
            Some(Logged { to: between(line, "to=<", ">")?, number, destination })
        });
    });
}

#[test]
fn exim_by_sender() {
    by_tags::<Exim>([SUBMIT; 2], |host, log| {
        assert_joined(host, log, "local_port", |line| {
            let number = between(line.split_once(" I=[")?.1, "]:", " ")?.parse().ok()?;
            let destination = between(line.split_once(" H=")?.1, "[", "]")?;
            Some(Logged { to: between(line, " => ", " ")?, number, destination })
        });
    });
}

#[test]
fn opensmtpd_by_sender() {
    by_tags::<OpenSmtpd>([SUBMIT; 2], |_, log| {
        let [tag4, tag6] = TAGS;
        for source in [tag4, &format!("[{tag6}]")] {
            assert!(log.contains(&format!("source=\"{source}\"")), "{log}");
        }
    });
}

#[test]
fn sendmail_by_daemon() {
    by_tags::<Sendmail>([SUBMIT, SECOND], |_, log| {
        assert!(log.contains("relay=mx.inbox4.example. [203.0.113.1], dsn=2.0.0, stat=Sent"), "{log}");
    });
}

#[test]
fn by_destination() {
    let host = Host::new("destination.toml");
    let postfix = Postfix::start(&host.lab, &Settings::default()).unwrap();
    deliver(&postfix, &host, [SUBMIT; 2], |stream, n| {
        let (inbox, _) = inboxes()[2 * stream + n % 2];
        format!("user{stream}-{n}@{inbox}").into()
    });
    host.assert_delivered([HOSTNAME; 2]);
    postfix.stop().unwrap();
    host.close();
}

/// The cgroups of the units of both Postfix instances, as systemd names them.
const OTHER: &str = "system.slice/system-postfix.slice/postfix@-.service";
const MARKETING: &str = "system.slice/system-postfix.slice/postfix@postfix-marketing.service";

#[test]
fn two_postfix_instances_by_cgroup() {
    let host = Host::new("instances.toml");
    let postfix = Postfix::start(&host.lab, &Settings::default()).unwrap();
    postfix.tool(&["postfix", "stop"]).unwrap();
    for line in recipes::config("second-instance.sh").unwrap().lines() {
        postfix.tool(&["sh", "-ec", line]).unwrap();
        // Who types them is slower: Postfix waits until a main.cf that was just written is a second old.
        postfix.tool(&["sh", "-c", "touch -d '1 minute ago' /etc/postfix*/main.cf"]).unwrap();
    }
    for (cgroup, name) in [(OTHER, "-"), (MARKETING, "postfix-marketing")] {
        // As the unit does.
        postfix.tool(&["/usr/lib/postfix/configure-instance.sh", name]).unwrap();
        let start = ["postmulti", "-i", name, "-p", "start"];
        let said = postfix.instance().command_in(cgroup, &start).unwrap().output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    for at in [SUBMIT, SECOND] {
        postfix.instance().wait_ready_at(at, Duration::from_secs(20)).unwrap();
    }
    deliver(&postfix, &host, [SUBMIT, SECOND], by_sender);
    host.assert_delivered([HOSTNAME, MARKETING_NAME]);
    // With several instances it stops them all.
    postfix.stop().unwrap();
    host.close();
}
