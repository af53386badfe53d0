//! `try`: a real connection in a stream, and what it left from.
//!
//! Owns: starting a child that connects as the stream would, and matching it with the agent's record of it by the
//! socket's cookie. Must not: judge; [`judge`](super::judge) does.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use mailsteer_core::config::OTHER;
use mailsteer_core::model::Family;
use mailsteer_ebpf::Mark;

use super::judge::judge;
use crate::api::view::{
    ConnectionRow, Destination, Explanation, Outcome, Probe, Status, StreamState, TryResult, Who,
};
use crate::api::{Client, Tail};
use crate::conntrack;

/// How long the agent may take to tell of the connection.
const RECORD: Duration = Duration::from_secs(5);
/// The same, of one that it need not follow.
const NO_RECORD: Duration = Duration::from_secs(1);

pub(super) async fn run(client: &mut Client, stream: String, host: &str) -> Result<TryResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("try connects as the stream's user: run it as root (`sudo mailsteer try ...`)");
    }
    let status = client.status().await?;
    let found = find(&status, &stream)?;
    let to = *super::commands::destinations(host)?.first().context("the host has no address")?;
    let who = who(found, to);
    let explanation = client.explain(who.clone(), to).await?;
    is_matched(&stream, &explanation)?;
    let probe = probe(&who, to, Path::new(&status.cgroup_root))?;
    let patience = if explanation.not_steered.is_some() { NO_RECORD } else { RECORD };
    let connection = match status.locks.guard_error {
        None => record(client, probe.cookie, patience).await?,
        Some(_) => tracked(&stream, &explanation, &probe)?,
    };
    let (as_wanted, result) = judge(&stream, &explanation, connection.as_ref());
    Ok(TryResult { stream, probe, explanation, connection, as_wanted, result })
}

fn find<'s>(status: &'s Status, stream: &str) -> Result<&'s StreamState> {
    let Some(found) = status.streams.iter().find(|s| s.name == stream) else {
        let names: Vec<_> = status.streams.iter().map(|s| s.name.as_str()).collect();
        match names.as_slice() {
            [] => bail!("there is no stream `{stream}`: the config has none"),
            names => bail!("there is no stream `{stream}`; there are: {}", names.join(", ")),
        }
    };
    if found.forwarded {
        bail!(
            "stream `{stream}` takes forwarded traffic only ({}), and this would be the host's own: connect from inside a container of it, then see `mailsteer connections`",
            found.matches
        );
    }
    Ok(found)
}

/// Somebody whose connection the stream would take, as far as one can choose.
fn who(stream: &StreamState, to: Destination) -> Who {
    let family = Family::of(to.address);
    Who {
        uid: stream.uids.first().copied(),
        gid: stream.gids.first().copied(),
        cgroup: stream.cgroups.first().cloned(),
        tag: stream.tags.iter().copied().find(|tag| Family::of(*tag) == family),
        mark: stream.marks.first().copied(),
        ..Who::default()
    }
}

/// A connection that another stream takes says nothing of this one.
fn is_matched(stream: &str, explanation: &Explanation) -> Result<()> {
    if explanation.not_steered.is_some() || explanation.stream.as_deref() == Some(stream) {
        return Ok(());
    }
    let step = explanation.streams.iter().find(|step| step.stream == stream);
    let address = explanation.destination.address;
    match (step, &explanation.stream) {
        (Some(step), _) => bail!("stream `{stream}` does not take a connection to {address}: {}", step.why),
        (None, Some(other)) => bail!(
            "stream `{other}` comes before `{stream}` and would take this connection ({}): see `mailsteer explain`",
            explanation.streams.last().map(|step| step.why.as_str()).unwrap_or_default()
        ),
        (None, None) => bail!("the agent no longer knows stream `{stream}`: was the config reloaded?"),
    }
}

fn probe(who: &Who, to: Destination, cgroup_root: &Path) -> Result<Probe> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("connect-as").arg(std::net::SocketAddr::new(to.address, to.port).to_string());
    for (name, value) in [("--uid", who.uid), ("--gid", who.gid), ("--mark", who.mark)] {
        if let Some(value) = value {
            child.args([name, &value.to_string()]);
        }
    }
    if let Some(tag) = who.tag {
        child.args(["--bind", &tag.to_string()]);
    }
    if let Some(path) = &who.cgroup {
        child.arg("--cgroup").arg(cgroup_root.join(path.trim_start_matches('/')));
    }
    let output = child.process_group(0).output().context("cannot start the connecting process")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.trim().trim_start_matches("mailsteer: "));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where there are no eBPF programs that would record the connection: what conntrack knows of it.
fn tracked(stream: &str, explanation: &Explanation, probe: &Probe) -> Result<Option<ConnectionRow>> {
    let Some(from) = probe.local else { return Ok(None) };
    let to = SocketAddr::new(probe.destination.address, probe.destination.port);
    let Some(entry) = conntrack::find(from, to)? else { return Ok(None) };
    let mark = Mark::unpack(entry.mark);
    let steered = mark.is_some_and(|mark| mark.source != 0);
    let named = explanation.sources.iter().find(|source| source.address == entry.leaves_from);
    Ok(Some(ConnectionRow {
        time: jiff::Timestamp::now(),
        pid: None,
        uid: None,
        cgroup: None,
        stream: mark.filter(|mark| mark.lane != 0).map(|_| stream.to_owned()),
        provider: explanation.provider.clone().unwrap_or_else(|| OTHER.to_owned()),
        wanted_source: named.filter(|_| steered).map(|source| source.source.clone()),
        // Lock 1 lets a mark pass with its source's address only: what left is what was wanted.
        wanted_address: steered.then_some(entry.leaves_from),
        real_address: Some(entry.leaves_from),
        destination: to.ip(),
        destination_port: to.port(),
        local_port: Some(from.port()),
        cookie: Some(probe.cookie),
        outcome: if probe.banner.is_some() { Outcome::Established } else { Outcome::Unanswered },
        handshake_ms: probe.connect_ms,
        retransmits: 0,
    }))
}

async fn record(client: &mut Client, cookie: u64, patience: Duration) -> Result<Option<ConnectionRow>> {
    let mut rows = client.connections(Tail { last: 1_000, follow: true }).await?;
    let search = async {
        while let Some(row) = rows.next().await {
            let row = row?;
            if row.cookie == Some(cookie) {
                return Ok::<_, anyhow::Error>(Some(row));
            }
        }
        Ok(None)
    };
    tokio::time::timeout(patience, search).await.unwrap_or(Ok(None))
}
