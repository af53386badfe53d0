//! Logs of MTAs: whose, and where.
//!
//! Owns: what `[log.NAME]` means. Must not: look whether a file is there; it may come later, and the agent says so until it does.

use std::ops::Range;

use super::names;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawLog};
use crate::config::read::At;
use crate::config::settings::{Log, LogPlace};
use crate::signal::log::Mta;

/// What rotation leaves compressed; nobody writes to it.
const COMPRESSED: [&str; 5] = [".gz", ".xz", ".bz2", ".zst", ".Z"];
/// How Docker calls its files.
const ENVELOPES: &str = "-json.log";

/// Every log of the file, in file order.
pub(super) fn logs(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<Log> {
    let mut taken: Vec<(LogPlace, Range<usize>)> = vec![];
    let mut logs = vec![];
    for (name, raw) in raw.log.iter().flat_map(|table| &table.value.0) {
        names::name(name, "a log", problems);
        let mta = raw.mta.as_ref().map_or(Mta::Postfix, |word| word.value.0);
        let Some((place, span)) = place(name, raw, problems) else { continue };
        if let Some((_, other)) = taken.iter().find(|(other, _)| *other == place) {
            problems.push(
                Problem::error(code::LOG_TWICE, format!("log `{}` is another one's", name.value))
                    .at(&span, "")
                    .at(other, "the same")
                    .help("What receivers say would be counted twice. Remove one of them."),
            );
        }
        taken.push((place.clone(), span));
        logs.push(Log { name: name.value.clone(), mta, place });
    }
    logs
}

fn place(name: &At<String>, raw: &RawLog, problems: &mut Vec<Problem>) -> Option<(LogPlace, Range<usize>)> {
    let written = [("file", &raw.file), ("journal", &raw.journal), ("docker", &raw.docker)];
    let written: Vec<(&str, &At<String>)> =
        written.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
    match written.as_slice() {
        [(key, value)] => {
            let place = match *key {
                "file" => file(value, problems).map(LogPlace::File),
                "journal" => journal(value, problems).map(LogPlace::Journal),
                _ => docker(value, problems),
            };
            place.map(|place| (place, value.span.clone()))
        }
        [] => {
            if !["file", "journal", "docker"].iter().any(|key| raw.unread.contains(key)) {
                problems.push(
                    Problem::error(code::LOG_PLACE, format!("log `{}` is nowhere", name.value))
                        .at(&name.span, "`file`, `journal` or `docker` is missing")
                        .help("Write file = \"/var/log/mail.log\", journal = \"postfix@-.service\" or docker = \"CONTAINER\"."),
                );
            }
            None
        }
        [(_, first), others @ ..] => {
            let problem =
                Problem::error(code::LOG_PLACE, format!("log `{}` is in several places", name.value));
            let problem = problem.at(&first.span, "");
            let problem = others.iter().fold(problem, |problem, (_, other)| problem.at(&other.span, ""));
            problems.push(
                problem
                    .help("Give each a log of its own: [log.NAME] is one file, one unit or one container."),
            );
            None
        }
    }
}

fn invalid(value: &At<String>, why: &str, help: &str, problems: &mut Vec<Problem>) {
    problems.push(
        Problem::error(code::LOG_INVALID, format!("`{}` is no place of a log", value.value))
            .at(&value.span, why)
            .help(help),
    );
}

fn file(value: &At<String>, problems: &mut Vec<Problem>) -> Option<String> {
    let path = path(value, problems)?;
    if path.ends_with(ENVELOPES) {
        problems.push(
            Problem::warning(code::LOG_IN_ENVELOPES, format!("`{path}` looks like a container's"))
                .at(&value.span, "each of its lines is in an envelope of JSON")
                .help("Write `docker` in place of `file`: then the envelopes are opened."),
        );
    }
    Some(path)
}

fn path(value: &At<String>, problems: &mut Vec<Problem>) -> Option<String> {
    let path = &value.value;
    let help = "Write the path that the MTA or syslog writes to, such as \"/var/log/mail.log\" or \"/var/log/exim4/mainlog\".";
    let is_one = path.starts_with('/') && !path.ends_with('/');
    if !is_one || path.contains(|c: char| c.is_control() || c == '*') {
        invalid(value, "one file, by its whole path", help, problems);
        return None;
    }
    if COMPRESSED.iter().any(|end| path.ends_with(end)) {
        invalid(value, "nobody writes to it any more", help, problems);
        return None;
    }
    Some(path.clone())
}

/// As `FIELD=VALUE`; what has no `=` is a unit.
fn journal(value: &At<String>, problems: &mut Vec<Problem>) -> Option<String> {
    let help = "Write a unit (\"postfix@-.service\"; `systemctl status` names it) or a field and its value (\"SYSLOG_IDENTIFIER=exim4\").";
    let text = &value.value;
    let (field, wanted) = text.split_once('=').unwrap_or(("_SYSTEMD_UNIT", text));
    let is_field = !field.is_empty()
        && field.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !field.starts_with(|c: char| c.is_ascii_digit());
    if !is_field || wanted.is_empty() || wanted.contains(char::is_control) {
        invalid(value, "no unit, and no field with a value", help, problems);
        return None;
    }
    if !text.contains('=') && !wanted.contains('.') {
        invalid(value, "a unit's name has its kind at the end", help, problems);
        return None;
    }
    Some(format!("{field}={wanted}"))
}

fn docker(value: &At<String>, problems: &mut Vec<Problem>) -> Option<LogPlace> {
    let name = &value.value;
    if name.starts_with('/') {
        return path(value, problems).map(LogPlace::ContainerFile);
    }
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !fits {
        let help = "Write the container's name as `docker ps` shows it, or the path of its json-file (`docker inspect -f '{{.LogPath}}' NAME`).";
        invalid(value, "no container is called so", help, problems);
        return None;
    }
    Some(LogPlace::ContainerJournal(name.clone()))
}
