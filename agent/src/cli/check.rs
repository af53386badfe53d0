//! `check`, and reading a file for `explain` and `plan`.
//!
//! Owns: how the problems of a file are shown. Must not: find them; the core does.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mailsteer_core::config::{self, Checked, Config, HostView, Problem};

use super::commands::put;
use super::host_view::{LISTS, PROVIDERS, REPLIES, host_view, table_beside};
use super::render::Style;

/// Shows every problem of a file; 1 where there are errors.
pub(super) fn check(file: &Path, away: bool, json: bool, style: Style) -> Result<u8> {
    // Away from its host nothing of this one matters, its users no more than its network.
    let view = if away {
        HostView {
            lists: table_beside(file, LISTS),
            replies: table_beside(file, REPLIES),
            providers: table_beside(file, PROVIDERS),
            ..HostView::default()
        }
    } else {
        host_view(file)?
    };
    let found = load(file, &view)?;
    let errors = found.problems.iter().filter(|p| p.is_error()).count();
    if json {
        let answer = serde_json::json!({
            "ok": errors == 0,
            "problems": serde_json::to_value(&found.problems)?,
            "not_checked": found.not_checked,
        });
        put(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    } else {
        put(&shown(file, &found, errors, style)?)?;
    }
    Ok(u8::from(errors > 0))
}

pub(super) fn shown(file: &Path, found: &Checked, errors: usize, style: Style) -> Result<String> {
    let mut out = problems(&found.problems, style)?;
    for text in &found.not_checked {
        let _ = writeln!(out, "not checked: {text}");
    }
    let warnings = found.problems.len() - errors;
    let counted = |n: usize, what: &str| match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let verdict = if errors == 0 { style.good("good") } else { style.bad("not usable") };
    let (errors, warnings) = (counted(errors, "error"), counted(warnings, "warning"));
    let _ = writeln!(out, "{}: {verdict} ({errors}, {warnings})", file.display());
    Ok(out)
}

/// Each problem at its place in the file.
pub(super) fn problems(problems: &[Problem], style: Style) -> Result<String> {
    let mut out = String::new();
    let theme = if style.color {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme::unicode_nocolor()
    };
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100);
    for problem in problems {
        handler.render_report(&mut out, problem)?;
        out.push('\n');
    }
    Ok(out)
}

/// A config that could come into force, and the host as it is.
pub(super) fn read(file: &Path) -> Result<(Config, HostView)> {
    let view = host_view(file)?;
    let found = load(file, &view)?;
    match found.config {
        Some(config) if !found.problems.iter().any(Problem::is_error) => Ok((config, view)),
        _ => bail!("{0} has errors: `mailsteer check {0}` shows them", file.display()),
    }
}

pub(super) fn load(file: &Path, view: &HostView) -> Result<Checked> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(config::load(&file.display().to_string(), &text, view))
}
