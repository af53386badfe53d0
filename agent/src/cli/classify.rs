//! `classify`: what the table of rules makes of replies, one a line on standard input.
//!
//! Owns: reading lines, and how a judgement is shown. Must not: judge; the core does. It needs no agent, so that a rule can be
//! tried before it is in force, and yesterday's log can be run through it.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::signal::log::{self, Line};
use mailsteer_core::signal::reply::{Judgement, Reply, ReplyTable};
use serde::Serialize;

use super::args::ClassifyArgs;
use super::check;
use super::commands::put;
use super::render::Style;

/// One line of the answer.
#[derive(Serialize)]
struct Row<'a> {
    line: u64,
    #[serde(flatten)]
    judgement: Judgement,
    code: Option<u16>,
    phase: Option<mailsteer_core::signal::reply::Phase>,
    reply: &'a str,
}

/// Judges each line; blank ones are left out. A line that is no reply is `unknown`.
pub(super) fn classify(args: &ClassifyArgs, json: bool, style: Style) -> Result<u8> {
    let table = table(args.table.as_deref(), style)?;
    let stdin = std::io::stdin().lock();
    if std::io::stdin().is_terminal() {
        tell_terminal()?;
    }
    let zone = TimeZone::system();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut lines = stdin;
    let mut bytes = vec![];
    for line in 1.. {
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes).context("cannot read standard input")? == 0 {
            break;
        }
        let said = match args.log {
            None => Some(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Some(of) => match log::read(of.into(), &bytes, &zone, Timestamp::now()) {
                Line::Delivery(delivery) => Some(delivery.reply),
                _ => None,
            },
        };
        if let Some(text) = said.filter(|text| !text.is_empty()) {
            show(&mut out, &row(&table, line, &text, args.provider.as_deref()), json)?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn tell_terminal() -> Result<()> {
    Ok(writeln!(std::io::stderr(), "mailsteer: reading replies, one a line, until end of input (Ctrl-D)")?)
}

fn table(file: Option<&Path>, style: Style) -> Result<ReplyTable> {
    let (name, text) = match file {
        None => ("config/replies.toml".to_owned(), mailsteer_core::signal::reply::DEFAULT.to_owned()),
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the table {}", file.display()))?;
            (file.display().to_string(), text)
        }
    };
    let checked = ReplyTable::load(&name, &text);
    match checked.table {
        Some(table) => Ok(table),
        None => {
            put(&check::problems(&checked.problems, style)?)?;
            bail!("{name} cannot be used")
        }
    }
}

fn row<'a>(table: &ReplyTable, line: u64, text: &'a str, provider: Option<&str>) -> Row<'a> {
    let reply = Reply::read(text);
    let judgement = reply.as_ref().map_or_else(Judgement::of_no_reply, |reply| table.judge(reply, provider));
    Row {
        line,
        judgement,
        code: reply.as_ref().map(|reply| reply.code),
        phase: reply.as_ref().and_then(|reply| reply.phase),
        reply: text,
    }
}

fn show(out: &mut impl Write, row: &Row<'_>, json: bool) -> Result<()> {
    if json {
        serde_json::to_writer(&mut *out, row)?;
        writeln!(out)?;
        return Ok(());
    }
    let class = match row.judgement.cause {
        Some(cause) => format!("{}: {cause}", row.judgement.class),
        None => row.judgement.class.to_string(),
    };
    let Judgement { rule, scope, .. } = &row.judgement;
    writeln!(out, "{class:<32} {rule:<24} {scope:<12} {}", super::terminal::harmless(row.reply))?;
    Ok(())
}
