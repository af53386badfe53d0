//! What receivers said, out of the logs of real MTAs: joined to the source that the connection left from. The receiver ends each
//! answer with the address that it saw, so that the log itself says what is right.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::mta::{Exim, HOSTNAME, Mta, Pace};
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Lab, Options, Postfix, Receiver, agent, poll};
use serde_json::Value;

const PACE: Pace = Pace { count: 500, rate: 60, sessions: 6 };
/// Of ten messages: six are taken, one is put off, two go to nobody, one is refused for its address.
const KINDS: [&str; 10] = ["a", "b", "unknown", "c", "d", "grey", "e", "unknown", "f", "block"];

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

/// The test; the share of deliveries that have to be joined, and whether a wrong one would show.
fn joins<M: Mta>(start: impl Fn(&Lab) -> M, least: f64) {
    let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    receiver.script(Whom::All, Behaviour::Judge);
    let senders = Records::default().mx("example.com", 10, HOSTNAME).unwrap();
    let records = senders.host(HOSTNAME, uplinks()[0].source4(0)).unwrap();
    let records = domains().iter().fold(records, |all, (name, at)| all.domain(name, &[*at]).unwrap());
    let dns = Dns::start(&lab.world, &records).unwrap();
    let agent = Agent::start(&lab, &config(M::UID)).unwrap();
    let mta = start(&lab);
    let to = |n: usize| format!("{}-{n}@{}", KINDS[n % KINDS.len()], domains()[n / 2 % 20].0);
    mta.instance().submit_at(PACE, to).unwrap().finish().unwrap();
    let named = M::NAME.to_lowercase();
    let taken = PACE.count * 6 / 10;
    poll::until_true(Duration::from_secs(60), "all messages", || receiver.messages() >= taken).unwrap();
    // Every message was tried once at least.
    let log = poll::until(Duration::from_secs(30), "the log", || {
        let log = mta.log()?;
        let tried = (0..PACE.count).filter(|n| log.contains(&format!("-{n}@"))).count();
        Ok((tried == PACE.count).then_some(log))
    })
    .unwrap();
    let (rows, sum) = read(&lab, &agent, &named, &log);

    let names: BTreeMap<String, String> = agent
        .json(&["sources"])
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap().to_owned(), row["local"].as_str().unwrap().to_owned()))
        .collect();
    let (mut right, mut unjoined, mut wrong) = (0, 0, vec![]);
    let from_receiver = rows.iter().filter(|row| row["reply"].as_str().unwrap().contains("seen from "));
    for row in from_receiver {
        let (reply, source) = (row["reply"].as_str().unwrap(), row["source"].as_str().unwrap());
        let seen = reply.split("seen from ").nth(1).unwrap();
        let seen: IpAddr = seen
            .split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':')))
            .next()
            .unwrap()
            .parse()
            .unwrap();
        match names.get(source) {
            None => unjoined += 1,
            Some(local) if local.parse::<IpAddr>().unwrap() == seen => right += 1,
            Some(_) => wrong.push(row.clone()),
        }
    }
    let all = right + unjoined + wrong.len();
    let share = right as f64 / all as f64;
    println!(
        "{}: {right} of {all} joined to the right source ({:.1} %), {} wrong; {sum}",
        M::NAME,
        share * 100.0,
        wrong.len()
    );
    assert!(all >= PACE.count, "{all} deliveries in the log");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(share >= least, "{share}");
    mta.stop().unwrap();
    drop((agent, dns));
    receiver.stop().unwrap();
    lab.close().unwrap();
}

/// Its log has whole seconds where it writes the file itself, and what falls into one is not guessed.
#[test]
fn postfix() {
    joins(|lab| <Postfix as Mta>::start(lab, &[]).unwrap(), 0.3);
}

/// As docs/mta-recipes.md has it: its log tells the port.
#[test]
fn exim() {
    joins(|lab| Exim::start_by_recipe(lab).unwrap(), 0.99);
}
