//! The command line against a real agent on a real kernel: what an operator does in a week, and what is read in the
//! answers.
#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::net::IpAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use mailsteer_tests::agent::{Agent, binary};
use mailsteer_tests::lab::Lab;
use mailsteer_tests::poll;
use mailsteer_tests::receiver::Receiver;
use mailsteer_tests::topology::{Options, receiver4, uplinks};
use serde_json::Value;

/// One stream of each kind of match.
const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.12"]
[pool.other]
addresses = ["192.0.2.13"]
[stream.tagged]
tag = "198.18.0.2"
pool = "other"
[stream.marked]
mark = 17
uid = 1003
pool = "other"
[stream.grouped]
cgroup = "mta"
uid = 1004
pool = "other"
[stream.partner]
uid = 1005
destination = ["203.0.113.128/25"]
pool = "other"
[stream.few]
uid = 1006
pool = "main"
mode = { canary = 0.5 }
[stream.watched]
uid = 1007
pool = "main"
mode = "observe"
[stream.contained]
subnet = ["172.22.1.0/24"]
pool = "main"
[stream.mail]
uid = 1001
pool = "main"
"#;

fn one_uplink() -> Options {
    Options { uplinks: 1, ipv6: false, ..Options::default() }
}

/// What was said, and how it ended.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A command as an operator gives it on the mail host.
fn said(lab: &Lab, agent: &Agent, args: &[&str]) -> Said {
    let mut command = lab.mail_command(binary().unwrap()).unwrap();
    command.args(args).arg("--socket").arg(agent.socket()).stdin(Stdio::null());
    let said = Said::from(command.output().unwrap());
    eprintln!("$ mailsteer {}\n{}{}exit {:?}\n", args.join(" "), said.out, said.err, said.code);
    said
}

fn ok(lab: &Lab, agent: &Agent, args: &[&str]) -> String {
    let said = said(lab, agent, args);
    assert_eq!(said.code, Some(0), "{args:?}: {}{}", said.out, said.err);
    said.out
}

/// `try`, in JSON, and its exit status.
fn tried(lab: &Lab, agent: &Agent, stream: &str, to: &str) -> (Option<i32>, Value) {
    let said = said(lab, agent, &["try", "--stream", stream, to, "--json"]);
    let answer = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}", said.err));
    (said.code, answer)
}

fn real(tried: &Value) -> Option<IpAddr> {
    tried["connection"]["real_address"].as_str().map(|text| text.parse().unwrap())
}

#[test]
fn try_in_every_kind_of_stream() {
    let lab = Lab::new(one_uplink()).expect("a lab");
    let receiver = Receiver::start(&lab.world, 25).expect("a receiver");
    std::fs::create_dir(lab.cgroup().unwrap().join("mta")).unwrap();
    let agent = Agent::start(&lab, CONFIG).expect("an agent");
    let uplink = &uplinks()[0];
    let to = receiver4(1).to_string();
    let other = uplink.source4(2);
    for (stream, sources) in [
        ("mail", vec![uplink.source4(0), uplink.source4(1)]),
        ("tagged", vec![other]),
        ("marked", vec![other]),
        ("grouped", vec![other]),
        ("watched", vec![uplink.own4.into()]),
        ("few", vec![uplink.own4.into(), uplink.source4(0), uplink.source4(1)]),
    ] {
        let (code, answer) = tried(&lab, &agent, stream, &to);
        assert_eq!(code, Some(0), "{stream}: {answer:#}");
        assert_eq!(answer["as_wanted"], true, "{answer:#}");
        assert!(sources.contains(&real(&answer).unwrap()), "{stream}: {answer:#}");
        assert!(answer["probe"]["banner"].as_str().unwrap().starts_with("220 "), "{answer:#}");
        assert!(receiver.by_peer().contains_key(&real(&answer).unwrap()), "the receiver saw it too");
    }
    let (code, answer) = tried(&lab, &agent, "partner", &receiver4(200).to_string());
    assert_eq!((code, real(&answer)), (Some(0), Some(other)), "{answer:#}");
    let shown = ok(&lab, &agent, &["try", "--stream", "mail", &to]);
    assert!(shown.starts_with("left from 192.0.2.1"), "{shown}");
    refusals(&lab, &agent, &to);
    // All of its sources out of service: a refusal is then what is wanted.
    ok(&lab, &agent, &["suspend", "other-1", "--reason", "x"]);
    let (code, answer) = tried(&lab, &agent, "grouped", &to);
    assert_eq!((code, real(&answer)), (Some(0), None), "{answer:#}");
    assert_eq!(answer["result"], "refused at once, as wanted", "{answer:#}");
    assert_eq!(said(&lab, &agent, &["status"]).code, Some(2), "mail is refused");
    drop(agent);
    receiver.stop().unwrap();
    lab.close().expect("nothing left behind");
}

/// What cannot be tried is said, and nothing is connected.
fn refusals(lab: &Lab, agent: &Agent, to: &str) {
    for (stream, words) in [
        ("partner", "stream `partner` does not take a connection to 203.0.113.1: 203.0.113.1 is not in"),
        ("contained", "stream `contained` takes forwarded traffic only (from 172.22.1.0/24)"),
        ("nope", "there is no stream `nope`; there are: tagged, marked"),
    ] {
        let said = said(lab, agent, &["try", "--stream", stream, to]);
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(words), "{}", said.err);
    }
    let said = said(lab, agent, &["try", "--stream", "mail", &format!("{to}:2525")]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.starts_with("left alone, as wanted: port 2525 is not steered"), "{}", said.out);
}

#[test]
fn an_operators_week() {
    let lab = Lab::new(one_uplink()).expect("a lab");
    let receiver = Receiver::start(&lab.world, 25).expect("a receiver");
    let agent = Agent::start(&lab, CONFIG).expect("an agent");
    let settled = || agent.json(&["status"]).is_ok_and(|s| s["headline"]["level"] == "ok");
    poll::until_true(Duration::from_secs(10), "all to be well", settled).unwrap();
    let status = ok(&lab, &agent, &["status"]);
    assert!(status.starts_with("every message leaves where it should"), "{status}");
    assert_eq!(ok(&lab, &agent, &["plan"]), "nothing to do: everything is as it should be\n");
    words(&lab, &agent);
    files(&lab, &agent);
    bad_reload(&lab, &agent);
    let events = ok(&lab, &agent, &["events", "-n", "100"]);
    for kind in ["suspended", "resumed", "bypass-started", "bypass-ended", "config-refused", "flipped"] {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    assert!(!events.contains('{'), "evidence is for those who ask: {events}");
    let unasked = said(&lab, &agent, &["teardown"]);
    assert_eq!(unasked.code, Some(1));
    assert!(unasked.err.contains("nothing was removed"), "{}", unasked.err);
    let removed = ok(&lab, &agent, &["teardown", "--yes"]);
    assert!(removed.ends_with("nothing of mailsteer is left; mail leaves unsteered\n"), "{removed}");
    // The answer comes before the agent's end.
    let gone = || {
        let gone = said(&lab, &agent, &["status"]);
        assert_eq!(gone.code, Some(2), "an agent that is gone vouches for nothing");
        gone.err.contains("no agent answers")
    };
    poll::until_true(Duration::from_secs(10), "the agent to end", gone).unwrap();
    json_log(&lab, &agent);
    drop(agent);
    receiver.stop().unwrap();
    lab.close().expect("nothing left behind");
}

/// suspend, resume, bypass: each is in effect when the answer comes.
fn words(lab: &Lab, agent: &Agent) {
    let to = receiver4(1).to_string();
    let left = |args: &[&str]| ok(lab, agent, &[&["explain", "--uid", "1001", &to], args].concat());
    assert!(left(&[]).contains("leaves from one of 2 sources"));
    ok(lab, agent, &["suspend", "main-1", "--for", "1h", "--reason", "a listing"]);
    assert!(left(&[]).contains("leaves from 192.0.2.12 (main-2)"));
    let status = ok(lab, agent, &["status"]);
    assert!(status.contains("1 source suspended)") && status.contains(": a listing"), "{status}");
    let (code, answer) = tried(lab, agent, "mail", &to);
    assert_eq!((code, real(&answer)), (Some(0), Some("192.0.2.12".parse().unwrap())), "{answer:#}");
    ok(lab, agent, &["resume", "192.0.2.11", "--reason", "delisted"]);
    assert!(left(&[]).contains("leaves from one of 2 sources"));
    ok(lab, agent, &["bypass", "mail", "--for", "10m", "--reason", "a test"]);
    assert!(left(&[]).contains("left alone: stream mail is bypassed"));
    assert_eq!(said(lab, agent, &["status"]).code, Some(1), "a bypass wants a look");
    let (code, answer) = tried(lab, agent, "mail", &to);
    assert_eq!((code, real(&answer)), (Some(0), Some(uplinks()[0].own4.into())), "{answer:#}");
    ok(lab, agent, &["bypass", "mail", "--end", "--reason", "done"]);
    for (args, words) in
        [(["suspend", "nope", "--reason", "x"], "nope"), (["resume", "main-1", "--reason", "x"], "main-1")]
    {
        let said = said(lab, agent, &args);
        assert!(said.code == Some(1) && said.err.contains(words), "{}", said.err);
    }
}

/// What a file would do, without asking the agent.
fn files(lab: &Lab, agent: &Agent) {
    let file = agent.config().display().to_string();
    let no_agent = |args: &[&str]| {
        let mut command = lab.mail_command(binary().unwrap()).unwrap();
        let said = Said::from(command.args(args).args(["--socket", "/nonexistent"]).output().unwrap());
        assert_eq!(said.code, Some(0), "{args:?}: {}{}", said.out, said.err);
        eprintln!("$ mailsteer {}\n{}", args.join(" "), said.out);
        said.out
    };
    assert!(no_agent(&["check", &file]).contains("good"));
    let explained = no_agent(&["explain", "--uid", "1001", "203.0.113.1", "--config", &file]);
    assert!(explained.contains("leaves from one of 2 sources"), "{explained}");
    assert!(no_agent(&["plan", "--config", &file]).starts_with("  1. "));
}

/// A bad config changes nothing, is said at once and by `status`, and a good one ends it.
fn bad_reload(lab: &Lab, agent: &Agent) {
    std::fs::write(agent.config(), CONFIG.replace("pool = \"main\"", "pool = \"mian\"")).unwrap();
    let refused = said(lab, agent, &["reload"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("mian") && refused.err.contains("mailsteer check"), "{}", refused.err);
    let status = said(lab, agent, &["status"]);
    assert_eq!(status.code, Some(1));
    assert!(
        status.out.starts_with("the config on disk is bad; the one before it is in force"),
        "{}",
        status.out
    );
    std::fs::write(agent.config(), CONFIG).unwrap();
    let unchanged = ok(lab, agent, &["reload"]);
    assert!(unchanged.contains("nothing in it changed"), "{unchanged}");
    ok(lab, agent, &["status"]);
}

/// `--log-format json`: every line is an object with the time, the level and the words.
fn json_log(lab: &Lab, agent: &Agent) {
    let socket = lab.dir().join("json.sock");
    let mut command = lab.mail_command(binary().unwrap()).unwrap();
    command.arg("agent").arg("--config").arg(agent.config()).arg("--socket").arg(&socket);
    command.arg("--bpffs").arg(lab.bpffs()).arg("--cgroup").arg(lab.cgroup().unwrap());
    command.arg("--state").arg(lab.dir().join("json")).args(["--log-format", "json"]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let answers = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    poll::until_true(Duration::from_secs(20), "the agent to answer", answers).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let log = Said::from(child.wait_with_output().unwrap());
    assert_eq!((log.code, log.out.as_str()), (Some(0), ""), "{}", log.err);
    let lines: Vec<Value> = log.err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|l| l["level"] == "INFO" && l["fields"]["message"].is_string()), "{lines:?}");
    assert!(lines.iter().all(|l| l["timestamp"].is_string()), "{lines:?}");
    assert!(!socket.exists(), "the socket goes with its agent");
}
