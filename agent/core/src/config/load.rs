//! From a text to a config or to everything that is wrong with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use miette::NamedSource;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::check;
use super::problem::{Problem, code};
use super::raw::RawConfig;
use super::read::FromToml;
use super::settings::{Config, HostView};
use crate::signal::lists::ListTable;
use crate::signal::providers::ProviderTable;
use crate::signal::reply::ReplyTable;

/// After a slip the parser guesses; more guesses than these help nobody.
const MAX_SYNTAX: usize = 5;

/// What became of a file.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The config, if the file has no error.
    pub config: Option<Config>,
    /// Everything that is wrong or unwise, in the order of the file.
    pub problems: Vec<Problem>,
    /// What could not be checked, because the host is not known.
    pub not_checked: Vec<&'static str>,
}

/// Reads and checks a config file, reporting everything that is wrong with it at once.
///
/// `name` is what messages call the file. Without `view.host` only the file itself is checked, and user and group
/// names that the view does not know match nobody.
///
/// With the host, what is missing there now (an adopted address, an uplink's interface) is an error, because it is
/// most often a slip. An agent that starts while a link is down can load the file without `view.host`, with the
/// users and groups still known, and treat what is missing as a fact that may change.
#[must_use]
pub fn load(name: &str, text: &str, view: &HostView) -> Checked {
    let file = Arc::new(NamedSource::new(name, text.to_owned()));
    let mut problems = vec![];
    let (config, not_checked) = match document::<RawConfig>(text, &mut problems) {
        Some(raw) => {
            let (config, not_checked) = check(&raw, view, &mut problems);
            (Some(config), not_checked)
        }
        None => (None, vec!["anything but the syntax"]),
    };
    finish(&mut problems, &file);
    // A table of its own file: its problems have their places there.
    if let Some((name, text)) = &view.lists {
        problems.extend(ListTable::load(name, text).problems);
    }
    if let Some((name, text)) = &view.replies {
        problems.extend(ReplyTable::load(name, text).problems);
    }
    if let Some((name, text)) = &view.providers {
        problems.extend(ProviderTable::load(name, text).problems);
    }
    let config = config.filter(|_| !problems.iter().any(Problem::is_error));
    Checked { config, problems, not_checked }
}

/// What a config asks of a database of countries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountriesAsked {
    /// The file.
    pub database: String,
    /// Two letters each, in capitals; they may be none of a country.
    pub codes: BTreeSet<String>,
}

/// What a config asks of a database of countries, so that it can be read before the config is checked: [`HostView::countries`].
/// `None`: nothing.
#[must_use]
pub fn countries_asked(text: &str) -> Option<CountriesAsked> {
    let raw = document::<RawConfig>(text, &mut vec![])?;
    let database = raw.countries?.value.database?.value;
    let streams = raw.stream.into_iter().flat_map(|table| table.value.0);
    let written = streams.filter_map(|(_, stream)| stream.destination_country);
    let codes = written.flat_map(|many| many.value.items).map(|code| code.value.to_ascii_uppercase());
    Some(CountriesAsked { database, codes: codes.collect() })
}

/// Reads a document, reporting what cannot be read of it; none where it is not TOML.
pub(crate) fn document<T: FromToml + Default>(text: &str, problems: &mut Vec<Problem>) -> Option<T> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(syntax(text, &errors));
        return None;
    }
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    Some(T::from_toml(&root, problems).unwrap_or_default())
}

/// Problems in the order of the file, errors first, each with its place.
pub(crate) fn finish(problems: &mut [Problem], file: &Arc<NamedSource<String>>) {
    problems.sort_by_key(|problem| (problem.severity, problem.start()));
    for problem in problems {
        problem.locate(file);
    }
}

/// Syntax errors, at most one for a line: the rest of the line follows from the first.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut lines = vec![];
    let mut duplicates: Option<usize> = None;
    let mut problems = vec![];
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = text.get(..span.start).unwrap_or_default().matches('\n').count();
        if lines.contains(&line) || lines.len() == MAX_SYNTAX {
            continue;
        }
        let duplicate = error.message() == "duplicate key";
        // Below a table that stands twice, each key is a duplicate again.
        let below = |start: usize| !text.get(start..span.start).unwrap_or_default().contains("\n[");
        if duplicate && duplicates.is_some_and(below) {
            continue;
        }
        lines.push(line);
        if duplicate {
            duplicates = Some(span.start);
        }
        let message = match error.message() {
            "duplicate key" => {
                format!("`{}` stands here a second time", text.get(span.clone()).unwrap_or_default())
            }
            other => format!("this is not TOML: {other}"),
        };
        problems.push(Problem::error(code::SYNTAX, message).at(&span, "").help(
            "Texts stand in quotes, lists in [ ], tables begin with [pool.NAME], and a name or key may stand only once. The rest of the file is checked once its syntax is right.",
        ));
    }
    problems
}
