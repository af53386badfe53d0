//! Hooks: who is told of which events.
//!
//! Owns: what `[hook.NAME]` means. Must not: know which events tell of trouble; the events do.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::numbers::whole;
use super::{names, urls};
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawHook};
use crate::config::read::{At, Many, did_you_mean};
use crate::config::settings::{Hook, HookWay};
use crate::decide::EVENT_KINDS;

/// A second to five minutes: whoever takes longer holds up what comes behind.
const SECONDS: RangeInclusive<i64> = 1..=300;
/// Up to a day.
const MINUTES: RangeInclusive<i64> = 0..=1_440;

/// Every hook of the file, in file order.
pub(super) fn hooks(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<Hook> {
    let written = raw.hook.iter().flat_map(|table| &table.value.0);
    written.filter_map(|(name, raw)| hook(name, raw, problems)).collect()
}

fn hook(name: &At<String>, raw: &RawHook, problems: &mut Vec<Problem>) -> Option<Hook> {
    names::name(name, "a hook", problems);
    let events = raw.events.as_ref().map(|events| kinds(events, problems));
    let seconds =
        whole(raw.timeout_seconds.as_ref(), SECONDS, 10, ("timeout_seconds", code::HOOK_INVALID), problems);
    let minutes =
        whole(raw.repeat_minutes.as_ref(), MINUTES, 10, ("repeat_minutes", code::HOOK_INVALID), problems);
    let way = way(name, raw, problems)?;
    Some(Hook {
        name: name.value.clone(),
        events,
        way,
        timeout: SignedDuration::from_secs(seconds),
        repeat: SignedDuration::from_mins(minutes),
    })
}

fn way(name: &At<String>, raw: &RawHook, problems: &mut Vec<Problem>) -> Option<HookWay> {
    match (&raw.url, &raw.command) {
        (Some(url), None) => to_url(url, raw, problems),
        (None, Some(command)) => {
            only_with_url(raw, problems);
            program(command, problems)
        }
        (Some(url), Some(command)) => {
            problems.push(
                Problem::error(
                    code::HOOK_INVALID,
                    format!("hook `{}` has a `url` and a `command`", name.value),
                )
                .at(&command.span, "this")
                .at(&url.span, "or this")
                .help("Write a hook for each."),
            );
            None
        }
        (None, None) => {
            if !raw.unread.contains(&"url") && !raw.unread.contains(&"command") {
                problems.push(
                    Problem::error(
                        code::MISSING_KEY,
                        format!("hook `{}` has neither `url` nor `command`", name.value),
                    )
                    .at(&name.span, "whom to tell is missing")
                    .help("Write url = \"https://HOST/PATH\" or command = [\"/usr/local/bin/PROGRAM\"]."),
                );
            }
            None
        }
    }
}

fn to_url(url: &At<String>, raw: &RawHook, problems: &mut Vec<Problem>) -> Option<HookWay> {
    let fits = urls::url(url, code::HOOK_INVALID, problems);
    let header = raw.secret_header.as_ref().map_or("Authorization", |header| header.value.as_str());
    if let Some(written) = &raw.secret_header {
        header_name(written, raw, problems);
    }
    let secret = raw.secret_file.as_ref().map(|file| (header.to_owned(), file.value.clone()));
    if let Some(file) = raw.secret_file.as_ref().filter(|_| urls::in_clear(&url.value)) {
        problems.push(
            Problem::warning(code::SECRET_IN_CLEAR, "the secret is sent in clear")
                .at(&url.span, "http, and not this host")
                .at(&file.span, "the secret")
                .help("Whoever is on the way can read it. Write https."),
        );
    }
    let ca = raw.ca_file.as_ref().map(|file| file.value.clone());
    fits.then(|| HookWay::Url { url: url.value.clone(), secret, ca })
}

fn header_name(written: &At<String>, raw: &RawHook, problems: &mut Vec<Problem>) {
    let name = &written.value;
    let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if is_token && raw.secret_file.is_some() {
        return;
    }
    let why = if is_token { "and what it says, in `secret_file`, is missing" } else { "no name of a header" };
    problems.push(
        Problem::error(code::HOOK_INVALID, format!("the header `{name}` cannot bear a secret"))
            .at(&written.span, why)
            .help("Write secret_header = \"X-Token\" and secret_file = \"/etc/mailsteer/hook.key\"."),
    );
}

/// What a program has no use for, and somebody might rely on.
fn only_with_url(raw: &RawHook, problems: &mut Vec<Problem>) {
    let keys =
        [("secret_header", &raw.secret_header), ("secret_file", &raw.secret_file), ("ca_file", &raw.ca_file)];
    for (key, written) in keys.into_iter().filter_map(|(key, written)| Some((key, written.as_ref()?))) {
        problems.push(
            Problem::error(code::HOOK_INVALID, format!("`{key}` is of no use to a program"))
                .at(&written.span, "")
                .help("Remove it: a program finds its own secrets."),
        );
    }
}

fn program(command: &At<Many<String>>, problems: &mut Vec<Problem>) -> Option<HookWay> {
    let words: Vec<String> = command.value.items.iter().map(|item| item.value.clone()).collect();
    let absolute = words.first().is_some_and(|program| program.starts_with('/') && program.len() > 1);
    if absolute && !words.iter().any(|word| word.contains('\0')) {
        return Some(HookWay::Command(words));
    }
    // What could not be read was reported.
    if command.value.whole {
        problems.push(
            Problem::error(code::HOOK_INVALID, "there is no such program")
                .at(&command.span, "its absolute path comes first")
                .help("Write command = [\"/usr/local/bin/PROGRAM\", \"ARGUMENT\"]. There is no search path and no shell."),
        );
    }
    None
}

fn kinds(written: &At<Many<String>>, problems: &mut Vec<Problem>) -> BTreeSet<String> {
    if written.value.is_empty() {
        problems.push(
            Problem::error(code::HOOK_INVALID, "this hook is told of nothing")
                .at(&written.span, "no event")
                .help("Leave `events` out for those that tell of trouble."),
        );
    }
    for item in written.value.items.iter().filter(|item| !EVENT_KINDS.contains(&item.value.as_str())) {
        let close = did_you_mean(&item.value, EVENT_KINDS)
            .map(|close| format!("Did you mean `{close}`? "))
            .unwrap_or_default();
        problems.push(
            Problem::error(code::UNKNOWN_EVENT, format!("there is no event `{}`", item.value))
                .at(&item.span, "unknown event")
                .help(format!("{close}The events: {}.", EVENT_KINDS.join(", "))),
        );
    }
    written.value.items.iter().map(|item| item.value.clone()).collect()
}
