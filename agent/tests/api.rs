//! The control socket and the exporter as programs meet them: who may operate, what a hung agent does to a client,
//! what is left behind, and what a scrape gets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{Fake, Served, mailsteer};
use mailsteer::api::{Client, ConnectError, ServeError, serve};
use mailsteer::telemetry::exporter;
use mailsteer::telemetry::metrics::{Metric, MetricsSource, Sample, Snapshot};
use tokio_util::sync::CancellationToken;

/// Nobody in particular.
const STRANGER: u32 = 65_534;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_look_and_not_operate() {
    assert!(nix::unistd::geteuid().is_root(), "this test becomes somebody else: run it as root");
    let agent = Served::start().await;
    let mode = std::fs::metadata(&agent.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
    // A copy where the stranger can run it, and a socket that he can open.
    let program = agent.directory.path().join("mailsteer");
    std::fs::copy(env!("CARGO_BIN_EXE_mailsteer"), &program).unwrap();
    std::fs::set_permissions(agent.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let stranger = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).arg("--socket").arg(&agent.socket).uid(STRANGER).gid(STRANGER).current_dir("/");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = stranger(&["sources"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("not allowed to open"), "{said}");
    std::fs::set_permissions(&agent.socket, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(stranger(&["sources"]), (Some(0), String::new()));
    let operating: [&[&str]; 5] = [
        &["suspend", "transactional-1", "--reason", "x"],
        &["resume", "transactional-1", "--reason", "x"],
        &["bypass", "marketing", "--for", "1h", "--reason", "x"],
        &["reload"],
        &["teardown", "--yes"],
    ];
    for args in operating {
        let (code, said) = stranger(args);
        assert_eq!(code, Some(1), "{args:?}");
        assert!(said.starts_with("mailsteer: uid 65534 may look and not operate"), "{args:?}: {said}");
    }
    agent.end().await;
}

/// A socket that takes connections and never says a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_agent_does_not_hang_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let _hung = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let started = Instant::now();
    let said = mailsteer(&socket, &["status"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("does not answer within 5 s"), "{}", said.err);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_ours_or_left_alone() {
    let agent = Served::start().await;
    let again = serve(&agent.socket, Arc::new(Fake), CancellationToken::new()).await;
    assert!(matches!(again, Err(ServeError::InUse(_))), "one agent per socket");
    // Another one came in our place while we ran.
    std::fs::remove_file(&agent.socket).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&agent.socket).unwrap();
    let other = std::fs::metadata(&agent.socket).unwrap().ino();
    let socket = agent.socket.clone();
    let directory = agent.end().await;
    assert_eq!(std::fs::metadata(&socket).unwrap().ino(), other, "it is the other's");
    drop(directory);

    let agent = Served::start().await;
    let socket = agent.socket.clone();
    let directory = agent.end().await;
    assert!(!socket.exists());
    assert!(matches!(Client::connect(&socket).await, Err(ConnectError::NotRunning(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_failed_start_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // What an agent with our number left when it was killed half-way.
    let stale = directory.path().join(format!(".mailsteer-{}", std::process::id()));
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("s"), "").unwrap();
    // Too long for a socket's address once it stands in the private directory.
    let long = directory.path().join("d".repeat(90));
    std::fs::create_dir(&long).unwrap();
    let failed = serve(&long.join("control.sock"), Arc::new(Fake), CancellationToken::new()).await;
    assert!(matches!(failed, Err(ServeError::Bind { .. })), "{failed:?}");
    assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0, "nothing is left");
    let ending = CancellationToken::new();
    ending.cancel();
    serve(&directory.path().join("control.sock"), Arc::new(Fake), ending).await.unwrap();
    assert!(!stale.exists());
    let no_socket = directory.path().join("file");
    std::fs::write(&no_socket, "").unwrap();
    let failed = serve(&no_socket, Arc::new(Fake), CancellationToken::new()).await;
    assert!(matches!(failed, Err(ServeError::NotASocket(_))), "{failed:?}");
}

struct Fixed;

impl MetricsSource for Fixed {
    fn snapshot(&self) -> Snapshot {
        vec![Sample { metric: Metric::GuardArmed, labels: vec![], value: 1.0 }]
    }
}

fn asked(at: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, end) = (listener.local_addr().unwrap(), CancellationToken::new());
    let server = tokio::spawn(exporter::serve(listener, Arc::new(Fixed), end.clone()));
    // Clients that say nothing, or half of it, stay while the others are served.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(at).unwrap()).collect();
    let mut half = TcpStream::connect(at).unwrap();
    half.write_all(b"GET /metr").unwrap();
    let get = |path: &str| asked(at, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nmailsteer_guard_armed 1\n"), "{metrics}");
    assert!(get("/").starts_with("HTTP/1.1 200"));
    assert!(get("/other").starts_with("HTTP/1.1 404"));
    let post =
        asked(at, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    assert!(asked(at, "no HTTP at all\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(get("/metrics").starts_with("HTTP/1.1 200"), "a bad request ends its own connection and no more");
    drop(silent);
    end.cancel();
    server.await.unwrap();
}
