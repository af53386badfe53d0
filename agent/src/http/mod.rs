//! HTTP/1 as a client: one request, one connection, one answer that fits in memory.
//!
//! Owns: that exchange, with its time and size limits, in clear or over TLS. Must not: follow a redirect (it would carry a
//! secret to somebody else), keep a connection, or know what is asked. No error holds a URL or a header: secrets stand in them.

mod tls;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::secret::Secret;

pub use tls::TrustError;

const AGENT: &str = concat!("mailsteer/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer. None of these says anything of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It does not parse.
    #[error("the URL cannot be asked")]
    Url,
    /// A header's name or value cannot be sent.
    #[error("a header cannot be sent")]
    Header,
    /// Nobody is there.
    #[error("cannot reach {host}: {source}")]
    Connect {
        /// Whom.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not whom it says, or speaks no TLS.
    #[error("no TLS with {host}: {source}")]
    Tls {
        /// Whom.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody can be trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It ended, or is no HTTP.
    #[error("{host} gave no answer: {source}")]
    Talk {
        /// Whom.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// The answer ended early, or is too long.
    #[error("the answer of {host} cannot be read: {why}")]
    Body {
        /// Whom.
        host: String,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("no answer of {host} within {} s", patience.as_secs())]
    Late {
        /// Whom.
        host: String,
        /// How long.
        patience: Duration,
    },
}

/// What is asked.
#[derive(Debug)]
pub struct Call {
    /// By what method.
    pub method: Method,
    /// http or https. May hold a secret: it is never shown.
    pub url: Secretive,
    /// A header that bears a secret.
    pub secret: Option<(String, Secret)>,
    /// What is sent, and of what type; none with a GET.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// How long all of it may take.
    pub patience: Duration,
    /// Bytes of an answer at most.
    pub most: usize,
}

/// A text that may hold a secret, and does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secretive(pub String);

impl std::fmt::Debug for Secretive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// 200 and so on.
    pub status: u16,
    /// All of it.
    pub body: Vec<u8>,
}

/// Asks; trusts the host's certificates or the operator's own.
#[derive(Debug, Default)]
pub struct Client {
    ca: Option<PathBuf>,
    trust: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    /// `ca`: certificates in place of the host's. Nothing is read yet.
    #[must_use]
    pub fn new(ca: Option<&str>) -> Self {
        Self { ca: ca.map(PathBuf::from), trust: OnceLock::new() }
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`HttpError`]; an answer of any status is none.
    pub async fn send(&self, call: Call) -> Result<Answer, HttpError> {
        let uri: Uri = call.url.0.parse().map_err(|_invalid| HttpError::Url)?;
        let host = uri.host().ok_or(HttpError::Url)?.to_owned();
        let patience = call.patience;
        let exchange = Box::pin(self.exchange(&uri, &host, call));
        let late = |_elapsed| HttpError::Late { host: host.clone(), patience };
        tokio::time::timeout(patience, exchange).await.map_err(late)?
    }

    async fn exchange(&self, uri: &Uri, host: &str, call: Call) -> Result<Answer, HttpError> {
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let most = call.most;
        let request = request(uri, call)?;
        let unreached = |source| HttpError::Connect { host: host.to_owned(), source };
        let stream = TcpStream::connect((bare, port)).await.map_err(unreached)?;
        if !is_tls {
            return talk(stream, host, request, most).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|_invalid| HttpError::Url)?;
        let connector = TlsConnector::from(self.trust()?);
        let untrusted = |source| HttpError::Tls { host: host.to_owned(), source };
        let stream = connector.connect(name, stream).await.map_err(untrusted)?;
        talk(stream, host, request, most).await
    }

    fn trust(&self) -> Result<Arc<ClientConfig>, TrustError> {
        if let Some(trust) = self.trust.get() {
            return Ok(Arc::clone(trust));
        }
        let trust = tls::trusting(self.ca.as_deref())?;
        Ok(Arc::clone(self.trust.get_or_init(|| trust)))
    }
}

fn request(uri: &Uri, call: Call) -> Result<Request<Full<Bytes>>, HttpError> {
    let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let authority = uri.authority().ok_or(HttpError::Url)?.as_str();
    let mut request = Request::builder()
        .method(call.method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, AGENT)
        .header(header::CONNECTION, "close");
    if let Some((name, secret)) = &call.secret {
        let name: HeaderName = name.parse().map_err(|_invalid| HttpError::Header)?;
        let mut value: HeaderValue = secret.expose().parse().map_err(|_invalid| HttpError::Header)?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    let body = call.body.map_or_else(Bytes::new, |(kind, body)| {
        if let Some(headers) = request.headers_mut() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        body.into()
    });
    request.body(Full::new(body)).map_err(|_invalid| HttpError::Url)
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Answer, HttpError> {
    let failed = |source| HttpError::Talk { host: host.to_owned(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // What ends it early is said by the answer that does not come.
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let unread = |error: Box<dyn std::error::Error + Send + Sync>| HttpError::Body {
        host: host.to_owned(),
        why: error.to_string(),
    };
    let body = Limited::new(response.into_body(), most).collect().await.map_err(unread)?;
    Ok(Answer { status, body: body.to_bytes().to_vec() })
}
