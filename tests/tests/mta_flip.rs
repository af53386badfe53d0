//! Real MTAs through a flip: under load a source is refused everywhere, loses its traffic, and no message is lost, none
//! comes twice, and what was put off is delivered from another address.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::mta::{Exim, HOSTNAME, Mta, Pace};
use mailsteer_tests::receiver::Connection;
use mailsteer_tests::topology::{receiver4, uplinks};
use mailsteer_tests::{Agent, Lab, Options, Postfix, Receiver, poll};

/// 480 messages at 40 a second last 12 seconds.
const PACE: Pace = Pace { count: 480, rate: 40, sessions: 8 };
/// Recipient domains, each with a receiver of its own.
const DOMAINS: usize = 12;
/// How long all may take, deferred ones included.
const PATIENCE: Duration = Duration::from_secs(60);

fn victim() -> IpAddr {
    uplinks()[0].source4(0)
}

fn domain(n: usize) -> String {
    format!("shop{}.example", n % DOMAINS)
}

fn config(uid: u32) -> String {
    format!(
        "mode = \"enforce\"\n[pool.main]\naddresses = \"192.0.2.11-192.0.2.14\"\n[stream.mail]\nuid = {uid}\npool = \"main\"\n"
    )
}

/// Everything of one trial.
struct Place<M> {
    lab: Lab,
    receiver: Receiver,
    dns: Dns,
    agent: Agent,
    mta: M,
}

impl<M: Mta> Place<M> {
    fn new() -> Self {
        let lab = Lab::new(Options { uplinks: 1, ipv6: false, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let senders = Records::default().mx("example.com", 10, HOSTNAME).unwrap();
        let records = (0..DOMAINS).fold(senders, |records, n| {
            records.domain(&domain(n), &[receiver4(u8::try_from(n + 1).unwrap())]).unwrap()
        });
        let dns = Dns::start(&lab.world, &records).unwrap();
        let agent = Agent::start(&lab, &config(M::UID)).unwrap();
        let mta = M::start(&lab, &[]).unwrap();
        Self { lab, receiver, dns, agent, mta }
    }

    fn state(&self) -> String {
        let rows = self.agent.json(&["sources"]).unwrap();
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["local"] == victim().to_string().as_str())
            .cloned();
        row.unwrap()["state"].as_str().unwrap().to_owned()
    }

    fn wait_messages(&self, count: usize) {
        let came = poll::until_true(PATIENCE, "messages", || self.receiver.messages() >= count);
        came.unwrap_or_else(|error| panic!("{error}: {} of {count} came", self.receiver.messages()));
    }

    fn close(self) {
        self.mta.stop().unwrap();
        drop((self.agent, self.dns));
        self.receiver.stop().unwrap();
        self.lab.close().unwrap();
    }
}

/// By message: from where it came, and when its connection began.
fn delivered(connections: &[Connection]) -> BTreeMap<usize, Vec<(IpAddr, Instant)>> {
    let mut delivered: BTreeMap<usize, Vec<(IpAddr, Instant)>> = BTreeMap::new();
    for connection in connections {
        for message in &connection.messages {
            let number = message.data.lines().find_map(|line| line.strip_prefix("X-Lab: ")).unwrap();
            delivered.entry(number.parse().unwrap()).or_default().push((connection.peer.ip(), connection.at));
        }
    }
    delivered
}

/// `retry` has the MTA try again what it put off; an administrator would wait. `put_off`: how many messages its log says were.
fn flips<M: Mta>(retry: impl Fn(&M), put_off: impl Fn(&M) -> usize) {
    let place = Place::<M>::new();
    let submitting = place.mta.instance().submit_at(PACE, |n| format!("user{n}@{}", domain(n))).unwrap();
    place.wait_messages(PACE.count / 4);
    assert!(place.receiver.by_peer().contains_key(&victim()), "it carries its share");
    place
        .lab
        .world
        .nft(&format!(
            "table inet fault {{ chain in {{ type filter hook input priority 0
                ip saddr {} tcp dport 25 tcp flags & (syn | ack) == syn reject with tcp reset
             }}
             }}",
            victim()
        ))
        .unwrap();
    poll::until_true(PATIENCE, "isolated", || place.state() == "isolated").unwrap();
    let isolated = Instant::now();
    submitting.finish().unwrap();
    let all = poll::until(PATIENCE, "every message", || {
        retry(&place.mta);
        Ok((place.receiver.messages() >= PACE.count && place.mta.queue()?.is_empty()).then_some(()))
    });
    all.unwrap_or_else(|error| {
        panic!("{error}: {} came, queued {:?}", place.receiver.messages(), place.mta.queue())
    });
    let delivered = delivered(&place.receiver.connections());
    assert!(delivered.keys().copied().eq(0..PACE.count), "{} messages came", delivered.len());
    let twice: Vec<_> = delivered.iter().filter(|(_, came)| came.len() > 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
    let late = delivered.values().flatten().filter(|(from, at)| *from == victim() && *at > isolated);
    assert_eq!(late.count(), 0, "connections from the isolated source");
    let deferred = put_off(&place.mta);
    println!("{}: {deferred} of {} messages put off, all delivered, none twice", M::NAME, PACE.count);
    assert!(deferred > 0, "the fault was felt");
    assert_eq!(place.agent.json(&["status"]).unwrap()["totals"]["wrong"], 0);
    place.close();
}

#[test]
fn postfix_with_its_connection_cache() {
    let put_off = |postfix: &Postfix| {
        let all = postfix.deliveries().unwrap();
        all.iter().filter(|delivery| delivery.status == "deferred").count()
    };
    flips::<Postfix>(|postfix| postfix.flush().unwrap(), put_off);
}

#[test]
fn exim() {
    let put_off = |exim: &Exim| exim.log().unwrap().lines().filter(|line| line.contains(" == ")).count();
    flips::<Exim>(|exim| drop(exim.instance().tool(&["exim4", "-qff"])), put_off);
}
