//! Rounds of tries from one source: every receiver at port 25, and where that does not answer, at other ports.
//!
//! Owns: making them, and finding the receivers' addresses. Must not: judge; `signal::port25` does.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use mailsteer_core::signal::port25::{ELSEWHERE, Try};
use tokio::time::timeout;

use super::probe::{Patience, Probe, ProbeError};

/// As long as a probe waits; the greeting of a receiver that lets callers wait is not needed here.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(10), greeting: Duration::from_secs(10) };
/// For names of receivers, by the host's own resolver.
const LOOKUP: Duration = Duration::from_secs(10);
/// Addresses that are tried at most: a name may have many.
const TRIES: usize = 8;

/// The addresses of receivers, of the family of `like`, as far as they can be found; one of each name, and further ones
/// where there are few names.
pub async fn addresses(receivers: &[String], like: IpAddr) -> Vec<IpAddr> {
    let found = join_all(receivers.iter().map(|receiver| lookup(receiver, like))).await;
    let longest = found.iter().map(Vec::len).max().unwrap_or_default();
    let by_turns = (0..longest).flat_map(|n| found.iter().filter_map(move |all| all.get(n).copied()));
    let mut seen = BTreeSet::new();
    by_turns.filter(|address| seen.insert(*address)).take(TRIES).collect()
}

async fn lookup(receiver: &str, like: IpAddr) -> Vec<IpAddr> {
    let found = match receiver.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => match timeout(LOOKUP, tokio::net::lookup_host((receiver, 25))).await {
            Ok(Ok(found)) => found.map(|socket| socket.ip()).collect(),
            // What has no address now is not tried, and that shows nothing.
            Ok(Err(_)) | Err(_) => vec![],
        },
    };
    found.into_iter().filter(|address| address.is_ipv4() == like.is_ipv4()).collect()
}

/// One round, all at once. `way` is a probe whose receiver is of no account.
///
/// # Errors
/// Where this host could make none: that shows nothing of the source.
pub async fn round(way: Probe, receivers: &[IpAddr]) -> Result<Vec<Try>, ProbeError> {
    let tries = join_all(receivers.iter().map(|receiver| one(way, *receiver))).await;
    let (mut made, mut error) = (Vec::new(), None);
    for one in tries {
        match one {
            Ok(one) => made.push(one),
            Err(why) => error = Some(why),
        }
    }
    match error {
        Some(error) if made.is_empty() => Err(error),
        _ => Ok(made),
    }
}

async fn one(way: Probe, receiver: IpAddr) -> Result<Try, ProbeError> {
    let at = |port: u16| Probe { to: SocketAddr::new(receiver, port), ..way };
    let met = at(way.to.port()).meet(PATIENCE).await?;
    let mut tried = Try { receiver, met, elsewhere: None };
    if !tried.stood() {
        let others = ELSEWHERE.into_iter().filter(|port| *port != way.to.port());
        let answers = others.map(|port| async move { answers(at(port)).await.then_some(port) });
        tried.elsewhere = join_all(answers).await.into_iter().flatten().next();
    }
    Ok(tried)
}

async fn answers(probe: Probe) -> bool {
    matches!(probe.connect(PATIENCE.connect).await, Ok(Ok(_)))
}
