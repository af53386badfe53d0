//! The metrics over HTTP/1, on a loopback address.
//!
//! Owns: the small HTTP server. Must not: know what is measured. A bad request ends its own connection and no more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{MetricsSource, render};

/// How long a client may take to send its headers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves `/metrics` on a listener that the caller bound, until cancelled.
pub async fn serve(listener: TcpListener, source: Arc<dyn MetricsSource>, cancellation: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = cancellation.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&source), cancellation.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: waiting lets some close.
                tracing::warn!(%error, "cannot accept a scrape");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    source: Arc<dyn MetricsSource>,
    cancellation: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request| {
        let answer = answer(&request, &source);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = cancellation.cancelled() => {}
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a scrape ended early");
        }
    }
}

fn answer(request: &Request<Incoming>, source: &Arc<dyn MetricsSource>) -> Response<Full<Bytes>> {
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match render(source) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
            }
        },
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, "mailsteer: see /metrics\n".to_owned()),
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(plain));
    response
}
