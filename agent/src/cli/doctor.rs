//! `doctor`: looks at the host, lets the core judge, shows the judgements.
//!
//! Owns: how they are shown. Must not: judge.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use mailsteer_core::config::{Config, Problem};
use mailsteer_core::doctor::{self, Finding, Level};
use mailsteer_core::signal::dns::Plan;

use super::check;
use super::commands::put;
use super::host_view::host_view;
use super::render::{Style, wrapped};
use crate::api::view;
use crate::observe::dns::{Resolver, survey};
use crate::observe::doctor::{Root, look};

/// Shows what is the matter with this host; the exit status is that of the worst.
pub(super) fn doctor(file: Option<&Path>, json: bool, style: Style) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (config, judged) = file.map(of_file).transpose()?.unwrap_or_default();
    let found = runtime.block_on(look(&Root::default(), config.as_ref()));
    let mut findings = judged;
    findings.extend(doctor::examine(&found, config.as_ref()));
    if let Some(config) = &config {
        findings.extend(runtime.block_on(compliance(config)));
    }
    let level = doctor::worst(&findings);
    if json {
        let answer = serde_json::json!({ "level": level, "findings": findings });
        put(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    } else {
        put(&shown(&findings, style))?;
    }
    Ok(level.exit_status())
}

/// What the DNS says of the config's sources and domains.
async fn compliance(config: &Config) -> Vec<Finding> {
    let Some(settings) = &config.dns else { return vec![doctor::unasked()] };
    match Resolver::at(settings.resolver) {
        Ok(resolver) => doctor::compliance(&survey(&resolver, &Plan::of(config, settings)).await, settings),
        Err(error) => vec![doctor::unaskable(&error.to_string())],
    }
}

/// The config, if it can be used, and what is to be said of the file.
fn of_file(file: &Path) -> Result<(Option<Config>, Vec<Finding>)> {
    let found = check::load(file, &host_view(file)?)?;
    let errors = found.problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = found.problems.len() - errors;
    let name = file.display();
    let advice = format!("mailsteer check {name}");
    let finding = match (errors, warnings) {
        (0, 0) => Finding::ok("config", format!("{name} is good")),
        (0, _) => Finding::new(
            "config",
            Level::Warn,
            format!(
                "{name}: {}",
                found.problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
            ),
            "",
            advice,
        ),
        _ => Finding::new(
            "config",
            Level::Bad,
            format!("{name} has {errors} error{}", if errors == 1 { "" } else { "s" }),
            "It cannot come into force, and the rest is judged without it.",
            advice,
        ),
    };
    Ok((found.config, vec![finding]))
}

/// Worst first; what is as it should be takes one line.
fn shown(findings: &[Finding], style: Style) -> String {
    let mut out = headline(findings, style);
    for level in Level::WORST_FIRST {
        let of_level: Vec<&Finding> = findings.iter().filter(|finding| finding.level == level).collect();
        if !of_level.is_empty() {
            out.push('\n');
        }
        for finding in of_level {
            one(finding, style, &mut out);
        }
    }
    out
}

fn headline(findings: &[Finding], style: Style) -> String {
    let counts: Vec<String> = Level::WORST_FIRST
        .into_iter()
        .map(|level| (level, findings.iter().filter(|finding| finding.level == level).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(level, count)| format!("{count} {}", level.as_str()))
        .collect();
    let verdict = match doctor::worst(findings) {
        Level::Bad => "mailsteer does not work on this host like this",
        Level::Warn => "something wants a look before mail is steered on this host",
        Level::Note | Level::Ok => "nothing was found that stands in mailsteer's way",
    };
    format!("{} ({})\n", style.level(colour(doctor::worst(findings)), verdict), counts.join(", "))
}

const fn colour(level: Level) -> view::Level {
    match level {
        Level::Bad => view::Level::Broken,
        Level::Warn => view::Level::Attention,
        Level::Note | Level::Ok => view::Level::Ok,
    }
}

fn one(finding: &Finding, style: Style, out: &mut String) {
    let head = format!("{:<5}{:<12}{:<20}", finding.level.as_str(), finding.group, finding.check);
    if finding.level == Level::Ok {
        let _ = writeln!(out, "{head}{}", finding.what);
        return;
    }
    let word = style.level(colour(finding.level), finding.level.as_str());
    let text = wrapped(&head, &finding.what);
    out.push_str(&text.replacen(finding.level.as_str(), &word, 1));
    for (what, text) in [("costs", &finding.cost), ("do", &finding.advice)] {
        if !text.is_empty() {
            out.push_str(&wrapped(&format!("{:<17}{what:<20}", ""), text));
        }
    }
}
