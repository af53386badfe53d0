//! A fake agent behind a real socket, with an answer to everything: what each command shows is known beforehand.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mailsteer::api::view::*;
use mailsteer::api::{
    Access, Client, Control, ControlError, Door, Listen, Socket, Tail, ViewStream, headline, serve,
};
use mailsteer_core::config::Tier;
use mailsteer_core::model::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The fake's clock.
pub(crate) const NOW: &str = "2026-03-01T12:00:00Z";

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An agent with two streams, three sources, one of them suspended, and a bad config on disk.
pub(crate) fn status() -> Status {
    let pool = |tier, family, eligible, total, suspended| PoolState {
        pool: "transactional".into(),
        tier,
        family,
        eligible,
        total,
        suspended,
    };
    let stream = |name: &str, mode, share, matches: &str| StreamState {
        name: name.into(),
        pool: "transactional".into(),
        mode,
        share,
        matches: matches.into(),
        ..StreamState::default()
    };
    let mut status = Status {
        version: "0.0.0".into(),
        uptime_seconds: 90_061,
        reconcile_age_seconds: Some(2.0),
        config: ConfigState {
            file: Some("/etc/mailsteer/mailsteer.toml".into()),
            loaded: Some(at("2026-02-28T10:00:00Z")),
            error: None,
        },
        locks: Locks { table: true, table_owned: true, guard: true, guard_armed: true, guard_error: None },
        streams: vec![
            stream("marketing", StreamMode::Canary, 305, "bound to 198.18.0.2"),
            stream("transactional", StreamMode::Enforce, 1000, "user id 105"),
        ],
        pools: vec![
            pool(Tier::Primary, Family::V4, 1, 2, 1),
            pool(Tier::Spare, Family::V4, 1, 1, 0),
            pool(Tier::Primary, Family::V6, 2, 2, 0),
        ],
        totals: Totals {
            held: 20,
            refused: 3,
            attempts: 12_345,
            established: 12_001,
            stopped: 4,
            stopped_last: Some(at("2026-02-27T03:04:05Z")),
            ..Totals::default()
        },
        conntrack_used_ratio: Some(0.123),
        table_repairs: 2,
        suspended: vec![Suspension {
            source: "transactional-2".into(),
            reason: "delisting asked for at the list".into(),
            since: at("2026-03-01T09:00:00Z"),
            until: Some(at("2026-03-02T09:00:00Z")),
        }],
        time: at(NOW),
        cgroup_root: "/sys/fs/cgroup".into(),
        ..Status::default()
    };
    status.headline = headline(&status);
    status
}

pub(crate) fn sources() -> Vec<SourceRow> {
    let row = |n: u8, tier, weight, state, reason: &str, attempts| SourceRow {
        name: format!("transactional-{n}"),
        public: [203, 0, 113, 9 + n].into(),
        local: [10, 0, 1, n].into(),
        pools: vec!["transactional".into()],
        tier,
        weight,
        uplink: Some("eth0".into()),
        state,
        reason: reason.into(),
        counters: SourceCounters {
            attempts,
            established: attempts - attempts / 20,
            refused: attempts / 100,
            unreachable: 1,
            reset: 2,
            unanswered: attempts / 50,
            open: 12,
            bytes_out: 7_654_321,
            bytes_in: 1_234,
            partial: false,
        },
    };
    let why = "suspended by the operator until 2026-03-02T09:00:00Z: delisting asked for at the list";
    vec![
        row(1, Tier::Primary, 3, SourceState::Healthy, "", 12_000),
        row(2, Tier::Primary, 1, SourceState::Suspended, why, 300),
        row(3, Tier::Spare, 1, SourceState::Healthy, "", 45),
    ]
}

pub(crate) fn connections() -> Vec<ConnectionRow> {
    let steered = ConnectionRow {
        time: at("2026-03-01T11:59:01Z"),
        pid: Some(4_194_304),
        uid: Some(105),
        cgroup: Some("system.slice/postfix.service".into()),
        stream: Some("transactional".into()),
        provider: "other".into(),
        wanted_source: Some("transactional-1".into()),
        wanted_address: Some([203, 0, 113, 10].into()),
        real_address: Some([203, 0, 113, 10].into()),
        destination: [198, 51, 100, 225].into(),
        destination_port: 25,
        local_port: Some(40_000),
        cookie: Some(77),
        outcome: Outcome::Established,
        handshake_ms: 0.043,
        retransmits: 0,
    };
    let unsteered = ConnectionRow {
        pid: None,
        uid: None,
        stream: None,
        wanted_source: None,
        wanted_address: None,
        destination: "2001:db8:ffff::1".parse().unwrap(),
        real_address: "2001:db8:a::10".parse().ok(),
        handshake_ms: 12.3,
        ..steered.clone()
    };
    let silent = ConnectionRow {
        outcome: Outcome::Unanswered,
        handshake_ms: 30_120.0,
        retransmits: 6,
        ..steered.clone()
    };
    let refused = ConnectionRow {
        outcome: Outcome::Policy,
        wanted_source: None,
        wanted_address: None,
        real_address: None,
        handshake_ms: 2.04,
        ..steered.clone()
    };
    let wrong = ConnectionRow { real_address: Some([203, 0, 113, 99].into()), ..steered.clone() };
    vec![steered, unsteered, silent, refused, wrong]
}

/// What a verdict rests on, as an event bears it.
fn evidence() -> String {
    let one = |second: u32, receiver: u8, failure: &str, well: bool| {
        format!(
            r#"{{"at":"2026-03-01T11:59:{second:02}Z","destination":"203.0.113.{receiver}","failure":{failure},"receiver_well":{well},"others":{{"well":5,"failed":0}}}}"#
        )
    };
    let greeted = r#"{"failure":"greeted","code":554,"text":"5.7.1 blocked"}"#;
    let outcomes = [
        one(1, 200, "null", true),
        one(2, 201, greeted, true),
        one(3, 202, r#"{"failure":"silent"}"#, false),
        one(4, 203, greeted, true),
        one(5, 204, greeted, true),
    ];
    format!(
        r#"{{"source":"203.0.113.10","provider":"google","outcomes":[{}],"siblings":{{"any":true,"well":7,"failed":0}},"failures":3}}"#,
        outcomes.join(",")
    )
}

pub(crate) fn events() -> Vec<EventRow> {
    let row = |number: u64, kind: &str, subject: &str, text: &str, evidence: &[(&str, &str)]| EventRow {
        number,
        time: at("2026-03-01T11:59:01Z"),
        kind: kind.into(),
        subject: subject.into(),
        text: text.into(),
        evidence: evidence.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
    };
    vec![
        row(1, "config-loaded", "config", "config loaded: 2 streams, 3 sources", &[("streams", "2")]),
        row(
            2,
            "table-repaired",
            "table",
            "the table was put right: nft (pid 4711) flushed it",
            &[("program", "nft"), ("pid", "4711"), ("healed", "20")],
        ),
        row(
            3,
            "verdict",
            "transactional-1",
            "transactional-1 (203.0.113.10) at google: healthy -> isolated",
            &[
                ("from", "healthy"),
                (
                    "to",
                    r#"{"state":"isolated","cause":{"failure":"refused"},"until":"2026-03-01T12:29:05Z"}"#,
                ),
                ("evidence", &evidence()),
            ],
        ),
    ]
}

pub(crate) fn explanation(who: Who, destination: Destination) -> Explanation {
    let step =
        |stream: &str, matched, why: &str| StreamStep { stream: stream.into(), matched, why: why.into() };
    let source = |n: u8, tier, share, why: &str| SourceStep {
        source: format!("transactional-{n}"),
        address: [203, 0, 113, 9 + n].into(),
        tier,
        share,
        why: why.into(),
    };
    Explanation {
        who,
        destination,
        not_steered: None,
        streams: vec![
            step("marketing", false, "the socket is not bound to 198.18.0.2"),
            step("transactional", true, "user id 105"),
        ],
        provider: Some("other".into()),
        provider_by: None,
        pool: Some("transactional".into()),
        family: Family::V4,
        sources: vec![
            source(1, Tier::Primary, 1.0, ""),
            source(2, Tier::Primary, 0.0, "suspended by the operator: delisting asked for"),
            source(3, Tier::Spare, 0.0, "a spare: the primary tier serves"),
        ],
        result: "leaves from 203.0.113.10 (transactional-1)".into(),
        assumed: vec![],
        stream: Some("transactional".into()),
        fate: Fate::Steered,
        share: 1000,
    }
}

pub(crate) fn report(days: u32) -> Report {
    let row = |n: u8, attempts: u64, blocked, listed, listed_seconds, flips| ReportRow {
        source: if n < 4 { format!("transactional-{n}") } else { String::new() },
        public: [203, 0, 113, 9 + n].into(),
        attempts,
        established: attempts - attempts / 20,
        accepted: attempts / 2,
        deferred: attempts / 100,
        blocked,
        bounced: attempts / 50,
        complaints: 0,
        listed,
        listed_seconds,
        flips,
    };
    Report {
        from: "2026-02-23".into(),
        to: "2026-03-01".into(),
        kept_since: Some("2026-02-25".into()),
        rows: vec![
            row(1, 120_000, 0, 0, 0, 1),
            row(2, 3_000, 41, 2, 18_000, 3),
            row(3, 45, 0, 0, 900, 0),
            row(4, 7, 0, 0, 0, 0),
        ],
        notes: vec![format!("{days} days were asked for")],
    }
}

pub(crate) struct Fake;

fn done(text: String) -> Result<Done, ControlError> {
    Ok(Done { text, changed: true })
}

#[tonic::async_trait]
impl Control for Fake {
    async fn status(&self) -> Result<Status, ControlError> {
        Ok(status())
    }
    async fn sources(&self) -> Result<Vec<SourceRow>, ControlError> {
        Ok(sources())
    }
    async fn connections(&self, tail: Tail) -> Result<ViewStream<ConnectionRow>, ControlError> {
        Ok(Box::pin(futures_util::stream::iter(connections().into_iter().take(tail.last).map(Ok))))
    }
    async fn events(&self, tail: Tail) -> Result<ViewStream<EventRow>, ControlError> {
        Ok(Box::pin(futures_util::stream::iter(events().into_iter().take(tail.last).map(Ok))))
    }
    async fn explain(&self, who: Who, to: Destination) -> Result<Explanation, ControlError> {
        Ok(explanation(who, to))
    }
    async fn plan(&self) -> Result<Vec<PlanRow>, ControlError> {
        let action = serde_json::json!({ "do": "add-address", "address": "203.0.113.10" });
        Ok(vec![PlanRow { text: "add address 203.0.113.10 to eth0".into(), action }])
    }
    async fn suspend(&self, source: &str, span: Option<Duration>, _: &str) -> Result<Done, ControlError> {
        if source == "nope" {
            return Err(ControlError::NotFound(format!("there is no source `{source}`")));
        }
        done(format!("{source} is suspended for {}", span.map_or(0, |span| span.as_secs())))
    }
    async fn resume(&self, source: &str, _: &str) -> Result<Done, ControlError> {
        done(format!("{source} is resumed"))
    }
    async fn bypass(&self, stream: &str, span: Option<Duration>, _: &str) -> Result<Done, ControlError> {
        done(format!("{stream} passes: {}", span.is_some()))
    }
    async fn hold(&self, _: Option<Duration>, end: bool, _: &str) -> Result<Done, ControlError> {
        let text = if end { "off hold" } else { "on hold" };
        Ok(Done { text: text.into(), changed: true })
    }
    async fn report(&self, days: u32) -> Result<Report, ControlError> {
        Ok(report(days))
    }
    async fn report_outcomes(&self, all: Vec<OutcomeReport>) -> Result<OutcomesTaken, ControlError> {
        Ok(OutcomesTaken { joined: all.len() as u64, ..OutcomesTaken::default() })
    }
    async fn reload(&self) -> Result<ReloadReport, ControlError> {
        Err(ControlError::BadConfig("mailsteer.toml has 1 error(s)".into()))
    }
    async fn teardown(&self) -> Result<TeardownReport, ControlError> {
        Ok(TeardownReport {
            removed: vec!["the table inet mailsteer".into(), "the guard at eth0".into()],
            left: vec![],
        })
    }
}

/// The fake, served at a socket of its own.
pub(crate) struct Served {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    end: CancellationToken,
    server: JoinHandle<Result<(), mailsteer::api::ServeError>>,
}

/// Lets in whoever may open the socket; nothing is known of the mail yet.
pub(crate) fn open_door() -> Door {
    Door { access: Access::default(), steering: watch::channel(false).1 }
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::behind(open_door()).await
    }

    pub(crate) async fn behind(door: Door) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listening = Socket::open(Listen::At(path.clone())).unwrap();
        Self::on(directory, path, listening, door).await
    }

    pub(crate) async fn on(
        directory: tempfile::TempDir,
        socket: PathBuf,
        listening: Socket,
        door: Door,
    ) -> Self {
        let end = CancellationToken::new();
        let server = tokio::spawn(serve(listening, Arc::new(Fake), door, end.clone()));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while Client::connect(&socket).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "no server");
            tokio::task::yield_now().await;
        }
        Self { directory, socket, end, server }
    }

    pub(crate) async fn end(self) -> tempfile::TempDir {
        self.end.cancel();
        self.server.await.unwrap().unwrap();
        self.directory
    }
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Everything, as it stands in a snapshot.
    pub(crate) fn all(&self) -> String {
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
        let err = if self.err.is_empty() { String::new() } else { format!("stderr:\n{}", self.err) };
        format!("exit {code}\n{}{err}", self.out)
    }
}

/// Runs the real binary.
pub(crate) fn mailsteer(socket: &Path, args: &[&str]) -> Said {
    let run = Command::new(env!("CARGO_BIN_EXE_mailsteer"))
        .args(args)
        .arg("--socket")
        .arg(socket)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output();
    let Output { status, stdout, stderr } = run.unwrap();
    Said {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}
