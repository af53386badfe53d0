//! The HTTP client against servers in clear and over TLS, that answer well, badly, late or not at all.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use mailsteer::act::hook::{Untold, Webhook};
use mailsteer::http::{Answer, Call, Client, HttpError, Secretive};
use mailsteer::secret::Secret;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "Bearer very-s3cret";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http").join(name)
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(file("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves one answer to all, in clear or over TLS; tells what it was asked.
async fn server(answer: &'static str, tls: bool) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                if tls {
                    if let Ok(stream) = acceptor().accept(stream).await {
                        exchange(stream, answer, asked).await;
                    }
                } else {
                    exchange(stream, answer, asked).await;
                }
            });
        }
    });
    (port, heard)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    asked: mpsc::UnboundedSender<String>,
) {
    let mut request = Vec::new();
    while !complete(&request) {
        let mut some = [0; 4096];
        match stream.read(&mut some).await {
            Ok(read @ 1..) => request.extend_from_slice(&some[..read]),
            _ => return,
        }
    }
    asked.send(String::from_utf8_lossy(&request).into_owned()).unwrap();
    if answer.is_empty() {
        // Not at all: it waits until the client goes.
        let _gone = stream.read(&mut [0]).await;
        return;
    }
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.shutdown().await;
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .map(|rest| rest.lines().next().unwrap_or_default().trim().parse::<usize>().unwrap_or_default());
    body.len() >= length.unwrap_or_default()
}

fn get(url: String) -> Call {
    Call {
        method: Method::GET,
        url: Secretive(url),
        secret: None,
        body: None,
        patience: Duration::from_secs(5),
        most: 1_000,
    }
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

#[tokio::test]
async fn it_asks_in_clear_and_over_tls_of_whom_it_trusts() {
    for tls in [false, true] {
        let (port, mut heard) = server(FINE, tls).await;
        let client = Client::new(Some(file("ca.pem").to_str().unwrap()));
        let scheme = if tls { "https" } else { "http" };
        for host in ["localhost", "127.0.0.1"] {
            let answer = client.send(get(format!("{scheme}://{host}:{port}/a?b=c"))).await.unwrap();
            assert_eq!(answer, Answer { status: 200, body: b"fine".to_vec() });
            let asked = heard.recv().await.unwrap();
            assert!(asked.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains(&format!("host: {host}:{port}\r\n")), "{asked}");
        }
    }
}

#[tokio::test]
async fn a_stranger_and_another_name_are_not_trusted() {
    let (port, _heard) = server(FINE, true).await;
    let by_the_hosts = Client::new(None).send(get(format!("https://localhost:{port}/"))).await;
    assert!(matches!(by_the_hosts, Err(HttpError::Tls { .. } | HttpError::Trust(_))), "{by_the_hosts:?}");
    let ca = file("ca.pem");
    let own = || Client::new(Some(ca.to_str().unwrap()));
    let other_name = own().send(get(format!("https://127.0.0.2:{port}/"))).await;
    assert!(matches!(other_name, Err(HttpError::Connect { .. } | HttpError::Tls { .. })), "{other_name:?}");
    let none = Client::new(Some("/no/such/file")).send(get(format!("https://localhost:{port}/"))).await;
    assert!(matches!(none, Err(HttpError::Trust(_))), "{none:?}");
    // A server that speaks no TLS waits for the end of a request that never comes.
    let (clear, _heard) = server(FINE, false).await;
    let call = Call { patience: Duration::from_millis(500), ..get(format!("https://localhost:{clear}/")) };
    let no_tls = own().send(call).await;
    assert!(matches!(no_tls, Err(HttpError::Tls { .. } | HttpError::Late { .. })), "{no_tls:?}");
}

#[tokio::test]
async fn what_is_late_long_or_no_answer_is_an_error_that_shows_no_url() {
    let client = Client::default();
    let (silent, _heard) = server("", false).await;
    let call = |port: u16| Call {
        patience: Duration::from_millis(200),
        ..get(format!("http://127.0.0.1:{port}/?key=s3cret"))
    };
    let (long, _heard_too) = server("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", false).await;
    let (odd, _heard_also) = server("220 mail ESMTP\r\n", false).await;
    for (port, wanted) in
        [(silent, "no answer of 127.0.0.1 within"), (long, "cannot be read"), (odd, "gave no answer")]
    {
        let error = client.send(call(port)).await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains(wanted) && !said.contains("s3cret"), "{said}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = client.send(call(closed)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_hook_sends_its_secret_and_shows_it_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    assert_eq!(Secret::read(key.to_str().unwrap()).unwrap().expose(), SECRET);
    let secret = Some(("X-Token".to_owned(), key.display().to_string()));
    let patience = Duration::from_secs(5);
    let hook = |port: u16| {
        Webhook::new(&format!("http://127.0.0.1:{port}/path-s3cret"), secret.clone(), None, patience)
    };
    let (port, mut heard) = server(FINE, false).await;
    hook(port).post("{\"a\":1}").await.unwrap();
    let asked = heard.recv().await.unwrap();
    assert!(asked.starts_with("POST /path-s3cret HTTP/1.1\r\n") && asked.ends_with("{\"a\":1}"), "{asked}");
    assert!(asked.contains(&format!("x-token: {SECRET}\r\n")), "{asked}");
    assert!(asked.contains("content-type: application/json\r\n"), "{asked}");

    let (busy, _heard) = server("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", false).await;
    assert_eq!(hook(busy).post("{}").await, Err(Untold::Later("answered 503".to_owned())));
    // Nobody is sent on with the secret.
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let (moved, _heard) = server(moved, false).await;
    assert_eq!(hook(moved).post("{}").await, Err(Untold::Refused("answered 302".to_owned())));
    std::fs::remove_file(&key).unwrap();
    let lost = hook(port).post("{}").await;
    assert!(matches!(&lost, Err(Untold::Later(why)) if why.contains("cannot read the secret")), "{lost:?}");
    let shown = format!("{:?} {lost:?}", hook(port));
    assert!(!shown.contains("s3cret"), "{shown}");
}
