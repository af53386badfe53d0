//! An address goes away, another is suspended: traffic moves. The times come from the receivers' record.
//!
//! Owns: doing both under traffic, and the times. Must not: take the agent's word for when it moved.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::claims::Claims;
use super::screen::Screen;
use super::stage::{Stage, Stream};
use super::{interrupt, mail, table};
use crate::receiver::Connection;
use crate::topology::uplinks;

/// Connections a second in each stream, beside the mail: one each 10 ms, which is how fine the times are.
const RATE: u32 = 100;
/// What is compared: this long before, and this long after.
const WINDOW: Duration = Duration::from_secs(1);
/// How often the table is drawn meanwhile.
const REDRAW: Duration = Duration::from_millis(100);
/// How long traffic may go on by a source that is out of service.
const MOST: f64 = 1500.0;

/// What a receiver noted around one event.
struct Move {
    victim: IpAddr,
    /// From the event to the last connection from the source; `None`: none came after it.
    last_ms: Option<f64>,
    /// From the event to the next connection of the stream by another source.
    next: Option<(f64, IpAddr)>,
    /// Connections by source, before and after.
    shares: Vec<(IpAddr, usize, usize)>,
}

/// Both, under mail and connections.
pub(super) fn show(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    let ((), traffic) = mail::with_traffic(stage, RATE, || {
        take_away(stage, screen, claims)?;
        suspend(stage, screen, claims)
    })?;
    screen.say(&format!("\nMeanwhile {}.", traffic.text()));
    claims.add("moves: connections failed", "0", traffic.failures(), |n| *n == 0);
    Ok(())
}

fn take_away(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    let (victim, uplink) = (Stream::Transactional.sources()[1], uplinks()[0].interface);
    screen.step("An address goes away");
    screen.say(
        "Somebody deletes an address of the transactional pool from the host, while\n\
         mail flows. The kernel tells mailsteer, which gives its share to the others.",
    );
    interrupt::pause(WINDOW)?;
    let command = format!("ip address del {victim}/32 dev {uplink}");
    screen.command(&command);
    let at = Instant::now();
    stage.lab.mail.sh(&command)?;
    let last = follow(stage, screen, Stream::Transactional, victim, at)?;
    claims.add("address gone: last one from it", "within 1500 ms", last, Last::holds);
    Ok(())
}

fn suspend(stage: &Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    let victim = Stream::Marketing.sources()[0];
    screen.step("The operator suspends another");
    let args = ["suspend", "marketing-1", "--reason", "on a blocklist"];
    screen.say("One address of the marketing pool got listed. Mail should leave by the others.");
    interrupt::pause(WINDOW)?;
    screen.command("mailsteer suspend marketing-1 --reason \"on a blocklist\"");
    let at = Instant::now();
    let answer = stage.agent.cli(&args)?;
    if !answer.status.success() {
        bail!("suspend: {}", String::from_utf8_lossy(&answer.stderr));
    }
    screen.say(&format!("  {}\n ", String::from_utf8_lossy(&answer.stdout).trim_end()));
    let last = follow(stage, screen, Stream::Marketing, victim, at)?;
    claims.add("suspended: last one from it", "within 1500 ms", last, Last::holds);
    Ok(())
}

/// Shows how the traffic moves, for as long as before; returns when the last connection came from the victim.
fn follow(stage: &Stage, screen: &Screen, stream: Stream, victim: IpAddr, at: Instant) -> Result<Last> {
    let mut live = screen.live();
    while at.elapsed() < WINDOW {
        live.draw(&Move::find(stage, stream, victim, at).table(&table::state(stage, victim)?));
        interrupt::pause(REDRAW)?;
    }
    let moved = Move::find(stage, stream, victim, at);
    live.end(&moved.table(&table::state(stage, victim)?));
    screen.say("\nBy the receivers' record, from the moment the command was given:");
    let last = Last(moved.last_ms);
    screen.say(&format!("  last connection from {victim:<12}{last:>18}"));
    if let Some((ms, source)) = moved.next {
        screen.say(&format!("  next one, from {source:<18}{:>18}", format!("{ms:.1} ms after")));
    }
    Ok(last)
}

impl Move {
    fn find(stage: &Stage, stream: Stream, victim: IpAddr, at: Instant) -> Self {
        let sources = stream.sources();
        let connections: Vec<Connection> =
            stage.receiver.connections().into_iter().filter(|c| sources.contains(&c.peer.ip())).collect();
        let after = |c: &Connection| c.at.checked_duration_since(at);
        let ms = |span: Duration| span.as_secs_f64() * 1000.0;
        let last = connections.iter().filter(|c| c.peer.ip() == victim).filter_map(after).max().map(ms);
        let next = connections
            .iter()
            .filter(|c| c.peer.ip() != victim)
            .filter_map(|c| Some((ms(after(c)?), c.peer.ip())))
            .find(|(t, _)| last.is_none_or(|last| *t > last));
        let shares = sources
            .iter()
            .map(|source| {
                let own = || connections.iter().filter(|c| c.peer.ip() == *source);
                let before = own().filter(|c| at.checked_duration_since(c.at).is_some_and(|t| t < WINDOW));
                let after = own().filter(|c| after(c).is_some_and(|t| t < WINDOW));
                (*source, before.count(), after.count())
            })
            .collect();
        Self { victim, last_ms: last, next, shares }
    }

    fn table(&self, state: &str) -> String {
        let mut out = format!("{:<16}{:>14}{:>14}\n", "connections", "second before", "second after");
        for (source, before, after) in &self.shares {
            let state = if *source == self.victim { state } else { "" };
            let line = format!("{:<16}{before:>14}{after:>14}  {state}", source.to_string());
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// How long after the event the last connection came.
struct Last(Option<f64>);

impl Last {
    fn holds(&self) -> bool {
        self.0.is_none_or(|ms| ms <= MOST)
    }
}

impl std::fmt::Display for Last {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ms) => f.pad(&format!("{ms:.1} ms after")),
            None => f.pad("none after"),
        }
    }
}
