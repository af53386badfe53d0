//! The commands: ask the agent (or the core, for a file), show the answer, give the exit status.
//!
//! Owns: the way from arguments to an exit status. Must not: format tables, or know the wire.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use mailsteer_core::model::Family;
use serde::Serialize;

use super::args::{AgentArgs, Cli, Color, Command, ExplainArgs, TailArgs, TeardownArgs};
use super::render::{self, Style};
use super::terminal::harmless;
use super::{check, classify, connect_as, doctor, init, outcomes, replay, report, trying};
use crate::api::view::{Destination, Done, Who};
use crate::api::{Client, ConnectError, Tail, ViewStream};

/// Runs a command.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    // An agent that cannot be asked cannot vouch for the mail.
    let failed = if matches!(cli.command, Command::Status | Command::Doctor { .. }) { 2 } else { 1 };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // A reader that went away (`| head`) is no error of ours.
            let pipe = error.downcast_ref::<std::io::Error>();
            if pipe.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            // Where even this cannot be written, nobody is there to be told.
            let said = format!("mailsteer: {error:#}\n");
            let _ = write(&mut std::io::stderr().lock(), &said);
            ExitCode::from(failed)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Agent(args) => crate::daemon::run(&prepared(args, cli.socket)?).map(|()| 0),
        Command::Boot(args) => crate::daemon::boot(&prepared(args, cli.socket)?).map(|()| 0),
        Command::ConnectAs(args) => connect_as::connect_as(&args),
        Command::Teardown(args) => teardown(args, cli.socket, cli.json),
        Command::Check { ref file, away } => check::check(file, away, cli.json, style(cli.color)),
        Command::Doctor { ref config } => doctor::doctor(config.as_deref(), cli.json, style(cli.color)),
        Command::Classify(ref args) => classify::classify(args, cli.json, style(cli.color)),
        Command::Init { ref output, force } => init::init(output.as_deref(), force, cli.json),
        Command::Explain(ref args) if args.config.is_some() => explain_file(args, cli.json),
        Command::Plan { config: Some(ref file) } => {
            let (config, view) = check::read(file)?;
            let rows = crate::daemon::plan_file(&config, &view)?;
            show(cli.json, &rows, || render::plan(&rows))
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked(cli)),
    }
}

/// Colour where it is asked for; by default on a terminal, unless NO_COLOR is set to anything.
fn style(color: Color) -> Style {
    let color = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
        }
    };
    Style { color }
}

fn prepared(args: AgentArgs, socket: std::path::PathBuf) -> Result<crate::daemon::Options> {
    crate::telemetry::init(args.log_format)?;
    let AgentArgs { config, bpffs, cgroup, state, .. } = args;
    Ok(crate::daemon::Options { config, socket, bpffs, cgroup, state })
}

pub(super) fn put(text: &str) -> Result<()> {
    Ok(write(&mut std::io::stdout().lock(), text)?)
}

/// To a terminal what does it no harm; to anything else every byte.
fn write(out: &mut (impl Write + IsTerminal), text: &str) -> std::io::Result<()> {
    let text = if out.is_terminal() { harmless(text) } else { text.into() };
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> Result<u8> {
    put(&if json { serde_json::to_string_pretty(value)? + "\n" } else { text() })?;
    Ok(0)
}

fn done(json: bool, done: &Done) -> Result<u8> {
    show(json, done, || format!("{}\n", done.text))
}

async fn asked(cli: Cli) -> Result<u8> {
    let mut client = Client::connect(&cli.socket).await?;
    let json = cli.json;
    match cli.command {
        Command::Status => {
            let status = client.status().await?;
            show(json, &status, || render::status(&status, style(cli.color)))?;
            Ok(status.headline.level.exit_status())
        }
        Command::Sources => {
            let rows = client.sources().await?;
            show(json, &rows, || render::sources(&rows))
        }
        Command::Report { days } => {
            let found = client.report(days).await?;
            show(json, &found, || report::shown(&found))
        }
        Command::Connections(args) => {
            let rows = client.connections(tail(args)).await?;
            history(rows, json, Some(render::CONNECTIONS_HEAD), render::connection).await
        }
        Command::Events { tail: args, verbose } => {
            let rows = client.events(tail(args)).await?;
            history(rows, json, None, |row| render::event(row, verbose)).await
        }
        Command::ReportOutcome(args) => {
            if let Some(of) = args.log {
                return outcomes::follow(&mut client, of.into(), json).await;
            }
            let taken = outcomes::report(&mut client, args).await?;
            show(json, &taken, || outcomes::shown(&taken))?;
            Ok(u8::from(!taken.refused.is_empty()))
        }
        Command::Replay { event } => {
            let replay = replay::replay(&mut client, event).await?;
            show(json, &replay, || replay::shown(&replay))
        }
        Command::Explain(args) => {
            let mut all = vec![];
            for to in destinations(&args.destination)? {
                all.push(client.explain(who(&args)?, to).await?);
            }
            show(json, &all, || all.iter().map(render::explanation).collect::<Vec<_>>().join("\n"))
        }
        Command::Plan { .. } => {
            let rows = client.plan().await?;
            show(json, &rows, || render::plan(&rows))
        }
        Command::Try { stream, host } => {
            let tried = trying::run(&mut client, stream, &host).await?;
            show(json, &tried, || render::tried(&tried))?;
            Ok(u8::from(!tried.as_wanted))
        }
        Command::Suspend { source, span, reason } => done(json, &client.suspend(source, span, reason).await?),
        Command::Resume { source, reason } => done(json, &client.resume(source, reason).await?),
        // clap sees to it that there is a time or `--end`, and never both.
        Command::Bypass { stream, span, reason, .. } => {
            done(json, &client.bypass(stream, span, reason).await?)
        }
        Command::Hold { span, end, reason } => done(json, &client.hold(span, end, reason).await?),
        Command::Reload => {
            let report = client.reload().await?;
            show(json, &report, || {
                let what = if report.changed { "in force" } else { "read; nothing in it changed" };
                let warnings: String = report.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
                format!("{warnings}{} is {what}\n", report.file)
            })
        }
        // These ask no agent, and were dispatched before.
        Command::Agent(_)
        | Command::Boot(_)
        | Command::ConnectAs(_)
        | Command::Classify(_)
        | Command::Check { .. }
        | Command::Doctor { .. }
        | Command::Init { .. }
        | Command::Teardown(_) => Ok(0),
    }
}

/// The agent takes everything away itself; without one, that is done here.
fn teardown(args: TeardownArgs, socket: std::path::PathBuf, json: bool) -> Result<u8> {
    let TeardownArgs { yes, bpffs, state } = args;
    if !yes && !agreed()? {
        bail!("nothing was removed: teardown wants the word `yes`, or --yes where nobody can be asked");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match runtime.block_on(Client::connect(&socket)) {
        Ok(mut client) => runtime.block_on(client.teardown())?,
        Err(ConnectError::NotRunning(_)) => {
            let options = crate::daemon::Options { config: None, socket, bpffs, cgroup: None, state };
            crate::daemon::teardown(&options)?
        }
        Err(error) => return Err(error.into()),
    };
    show(json, &report, || render::teardown(&report))?;
    Ok(u8::from(!report.left.is_empty()))
}

fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    put(
        "This removes the rules, the guard and the addresses that mailsteer added; mail then leaves unsteered.\nType `yes` to go on: ",
    )?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim() == "yes")
}

fn tail(args: TailArgs) -> Tail {
    Tail { last: usize::try_from(args.n).unwrap_or(usize::MAX), follow: args.follow }
}

/// One line per item, as it comes; with `--json` one object per line.
async fn history<T: Serialize>(
    mut rows: ViewStream<T>,
    json: bool,
    head: Option<&str>,
    line: impl Fn(&T) -> String,
) -> Result<u8> {
    if let Some(head) = head.filter(|_| !json) {
        put(&format!("{head}\n"))?;
    }
    while let Some(row) = rows.next().await {
        let row = row?;
        put(&if json { serde_json::to_string(&row)? + "\n" } else { line(&row) + "\n" })?;
    }
    Ok(0)
}

fn explain_file(args: &ExplainArgs, json: bool) -> Result<u8> {
    let (config, view) = check::read(args.config.as_deref().unwrap_or_else(|| Path::new("")))?;
    let who = who(args)?;
    let mut all = vec![];
    for to in destinations(&args.destination)? {
        all.push(crate::daemon::explain_file(&config, &view, &who, to)?);
    }
    show(json, &all, || all.iter().map(render::explanation).collect::<Vec<_>>().join("\n"))
}

fn who(args: &ExplainArgs) -> Result<Who> {
    let named = match &args.user {
        None => None,
        Some(name) => Some(
            nix::unistd::User::from_name(name)?
                .with_context(|| format!("there is no user `{name}` on this host: give --uid"))?,
        ),
    };
    Ok(Who {
        uid: args.uid.or(named.as_ref().map(|u| u.uid.as_raw())),
        gid: args.gid.or(named.as_ref().map(|u| u.gid.as_raw())),
        cgroup: args.cgroup.clone(),
        tag: args.tag,
        subnet: args.subnet,
        mark: args.mark,
        via: args.via.clone(),
    })
}

/// `HOST[:PORT]` apart, where it is no bare address.
pub(super) fn host_and_port(text: &str) -> Result<(&str, u16)> {
    if let Some(host) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Ok((host, 25));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            (host, port.parse().with_context(|| format!("`{port}` in `{text}` is no port"))?)
        }
        None => (text, 25),
    };
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// `HOST[:PORT]`, port 25 by default; of a name the first address of each family.
pub(super) fn destinations(text: &str) -> Result<Vec<Destination>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(vec![Destination { address, port: 25 }]);
    }
    let (host, port) = host_and_port(text)?;
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot find the address of `{host}`"))?
        .collect();
    let first = |family| found.iter().find(|a| Family::of(a.ip()) == family);
    Ok(Family::BOTH
        .into_iter()
        .filter_map(first)
        .map(|a| Destination { address: a.ip(), port: a.port() })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn an_address_in_brackets_needs_no_port() {
        let read = |text| host_and_port(text).ok();
        assert_eq!(read("[2001:db8::1]"), Some(("2001:db8::1", 25)));
        assert_eq!(read("[2001:db8::1]:587"), Some(("2001:db8::1", 587)));
        assert_eq!(read("mx.example.com"), Some(("mx.example.com", 25)));
        assert_eq!(read("mx.example.com:x"), None);
    }
}
