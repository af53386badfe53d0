//! The control socket and the exporter as programs meet them: who may operate, what a hung agent does to a client,
//! what is left behind, and what a scrape gets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{Fake, Served, mailsteer};
use mailsteer::api::{
    Access, Client, ConnectError, ControlError, Door, Listen, STEERING, ServeError, Socket, serve,
};
use mailsteer::telemetry::exporter;
use mailsteer::telemetry::metrics::{Metric, MetricsSource, Snapshot};
use mailsteer_core::config::ControlAccess;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

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
    let operating: [&[&str]; 6] = [
        &["suspend", "transactional-1", "--reason", "x"],
        &["resume", "transactional-1", "--reason", "x"],
        &["bypass", "marketing", "--for", "1h", "--reason", "x"],
        &["hold", "--reason", "x"],
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

/// Calls as somebody who is in these groups besides its own.
async fn as_member(socket: &Path, groups: &[u32]) -> (Result<(), ControlError>, Result<(), ControlError>) {
    let (socket, groups) = (socket.to_owned(), groups.to_vec());
    let stream = tokio::task::spawn_blocking(move || {
        // Identities belong to the thread; the kernel notes them when the socket is connected. By the system calls
        // themselves: the C library would change every thread of the process.
        let thread = std::thread::spawn(move || {
            let list: Vec<libc::gid_t> = groups;
            // SAFETY: `list` has as many groups as is said.
            let answer = unsafe { libc::syscall(libc::SYS_setgroups, list.len(), list.as_ptr()) };
            assert_eq!(answer, 0);
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, STRANGER, STRANGER, STRANGER) }, 0);
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, STRANGER, STRANGER, STRANGER) }, 0);
            std::os::unix::net::UnixStream::connect(socket).unwrap()
        });
        thread.join().unwrap()
    });
    let stream = stream.await.unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut client = Client::over(tokio::net::UnixStream::from_std(stream).unwrap()).await.unwrap();
    (
        client.status().await.map(drop),
        client.suspend("transactional-1".into(), None, "x".into()).await.map(drop),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_say_who_may_look_and_who_may_operate() {
    assert!(nix::unistd::geteuid().is_root(), "this test becomes somebody else: run it as root");
    let rules = ControlAccess { operators: [7001].into(), readers: Some([7002].into()), reflection: true };
    let access = Access::new(rules.clone());
    let agent = Served::behind(Door { access: access.clone(), ..fake::open_door() }).await;
    std::fs::set_permissions(agent.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&agent.socket, PermissionsExt::from_mode(0o666)).unwrap();
    let denied = |result: &Result<(), ControlError>| matches!(result, Err(ControlError::Denied(_)));
    let (looked, operated) = as_member(&agent.socket, &[7001]).await;
    assert!(looked.is_ok() && operated.is_ok(), "an operator: {looked:?} {operated:?}");
    let (looked, operated) = as_member(&agent.socket, &[7002]).await;
    assert!(looked.is_ok() && denied(&operated), "a reader: {looked:?} {operated:?}");
    let (looked, operated) = as_member(&agent.socket, &[7003]).await;
    assert!(denied(&looked) && denied(&operated), "neither: {looked:?} {operated:?}");
    access.set(ControlAccess { operators: [7003].into(), ..rules });
    let (_, operated) = as_member(&agent.socket, &[7003]).await;
    assert!(operated.is_ok(), "as a reload says: {operated:?}");
    // More groups than the first try has room for.
    let many: Vec<u32> = (8000..8100).chain([7003]).collect();
    let (_, operated) = as_member(&agent.socket, &many).await;
    assert!(operated.is_ok(), "{operated:?}");
    agent.end().await;
}

async fn health(channel: Channel, service: &str) -> i32 {
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
    client.check(request).await.unwrap().into_inner().status
}

async fn services(channel: Channel) -> Result<Vec<String>, tonic::Status> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => Err(tonic::Status::unknown(format!("{other:?}"))),
    }
}

async fn channel(socket: &Path) -> Channel {
    Endpoint::try_from(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_mail_and_reflection_can_be_switched_off() {
    let (tell, steering) = tokio::sync::watch::channel(false);
    let agent = Served::behind(Door { steering, ..fake::open_door() }).await;
    let to = channel(&agent.socket).await;
    // grpc.health.v1: 1 is SERVING, 2 NOT_SERVING.
    assert_eq!((health(to.clone(), "").await, health(to.clone(), "mailsteer.v1.Control").await), (1, 1));
    assert_eq!(health(to.clone(), STEERING).await, 2);
    tell.send_replace(true);
    let deadline = Instant::now() + Duration::from_secs(10);
    while health(to.clone(), STEERING).await != 1 {
        assert!(Instant::now() < deadline, "it does not say that mail leaves well");
    }
    let listed = services(to).await.unwrap();
    assert!(listed.iter().any(|name| name == "mailsteer.v1.Control"), "{listed:?}");
    agent.end().await;

    let access = Access::new(ControlAccess { reflection: false, ..ControlAccess::default() });
    let agent = Served::behind(Door { access, ..fake::open_door() }).await;
    let refused = services(channel(&agent.socket).await).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_passed_in_is_left_to_who_made_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let made = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let passed = Socket::open(Listen::Passed(made.try_clone().unwrap())).unwrap();
    let agent = Served::on(directory, path.clone(), passed, fake::open_door()).await;
    assert!(Client::connect(&path).await.unwrap().status().await.is_ok());
    let directory = agent.end().await;
    assert!(path.exists(), "the next agent finds it");
    let passed = Socket::open(Listen::Passed(made)).unwrap();
    let agent = Served::on(directory, path.clone(), passed, fake::open_door()).await;
    assert!(Client::connect(&path).await.unwrap().status().await.is_ok());
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

fn at(path: &Path) -> Result<Socket, ServeError> {
    Socket::open(Listen::At(path.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_ours_or_left_alone() {
    let agent = Served::start().await;
    let again = at(&agent.socket);
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
    let failed = at(&long.join("control.sock"));
    assert!(matches!(failed, Err(ServeError::Bind { .. })), "{failed:?}");
    assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0, "nothing is left");
    let ending = CancellationToken::new();
    ending.cancel();
    let socket = at(&directory.path().join("control.sock")).unwrap();
    serve(socket, Arc::new(Fake), fake::open_door(), ending).await.unwrap();
    assert!(!stale.exists());
    let no_socket = directory.path().join("file");
    std::fs::write(&no_socket, "").unwrap();
    let failed = at(&no_socket);
    assert!(matches!(failed, Err(ServeError::NotASocket(_))), "{failed:?}");
}

struct Fixed;

impl MetricsSource for Fixed {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add(Metric::GuardArmed, &[], 1.0);
        snapshot
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
