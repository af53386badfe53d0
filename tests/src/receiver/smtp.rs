//! What a receiver says in SMTP, in clear and over TLS.
//!
//! Owns: the dialogue. Must not: know who is treated how.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Change, Message};

/// Of nobody: an MTA that delivers to whoever the MX record names does not look at it.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");

/// How long a judge thinks about a message: long enough that an MTA opens several connections, and uses them again.
const WHILE: Duration = Duration::from_millis(100);

/// How it speaks.
#[derive(Clone, Copy, Default)]
pub(super) struct Manner {
    /// Answers each recipient by how the address begins.
    pub(super) judges: bool,
    /// Offers STARTTLS.
    pub(super) tls: bool,
}

/// How a part of a dialogue ended.
enum Over {
    /// By QUIT, or because the peer went away.
    Quit,
    /// TLS begins.
    StartTls,
}

/// Speaks until the peer has gone.
pub(super) async fn serve(
    stream: TcpStream,
    manner: Manner,
    note: &impl Fn(Change<'_>),
) -> std::io::Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink ESMTP\r\n").await?;
    if matches!(speak(&mut stream, manner, peer, note).await?, Over::Quit) {
        return Ok(());
    }
    let stream = acceptor()?.accept(stream.into_inner()).await?;
    let manner = Manner { tls: false, ..manner };
    speak(&mut BufReader::new(stream), manner, peer, note).await.map(drop)
}

fn acceptor() -> std::io::Result<TlsAcceptor> {
    static ACCEPTOR: OnceLock<TlsAcceptor> = OnceLock::new();
    if let Some(acceptor) = ACCEPTOR.get() {
        return Ok(acceptor.clone());
    }
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).map_err(std::io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(KEY).map_err(std::io::Error::other)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(std::io::Error::other)?;
    Ok(ACCEPTOR.get_or_init(|| TlsAcceptor::from(Arc::new(config))).clone())
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    manner: Manner,
    peer: IpAddr,
    note: &impl Fn(Change<'_>),
) -> std::io::Result<Over> {
    let (mut line, mut from, mut to) = (String::new(), String::new(), Vec::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(Over::Quit);
        }
        let upper = line.trim().to_ascii_uppercase();
        let judged = if manner.judges { judge(&upper, to.is_empty(), peer) } else { None };
        if let Some(reply) = judged {
            stream.write_all(reply.as_bytes()).await?;
            continue;
        }
        let reply = if upper.starts_with("EHLO") || upper.starts_with("HELO") {
            let name = line.trim().get(5..).unwrap_or_default().to_owned();
            note(Box::new(|connection| connection.ehlo = Some(name)));
            if manner.tls { "250-sink\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 8BITMIME\r\n" } else { PLAIN }
        } else if upper == "STARTTLS" && manner.tls {
            stream.write_all(b"220 2.0.0 go ahead\r\n").await?;
            return Ok(Over::StartTls);
        } else if upper.starts_with("MAIL FROM:") {
            (from, to) = (address(&line), Vec::new());
            "250 2.1.0 ok\r\n"
        } else if upper.starts_with("RCPT TO:") {
            to.push(address(&line));
            "250 2.1.5 ok\r\n"
        } else if upper == "DATA" {
            stream.write_all(b"354 go on\r\n").await?;
            let data = body(stream).await?;
            let message = Message { from: std::mem::take(&mut from), to: std::mem::take(&mut to), data };
            note(Box::new(|connection| connection.messages.push(message)));
            if manner.judges {
                tokio::time::sleep(WHILE).await;
                stream.write_all(format!("250 2.0.0 taken, seen from {peer}\r\n").as_bytes()).await?;
                continue;
            }
            "250 2.0.0 taken\r\n"
        } else if upper == "QUIT" {
            stream.write_all(b"221 2.0.0 bye\r\n").await?;
            return Ok(Over::Quit);
        } else {
            "250 2.0.0 ok\r\n"
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}

/// What it says to EHLO where it offers no TLS.
const PLAIN: &str = "250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n";

/// What a judge says to a command; `None`: what anybody would.
fn judge(command: &str, nobody: bool, peer: IpAddr) -> Option<String> {
    if command == "DATA" && nobody {
        return Some("503 5.5.1 no recipients\r\n".to_owned());
    }
    let recipient = command.strip_prefix("RCPT TO:<")?;
    let said = [
        ("UNKNOWN", "550 5.1.1 user unknown"),
        ("GREY", "451 4.7.1 greylisted, try again in 300 seconds"),
        (
            "BLOCK",
            "550 5.7.1 messages from you weren't sent: part of your network is on our block list (S3150)",
        ),
    ];
    let (_, reply) = said.into_iter().find(|(word, _)| recipient.starts_with(word))?;
    Some(format!("{reply}, seen from {peer}\r\n"))
}

fn address(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(a, _)| a.to_owned())
        .unwrap_or_default()
}

async fn body<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> std::io::Result<String> {
    let mut data = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == ".\r\n" {
            return Ok(data);
        }
        data.push_str(&line);
    }
}
