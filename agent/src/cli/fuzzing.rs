//! Hostile input for [`super`]: arguments that are parsed by hand, files of users, and answers that are shown.
//!
//! Owns: calling what is private here. Must not: be called by the command line. Whatever an answer holds, a terminal
//! gets text.

use mailsteer_core::config::{Checked, HostView, load};

use super::{args, check, commands, host_view, render, report as reports, terminal};
use crate::api::view::*;

const PLAIN: render::Style = render::Style { color: false };

/// A word of the command line, as each of the parsers that take one.
pub fn word(text: &str) {
    if let Ok(span) = args::duration(text) {
        assert!(span.as_secs() > 0 && span.as_secs() <= 366 * 86_400, "{span:?}");
        assert_eq!(args::duration(&format!("{}s", span.as_secs())), Ok(span));
    }
    if let Ok(mark) = args::mark(text) {
        assert_eq!(args::mark(&format!("{mark:#x}")), Ok(mark));
    }
    if let Ok((host, port)) = commands::host_and_port(text) {
        assert!(text.contains(host) && (port == 25 || text.ends_with(|c: char| c.is_ascii_digit())));
    }
}

/// `/etc/passwd` or `/etc/group`.
pub fn names(bytes: &[u8]) {
    host_view::ids_of(bytes);
}

/// A config file, as `check` shows what is wrong with it.
pub fn config(text: &str, view: &HostView) -> Checked {
    let found = load("/etc/mailsteer/mailsteer.toml", text, view);
    let errors = found.problems.iter().filter(|problem| problem.is_error()).count();
    let shown = check::shown("mailsteer.toml".as_ref(), &found, errors, PLAIN);
    is_text(&shown.unwrap_or_default());
    found
}

/// See [`render`].
pub fn status(said: &Status) {
    is_text(&render::status(said, PLAIN));
}

/// See [`render`].
pub fn sources(rows: &[SourceRow]) {
    is_text(&render::sources(rows));
}

/// See [`render`].
pub fn connection(row: &ConnectionRow) {
    is_text(&render::connection(row));
}

/// See [`render`].
pub fn event(row: &EventRow) {
    is_text(&render::event(row, true));
}

/// See [`render`].
pub fn explanation(said: &Explanation) {
    is_text(&render::explanation(said));
}

/// See [`render`].
pub fn plan(rows: &[PlanRow]) {
    is_text(&render::plan(rows));
}

/// See [`super::report`].
pub fn report(said: &Report) {
    is_text(&reports::shown(said));
}

/// See [`render`].
pub fn teardown(said: &TeardownReport) {
    is_text(&render::teardown(said));
}

/// What a terminal gets tells it to do nothing.
fn is_text(shown: &str) {
    let mut tame = terminal::harmless(shown).into_owned();
    while let Some((before, after)) = tame.split_once("\x1b[") {
        let (codes, rest) = after.split_once('m').unwrap_or((after, ""));
        assert!(codes.chars().all(|c| c.is_ascii_digit() || c == ';'), "{tame:?}");
        tame = format!("{before}{rest}");
    }
    assert!(tame.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{tame:?}");
}
