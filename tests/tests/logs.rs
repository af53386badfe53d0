//! What receivers said, out of the logs of real MTAs: joined to the source that the connection left from. The receiver ends each
//! answer with the address that it saw, so that the log itself says what is right.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::mta::{Exim, HOSTNAME, MAIL_LOG, MAIL_LOG_SECONDS, Mta, OpenSmtpd, Pace, Sendmail};
use mailsteer_tests::postfix::Settings;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Lab, Options, Postfix, Receiver, agent, poll};
use serde_json::Value;

const PACE: Pace = Pace { count: 110, rate: 100, sessions: 6 };
/// Of ten messages' first recipients: six are known, one is put off, two are nobody, one is refused for the sender's address.
const KINDS: [&str; 10] = ["a", "b", "unknown", "c", "d", "grey", "e", "unknown", "f", "block"];

/// To whom message `n` goes: three of one domain, and two of another.
fn recipients(n: usize) -> Vec<String> {
    let domains = domains();
    let [first, second] = [n, n + 7].map(|n| &domains[n % domains.len()].0);
    let kind = KINDS[n % KINDS.len()];
    let of_first = [kind, "g", "h"].map(|who| format!("{who}-{n}@{first}"));
    let of_second = ["i", "j"].map(|who| format!("{who}-{n}@{second}"));
    of_first.into_iter().chain(of_second).collect()
}

fn config(uid: u32) -> String {
    let sources: Vec<String> = (0..4)
        .flat_map(|n| [uplinks()[0].source4(n), uplinks()[0].source6(n)])
        .map(|source| format!("\"{source}\""))
        .collect();
    // Nothing may be isolated: every source is to be seen to the end.
    format!(
        "mode = \"enforce\"\n[safety]\nfailures = 20\n[fuse]\nattempts = 100000\n[pool.main]\naddresses = [{}]\n\
         [stream.mail]\nuid = {uid}\npool = \"main\"\n",
        sources.join(", ")
    )
}

fn domains() -> Vec<(String, IpAddr)> {
    let of =
        |n: u8| [(format!("v4-{n}.example"), receiver4(n)), (format!("v6-{n}.example"), receiver6(n.into()))];
    (1..=10).flat_map(of).collect()
}

/// What the command says of each delivery, and its sum.
fn read(lab: &Lab, agent: &Agent, mta: &str, log: &str) -> (Vec<Value>, Value) {
    let mut command = lab.mail.command(agent::binary().unwrap());
    lab.mail.as_its_root(&mut command);
    command.args(["report-outcome", "--log", mta, "--json", "--socket"]).arg(agent.socket());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = log.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let mut lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let sum = lines.pop().unwrap();
    (lines, sum)
}

/// A log of the run, and the share of its deliveries that have to be joined.
struct Log {
    /// How it is written.
    called: &'static str,
    /// Where, without the first slash.
    file: &'static str,
    least: f64,
}

/// What came of a log.
#[derive(Default, Debug)]
struct Joined {
    right: usize,
    unjoined: usize,
    wrong: Vec<Value>,
}

impl Joined {
    fn of(rows: &[Value], sources: &BTreeMap<String, IpAddr>) -> Self {
        let mut joined = Self::default();
        for row in rows {
            let reply = row["reply"].as_str().unwrap();
            let Some((_, seen)) = reply.split_once("seen from ") else { continue };
            let end = |c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':'));
            let seen: IpAddr = seen.split(end).next().unwrap().trim_end_matches(['.', ':']).parse().unwrap();
            match sources.get(row["source"].as_str().unwrap()) {
                None => joined.unjoined += 1,
                Some(local) if *local == seen => joined.right += 1,
                Some(_) => joined.wrong.push(row.clone()),
            }
        }
        joined
    }

    fn all(&self) -> usize {
        self.right + self.unjoined + self.wrong.len()
    }
}

/// Whom the agent calls what.
fn sources(agent: &Agent) -> BTreeMap<String, IpAddr> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let of = |row: &Value| (text(row, "name"), text(row, "local").parse().unwrap());
    agent.json(&["sources"]).unwrap().as_array().unwrap().iter().map(of).collect()
}

/// Half of the receivers speak TLS; those who do not are used again as the MTA likes.
fn joins<M: Mta>(start: impl Fn(&Lab) -> M, logs: &[Log]) {
    let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    receiver.script(Whom::All, Behaviour::Judge);
    for (_, at) in domains().into_iter().step_by(3) {
        receiver.script(Whom::To(at), Behaviour::JudgeOverTls);
    }
    let senders = Records::default().mx("example.com", 10, HOSTNAME).unwrap();
    let records = senders.host(HOSTNAME, uplinks()[0].source4(0)).unwrap();
    let records = domains().iter().fold(records, |all, (name, at)| all.domain(name, &[*at]).unwrap());
    let dns = Dns::start(&lab.world, &records).unwrap();
    let agent = Agent::start(&lab, &config(M::UID)).unwrap();
    let mta = start(&lab);
    mta.instance().submit_at(PACE, |n| recipients(n).join(" ")).unwrap().finish().unwrap();
    let named = M::NAME.to_lowercase();
    let wanted: usize = (0..PACE.count).map(|n| recipients(n).len()).sum();
    let sources = sources(&agent);
    for Log { called, file, least } in logs {
        let (mut rows, mut sum) = (vec![], Value::Null);
        let told = poll::until_true(Duration::from_secs(90), "the log", || {
            let before = rows.len();
            (rows, sum) = read(&lab, &agent, &named, &mta.instance().read(file).unwrap());
            let all = rows.len() >= wanted;
            // It waits to be told, or did not find a name in time and would try again in half an hour.
            if !all && rows.len() == before {
                mta.run_queue().unwrap();
            }
            all
        });
        let joined = Joined::of(&rows, &sources);
        let share = joined.right as f64 / joined.all() as f64;
        let connections: Vec<_> =
            receiver.connections().into_iter().filter(|one| !one.messages.is_empty()).collect();
        let again = connections.iter().filter(|one| one.messages.len() > 1).count();
        println!(
            "{}, {called}: {} of {} joined to the right source ({:.1} %), {} wrong; of {} connections {again} had several \
             messages; {sum}",
            M::NAME,
            joined.right,
            joined.all(),
            share * 100.0,
            joined.wrong.len(),
            connections.len(),
        );
        told.unwrap();
        assert!(joined.all() >= 500, "{joined:?}");
        assert!(joined.wrong.is_empty(), "{joined:?}");
        assert!(share >= *least, "{share}");
    }
    mta.stop().unwrap();
    drop((agent, dns));
    receiver.stop().unwrap();
    lab.close().unwrap();
}

/// By syslog, as Debian's package has it.
const BY_SYSLOG: [Log; 2] = [
    Log { called: "syslog to the microsecond", file: MAIL_LOG, least: 0.99 },
    Log { called: "syslog of whole seconds", file: MAIL_LOG_SECONDS, least: 0.0 },
];

#[test]
fn postfix() {
    let settings = Settings { by_syslog: true, ..Settings::default() };
    joins(|lab| Postfix::start(lab, &settings).unwrap(), &BY_SYSLOG);
}

const fn exim_log(called: &'static str, least: f64) -> [Log; 1] {
    [Log { called, file: "var/log/exim4/mainlog", least }]
}

/// Its log tells the port where it is told to.
#[test]
fn exim() {
    let log = exim_log("as docs/mta-recipes.md has it", 0.99);
    joins(|lab| Exim::start_by_recipe(lab).unwrap(), &log);
}

#[test]
fn exim_by_queue_runs() {
    let log = exim_log("as docs/mta-recipes.md has it, by queue runs", 0.99);
    joins(|lab| Exim::start_queueing(lab).unwrap(), &log);
}

#[test]
fn exim_as_it_comes() {
    joins(|lab| Exim::start(lab, &[]).unwrap(), &exim_log("as it comes", 0.0));
}

#[test]
fn opensmtpd() {
    joins(|lab| OpenSmtpd::start_with_syslog(lab).unwrap(), &BY_SYSLOG);
}

#[test]
fn sendmail() {
    joins(|lab| Sendmail::start_with_syslog(lab).unwrap(), &BY_SYSLOG);
}

#[test]
fn sendmail_by_queue_runs() {
    joins(|lab| Sendmail::start_queueing(lab).unwrap(), &BY_SYSLOG);
}
