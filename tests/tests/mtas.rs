//! Real, unmodified MTAs, each put to the same test: two streams into two pools of both families, under load, while
//! strangers flush the table and the agent is killed and started again.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::capture::WireReport;
use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::mta::{Exim, HOSTNAME, MARKETING_NAME, Mta, OpenSmtpd, Pace, Sendmail, TAGS};
use mailsteer_tests::receiver::Connection;
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Postfix, Receiver, poll, strangers};

/// 480 messages at 40 a second last 12 seconds.
const PACE: Pace = Pace { count: 480, rate: 40, sessions: 8 };
/// Flushes, and as many restarts of the agent.
const ROUNDS: usize = 3;
/// Recipient domains of marketing, by family.
const NEWS: u8 = 6;

/// The last byte of the first receiver of transactional mail.
const SHOP: u8 = 100;

/// A recipient domain with the one receiver that it has.
struct Domain {
    name: String,
    receiver: IpAddr,
    marketing: bool,
}

impl Domain {
    /// So many domains of each family for transactional mail; several for marketing, whose pool is sticky.
    fn all(shops: u8) -> Vec<Self> {
        let domain =
            |name: &str, receiver, marketing| Self { name: format!("{name}.example"), receiver, marketing };
        let shops = (0..shops).flat_map(|n| {
            [
                domain(&format!("shop{n}v4"), receiver4(SHOP + n), false),
                domain(&format!("shop{n}v6"), receiver6(u16::from(SHOP + n)), false),
            ]
        });
        let news = (1..=NEWS).flat_map(|n| {
            [
                domain(&format!("news{n}v4"), receiver4(10 + n), true),
                domain(&format!("news{n}v6"), receiver6(u16::from(10 + n)), true),
            ]
        });
        shops.chain(news).collect()
    }

    /// Message `n` goes to both streams by turns, and within a stream to all of its domains by turns.
    fn of(domains: &[Self], n: usize) -> &Self {
        let stream: Vec<&Self> = domains.iter().filter(|d| d.marketing == (n % 2 == 1)).collect();
        stream[n / 2 % stream.len()]
    }

    /// The sources that its mail may leave from: the first two of each family, or the next two.
    fn pool(&self) -> [IpAddr; 2] {
        let (uplink, first) = (&uplinks()[0], if self.marketing { 2 } else { 0 });
        [first, first + 1]
            .map(|n| if self.receiver.is_ipv6() { uplink.source6(n) } else { uplink.source4(n) })
    }
}

/// Transactional mail, three of four by the first source of each family; marketing, always by the same source to the
/// same receiver.
fn config(uid: u32, marketing: &str) -> String {
    format!(
        r#"
mode = "enforce"
[nft]
own_table = "never"
[pool.transactional]
addresses = ["192.0.2.11", "192.0.2.12", "2001:db8:a::11", "2001:db8:a::12"]
weights = {{ "transactional-1" = 3, "transactional-3" = 3 }}
[pool.marketing]
addresses = ["192.0.2.13", "192.0.2.14", "2001:db8:a::13", "2001:db8:a::14"]
balance = "sticky"
[stream.marketing]
{marketing}
pool = "marketing"
[stream.transactional]
uid = {uid}
pool = "transactional"
"#
    )
}

/// Marketing is told by the private addresses that the MTA's transport for it binds.
fn by_tag() -> String {
    format!("tag = {TAGS:?}")
}

#[test]
fn postfix() {
    steers::<Postfix>(&by_tag(), 1);
}

#[test]
fn exim() {
    steers::<Exim>(&by_tag(), 1);
}

#[test]
fn opensmtpd() {
    // It sends all that goes to one receiver over one connection: weights show over many receivers only.
    steers::<OpenSmtpd>(&by_tag(), 60);
}

#[test]
fn sendmail() {
    steers::<Sendmail>(&by_tag(), 1);
}

/// The test. `marketing` is how the agent tells that stream, `shops` how many receivers of each family the other has.
fn steers<M: Mta>(marketing: &str, shops: u8) {
    let domains = Domain::all(shops);
    let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let records = records(&domains);
    let dns = Dns::start(&lab.world, &records).unwrap();
    let mut agent = Agent::start(&lab, &config(M::UID, marketing)).unwrap();
    let news: Vec<&str> = domains.iter().filter(|d| d.marketing).map(|d| d.name.as_str()).collect();
    let mta = M::start(&lab, &news).unwrap();
    let capture = Capture::start(&lab.world, &["wa"], 25).unwrap();
    let all = Domain::all(shops);
    let to = move |n: usize| format!("user{n}@{}", Domain::of(&all, n).name);
    let submitting = mta.instance().submit_at(PACE, to).unwrap();
    let log = |e: anyhow::Error| e.context(last_lines(&mta.log().unwrap_or_default()));
    disturb(&lab, &mut agent, &receiver).map_err(log).unwrap();
    submitting.finish().unwrap();
    wait_delivered(&mta, &receiver).map_err(log).unwrap();
    let (wire, connections) = (capture.stop().unwrap(), receiver.connections());
    assert_once(&domains, &connections);
    assert_wire(&domains, &wire);
    assert_counted(&agent, connections.len());
    assert_weights(&connections);
    assert_sticky(&connections);
    show_names::<M>(&connections, &records);
    mta.stop().unwrap();
    drop((agent, dns));
    receiver.stop().unwrap();
    lab.close().unwrap();
}

/// One name for each pool, with A, AAAA and PTR of all its addresses; an MTA that has one name only goes by the first.
/// And the senders' domain: sendmail takes none that does not exist.
fn records(domains: &[Domain]) -> Records {
    let names = [(HOSTNAME, false), (MARKETING_NAME, true)];
    let hosts = names.into_iter().flat_map(|(name, marketing)| {
        let pools = domains.iter().filter(move |d| d.marketing == marketing).flat_map(Domain::pool);
        pools.collect::<BTreeSet<_>>().into_iter().map(move |source| (name, source))
    });
    let senders = Records::default().mx("example.com", 10, HOSTNAME).unwrap();
    let records = hosts.fold(senders, |records, (name, source)| records.host(name, source).unwrap());
    domains.iter().fold(records, |records, d| records.domain(&d.name, &[d.receiver]).unwrap())
}

/// By turns a flush and a restart, spread over the whole run by how many messages are through.
fn disturb(lab: &Lab, agent: &mut Agent, receiver: &Receiver) -> anyhow::Result<()> {
    for round in 0..ROUNDS {
        let due = |quarter: usize| PACE.count * (4 * round + quarter) / (4 * ROUNDS);
        wait_messages(receiver, due(1))?;
        strangers::flush(&lab.mail)?;
        // The flush bit: this agent, which counts from its own start, had a table to repair.
        poll::until(Duration::from_secs(5), "a repair", || {
            Ok(agent.json(&["status"])?["table_repairs"].as_u64().filter(|&repairs| repairs > 0))
        })?;
        wait_messages(receiver, due(3))?;
        agent.restart()?;
    }
    Ok(())
}

fn wait_messages(receiver: &Receiver, count: usize) -> anyhow::Result<()> {
    let came = |e: anyhow::Error| e.context(format!("{} came", receiver.messages()));
    poll::until_true(Duration::from_secs(30), &format!("message {count}"), || receiver.messages() >= count)
        .map_err(came)
}

/// The end of a log: where a test fails, the reason is told there.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Nothing is lost, and nothing was put off: a deferred message would wait in the queue for minutes.
fn wait_delivered(mta: &impl Mta, receiver: &Receiver) -> anyhow::Result<()> {
    wait_messages(receiver, PACE.count)?;
    let empty =
        poll::until(Duration::from_secs(10), "an empty queue", || Ok(mta.queue()?.is_empty().then_some(())));
    empty.map_err(|e| e.context(format!("queued: {:?}", mta.queue())))
}

/// Every message came once, to its receiver, and from its own pool.
fn assert_once(domains: &[Domain], connections: &[Connection]) {
    let mut came: BTreeMap<usize, Vec<IpAddr>> = BTreeMap::new();
    for connection in connections {
        for message in &connection.messages {
            let n =
                message.data.lines().find_map(|line| line.strip_prefix("X-Lab: ")).unwrap().parse().unwrap();
            let domain = Domain::of(domains, n);
            assert_eq!(message.to, [format!("user{n}@{}", domain.name)]);
            assert_eq!(connection.to, domain.receiver, "message {n}");
            assert!(
                domain.pool().contains(&connection.peer.ip()),
                "message {n} came from {}",
                connection.peer
            );
            came.entry(n).or_default().push(connection.peer.ip());
        }
    }
    assert!(came.keys().copied().eq(0..PACE.count), "{} of {} messages came", came.len(), PACE.count);
    let twice: Vec<_> = came.iter().filter(|(_, peers)| peers.len() > 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
}

/// Nothing on the wire to any receiver that was not from its pool.
fn assert_wire(domains: &[Domain], wire: &WireReport) {
    assert_eq!(wire.lost, 0);
    for domain in domains {
        let offenders = wire.others_to(&[domain.receiver], &domain.pool());
        assert!(offenders.is_empty(), "{}: {offenders:?}", domain.name);
    }
}

/// The agent counted what the receivers saw: no more, no less, none wrong.
fn assert_counted(agent: &Agent, connections: usize) {
    let totals = poll::until(Duration::from_secs(10), "every connection to be counted", || {
        let totals = agent.json(&["status"])?["totals"].take();
        Ok((totals["established"].as_u64() >= Some(connections as u64)).then_some(totals))
    })
    .unwrap();
    assert_eq!(totals["attempts"], connections, "{totals}");
    assert_eq!(totals["established"], connections, "{totals}");
    assert_eq!((&totals["wrong"], &totals["refused"]), (&0.into(), &0.into()), "{totals}");
}

/// Three of four transactional connections, give or take what each restart and repair begins anew.
fn assert_weights(connections: &[Connection]) {
    let uplink = &uplinks()[0];
    for [first, second] in [[uplink.source4(0), uplink.source4(1)], [uplink.source6(0), uplink.source6(1)]] {
        let of = |source| connections.iter().filter(|c| c.peer.ip() == source).count();
        let (first, second) = (of(first), of(second));
        let share = first as f64 / (first + second) as f64;
        assert!(first + second >= 40, "{first} and {second} connections tell nothing of weights");
        assert!((0.65..0.85).contains(&share), "{first} and {second} connections: {share:.2}, not 0.75");
    }
}

/// A receiver of marketing sees one source, whatever was flushed and restarted; not all see the same.
fn assert_sticky(connections: &[Connection]) {
    let mut sources: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for connection in connections {
        sources.entry(connection.to).or_default().insert(connection.peer.ip());
    }
    let news: Vec<IpAddr> =
        (1..=NEWS).flat_map(|n| [receiver4(10 + n), receiver6(u16::from(10 + n))]).collect();
    sources.retain(|receiver, _| news.contains(receiver));
    assert_eq!(sources.len(), 2 * usize::from(NEWS));
    assert!(sources.values().all(|of| of.len() == 1), "{sources:?}");
    let used: BTreeSet<_> = sources.into_values().flatten().collect();
    assert_eq!(used.len(), 4, "{used:?}");
}

/// What each connection called itself beside the name of the address that it came from: translation cannot change
/// the first, so a table shows how they fit.
fn show_names<M: Mta>(connections: &[Connection], records: &Records) {
    let mut table = format!("\n{:<10} {:<18} {:<16} {:<18} fits\n", "MTA", "source", "EHLO", "PTR");
    let rows: BTreeSet<_> = connections.iter().map(|c| (c.peer.ip(), c.ehlo.clone().unwrap())).collect();
    for (source, ehlo) in &rows {
        let name = records.reverse(*source).unwrap();
        let fits = if name == *ehlo { "yes" } else { "no" };
        table += &format!("{:<10} {:<18} {ehlo:<16} {name:<18} {fits}\n", M::NAME, source.to_string());
    }
    // Not by `print!`, which a test that passes keeps to itself.
    std::io::stdout().write_all(table.as_bytes()).unwrap();
    assert_eq!(rows.len(), 8, "{table}");
    let said = |(source, ehlo): &(IpAddr, String)| {
        let marketing = records.reverse(*source).unwrap() == MARKETING_NAME;
        *ehlo == M::EHLO[usize::from(marketing)]
    };
    assert!(rows.iter().all(said), "{table}");
}
