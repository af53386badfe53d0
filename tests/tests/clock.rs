//! A clock that is set by a day, while the agent runs and while none does: steering does not move, what was said for a
//! time lasts as long as it was meant to, and the cause is said.
//!
//! Debian's libfaketime stands between the agent and the time of day; the clocks that nobody can set stay as they are.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use mailsteer_tests::load::Load;
use mailsteer_tests::scene::{self, LONE, MAIL, offences};
use mailsteer_tests::time::Time;
use mailsteer_tests::topology::{Options, receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Receiver, poll};
use serde_json::Value;

/// A jump is seen with the next turn of the agent's loop, and told in seconds.
const SEEN: Duration = Duration::from_secs(20);
const DAY: f64 = 86_400.0;

struct Place {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
    time: Time,
}

impl Place {
    fn new() -> Self {
        let lab = Lab::new(Options::default()).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let mut agent = Agent::prepare(&lab, Some(scene::CONFIG)).unwrap();
        let time = Time::give(&lab, &mut agent).unwrap();
        agent.restart().unwrap();
        Self { lab, receiver, agent, time }
    }

    fn say(&self, words: &[&str]) {
        let answer = self.agent.cli(words).unwrap();
        assert!(answer.status.success(), "{words:?}: {answer:?}");
    }

    /// What an operator can say for a time, in three lengths.
    fn say_all(&self) {
        self.say(&["suspend", "main-1", "--for", "1h", "--reason", "a trial"]);
        self.say(&["bypass", "lone", "--for", "30m", "--reason", "a trial"]);
        self.say(&["hold", "--for", "2h", "--reason", "a trial"]);
    }

    /// All of it holds, and for no longer than it was said.
    #[track_caller]
    fn still_said(&self, when: &str) {
        let status = self.agent.json(&["status"]).unwrap();
        for (what, minutes) in [("/suspended/0", 60.0), ("/bypasses/0", 30.0), ("/hold", 120.0)] {
            let until = status.pointer(&format!("{what}/until"));
            let until = until.unwrap_or_else(|| panic!("{when}: no {what}: {status:#}"));
            let left = (seconds(until) - seconds(&status["time"])) / 60.0;
            assert!(left > minutes - 3.0 && left <= minutes, "{when}: {what} has {left} minutes left");
        }
    }

    /// The last jumps that were told, in words.
    fn jumps(&self) -> Vec<String> {
        let events = self.agent.json_lines(&["events", "-n", "1000"]).unwrap();
        let jumped = events.iter().filter(|event| event["kind"] == "clock-jumped");
        jumped.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Sets it and waits until that is told.
    fn set(&self, offset: &str, told: &str) {
        let before = self.jumps().len();
        self.time.is(offset).unwrap();
        poll::until_true(SEEN, "the jump to be told", || self.jumps().len() > before)
            .unwrap_or_else(|error| panic!("{error}: {}", self.agent.log().unwrap()));
        let jumps = self.jumps();
        assert_eq!(jumps.len(), before + 1, "told once: {jumps:?}");
        assert!(jumps[before].starts_with(&format!("the clock was set {told}: ")), "{jumps:?}");
    }

    fn load(&self, rate: u32, count: u64) -> Load {
        let to = (1..=5).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect();
        let cgroup = Some(self.lab.cgroup().unwrap().to_owned());
        Load { rate, count, uid: MAIL, gid: MAIL, to, cgroup, ..Load::default() }
    }

    fn capture(&self) -> Capture {
        Capture::start(&self.lab.world, &uplinks().map(|uplink| uplink.far), 25).unwrap()
    }

    fn close(self) {
        let Self { lab, receiver, agent, time: _ } = self;
        drop((agent, receiver));
        lab.close().unwrap();
    }
}

fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_millisecond() as f64 / 1000.0
}

/// Processor time that a process has used so far.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime are the 14th and 15th field; the name before may hold blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].map(|n| fields[n].parse::<u64>().unwrap()).iter().sum();
    // USER_HZ is 100 on every architecture that mailsteer runs on.
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_clock_that_is_set_while_the_agent_runs_moves_nothing() {
    let place = Place::new();
    place.say_all();
    let (capture, load) = (place.capture(), place.load(100, 0).start(&place.lab.mail).unwrap());
    let jumps = [("+1d", "ahead by 24h"), ("-1d", "back by 48h"), ("+0d", "ahead by 24h")];
    for (offset, told) in jumps {
        place.set(offset, told);
        place.still_said(told);
        // Rows are by the clock as it is now.
        let received = place.receiver.count();
        poll::until_true(SEEN, "more mail", || place.receiver.count() > received + 50).unwrap();
        let fresh = || {
            let rows = place.agent.json_lines(&["connections", "-n", "1"]).unwrap();
            let now = &place.agent.json(&["status"]).unwrap()["time"];
            rows.last().is_some_and(|row| (seconds(now) - seconds(&row["time"])).abs() < 60.0)
        };
        poll::until_true(SEEN, "a row by the new clock", fresh).unwrap();
    }
    let report = load.stop().unwrap();
    assert_eq!(report.ok, report.attempts, "{report:?}");
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), Vec::<String>::new());
    let totals = || place.agent.json(&["status"]).unwrap()["totals"].clone();
    poll::until_true(SEEN, "every connection to be counted", || totals()["established"] == report.ok)
        .unwrap();
    assert_eq!((&totals()["wrong"], &totals()["refused"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(place.agent.json(&["status"]).unwrap()["faults"], serde_json::json!([]));
    place.close();
}

/// Neither a day early nor a day late, and the agent does not spin until then.
#[test]
fn what_was_said_for_a_time_ends_when_it_is_over() {
    let place = Place::new();
    for (offset, told) in [("-1d", "back by 24h"), ("+1d", "ahead by 48h")] {
        let began = Instant::now();
        place.say(&["bypass", "lone", "--for", "6s", "--reason", "a trial"]);
        place.set(offset, told);
        let bypassed = || place.agent.json(&["status"]).unwrap()["bypasses"] != serde_json::json!([]);
        assert!(bypassed() || began.elapsed() > Duration::from_secs(5), "ended early");
        poll::until_true(SEEN, "the bypass to end", || !bypassed()).unwrap();
        let took = began.elapsed();
        assert!((5.0..16.0).contains(&took.as_secs_f64()), "{told}: it ended after {took:?}");
        let lone = Load { uid: LONE, gid: LONE, to: vec![receiver4(1)], ..place.load(50, 10) };
        let capture = place.capture();
        assert_eq!(lone.run(&place.lab.mail).unwrap().ok, 10);
        assert_eq!(capture.stop().unwrap().others(&["192.0.2.15".parse().unwrap()]), Vec::<String>::new());
    }
    let (pid, began) = (place.agent.pid().unwrap(), Instant::now());
    let (before, watched) = (used(pid), Duration::from_secs(4));
    poll::until_true(watched * 2, "some time to pass", || began.elapsed() >= watched).unwrap();
    let busy = used(pid).saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(busy < 0.5, "{busy} of a processor with nothing to do");
    place.close();
}

/// The next agent of the same boot knows by how much, by the clocks that nobody sets.
#[test]
fn a_clock_that_is_set_between_two_agents_ends_nothing() {
    let mut place = Place::new();
    place.say_all();
    let (capture, load) = (place.capture(), place.load(50, 0).start(&place.lab.mail).unwrap());
    for (n, (offset, told)) in [("+1d", "ahead by 24h"), ("-1d", "back by 48h")].into_iter().enumerate() {
        place.agent.kill().unwrap();
        place.time.is(offset).unwrap();
        place.agent.restart().unwrap();
        place.still_said(told);
        let jumps = place.jumps();
        assert_eq!(jumps.len(), n + 1, "{jumps:?}");
        assert!(jumps[n].starts_with(&format!("the clock was set {told}: ")), "{jumps:?}");
    }
    let report = load.stop().unwrap();
    assert_eq!(report.ok, report.attempts, "{report:?}");
    assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    let now = place.agent.json(&["status"]).unwrap();
    assert!(seconds(&now["time"]) < seconds(&Value::from(jiff::Timestamp::now().to_string())) - DAY / 2.0);
    place.close();
}
