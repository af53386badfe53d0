//! Feeds: what is read of receivers' and others' opinions, from where, and for how long it counts.
//!
//! Owns: what `[feed.NAME]` means. Must not: know what a table of SNDS looks like; the parser does.

use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::numbers::whole;
use super::{names, urls};
use crate::config::problem::{Problem, code};
use crate::config::raw::{FeedWord, RawConfig, RawFeed};
use crate::config::read::{At, suggest};
use crate::config::settings::{Feed, FeedKind, OTHER};
use crate::signal::feeds::JsonRule;

/// A minute, for tests, to a week; data of a day do not change more often than each hour.
const INTERVAL: RangeInclusive<i64> = 1..=10_080;
/// A day to a month: what is older tells of another sender.
const DAYS: RangeInclusive<i64> = 1..=31;
/// As with hooks.
const SECONDS: RangeInclusive<i64> = 1..=300;
/// Where Microsoft gives them (mail-facts 3.5, read 2026-08).
const SNDS_DATA: &str = "https://sendersupport.olc.protection.outlook.com/snds/data.aspx?key={key}";
const SNDS_STATUS: &str = "https://sendersupport.olc.protection.outlook.com/snds/ipStatus.aspx?key={key}";

/// Every feed of the file, in file order.
pub(super) fn feeds(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<Feed> {
    let written = raw.feed.iter().flat_map(|table| &table.value.0);
    written.filter_map(|(name, one)| feed(name, one, raw, problems)).collect()
}

fn feed(name: &At<String>, raw: &RawFeed, all: &RawConfig, problems: &mut Vec<Problem>) -> Option<Feed> {
    names::name(name, "a feed", problems);
    let invalid = code::FEED_INVALID;
    let minutes =
        whole(raw.interval_minutes.as_ref(), INTERVAL, 360, ("interval_minutes", invalid), problems);
    let days = whole(raw.max_age_days.as_ref(), DAYS, 3, ("max_age_days", invalid), problems);
    let seconds = whole(raw.timeout_seconds.as_ref(), SECONDS, 30, ("timeout_seconds", invalid), problems);
    let provider = raw.provider.as_ref().map(|provider| {
        known_provider(provider, all, problems);
        provider.value.clone()
    });
    let example = ("feed", "kind", "\"snds\"");
    let kind = super::required(raw.kind.as_ref(), &raw.unread, name, example, problems)?;
    let kind = match kind.value.0 {
        FeedWord::Snds => snds(name, raw, problems),
        FeedWord::Json => json(name, raw, problems),
    };
    let header = raw.key_header.as_ref().map(|header| header.value.clone());
    let key = raw.key_file.as_ref().map(|file| (file.value.clone(), header));
    let ca = raw.ca_file.as_ref().map(|file| file.value.clone());
    Some(Feed {
        name: name.value.clone(),
        kind: kind?,
        key,
        ca,
        provider,
        interval: SignedDuration::from_mins(minutes),
        max_age: SignedDuration::from_hours(24 * days),
        timeout: SignedDuration::from_secs(seconds),
    })
}

fn known_provider(provider: &At<String>, all: &RawConfig, problems: &mut Vec<Problem>) {
    let tables = all.provider.iter().flat_map(|table| &table.value.0);
    let mut known: Vec<&str> = tables.map(|(name, _)| name.value.as_str()).collect();
    known.push(OTHER);
    if !known.contains(&provider.value.as_str()) {
        problems.push(
            Problem::error(code::FEED_INVALID, format!("there is no provider `{}`", provider.value))
                .at(&provider.span, "")
                .help(suggest(&provider.value, &known, "The providers of this file")),
        );
    }
}

fn snds(name: &At<String>, raw: &RawFeed, problems: &mut Vec<Problem>) -> Option<FeedKind> {
    let unfit = [
        ("pointer", raw.pointer.as_ref().map(|at| &at.span)),
        ("good", raw.good.as_ref().map(|at| &at.span)),
        ("bad", raw.bad.as_ref().map(|at| &at.span)),
    ];
    for (key, span) in unfit.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        problems.push(
            Problem::error(code::FEED_INVALID, format!("SNDS has no use for `{key}`"))
                .at(span, "")
                .help("Remove it: its table says RED, YELLOW or GREEN."),
        );
    }
    let given = |written: Option<&At<String>>, default: &str| {
        written.map_or_else(|| default.to_owned(), |url| url.value.clone())
    };
    let data = given(raw.url.as_ref(), SNDS_DATA);
    // With another place for the one, the other is not looked for at Microsoft's.
    let status = match (&raw.status_url, &raw.url) {
        (Some(url), _) => Some(url.value.clone()),
        (None, None) => Some(SNDS_STATUS.to_owned()),
        (None, Some(_)) => None,
    };
    let mut sound = true;
    for url in [&raw.url, &raw.status_url].into_iter().flatten() {
        sound &= urls::url(url, code::FEED_INVALID, problems);
    }
    let urls: Vec<&str> = std::iter::once(&data).chain(&status).map(String::as_str).collect();
    sound &= keyed(name, raw, &urls, problems);
    sound.then_some(FeedKind::Snds { data, status })
}

fn json(name: &At<String>, raw: &RawFeed, problems: &mut Vec<Problem>) -> Option<FeedKind> {
    if let Some(url) = &raw.status_url {
        problems.push(
            Problem::error(code::FEED_INVALID, "only SNDS has a `status_url`")
                .at(&url.span, "")
                .help("Remove it, or write a feed of its own."),
        );
    }
    let missing = |key: &'static str, example: &'static str| ("feed", key, example);
    let unread = &raw.unread;
    let url = super::required(
        raw.url.as_ref(),
        unread,
        name,
        missing("url", "\"https://HOST/ip/{address}\""),
        problems,
    );
    let pointer =
        super::required(raw.pointer.as_ref(), unread, name, missing("pointer", "\"/data/score\""), problems);
    let good = super::required(raw.good.as_ref(), unread, name, missing("good", "80"), problems);
    let bad = super::required(raw.bad.as_ref(), unread, name, missing("bad", "50"), problems);
    let (url, pointer, good, bad) = (url?, pointer?, good?, bad?);
    let mut sound = urls::url(url, code::FEED_INVALID, problems);
    let mut wrong = |span, message: &str, help: &str| {
        problems.push(Problem::error(code::FEED_INVALID, message).at(span, "").help(help));
        sound = false;
    };
    if !url.value.contains("{address}") {
        wrong(
            &url.span,
            "each address is asked for by itself",
            "Write {address} where it stands in the URL.",
        );
    }
    if !pointer.value.starts_with('/') {
        wrong(&pointer.span, "this is no JSON pointer", "Write \"/score\", or \"/data/0/score\" (RFC 6901).");
    }
    let finite = good.value.is_finite() && bad.value.is_finite();
    if !finite || (good.value - bad.value).abs() < f64::EPSILON * good.value.abs() {
        wrong(
            &bad.span,
            "`good` and `bad` have to differ",
            "With `good` above `bad` more is better, else less is.",
        );
    }
    sound &= keyed(name, raw, &[&url.value], problems);
    let rule = JsonRule { pointer: pointer.value.clone(), good: good.value, bad: bad.value };
    sound.then(|| FeedKind::Json { url: url.value.clone(), rule })
}

/// A key goes into a header or into the URL, and nowhere else; and never in clear.
fn keyed(name: &At<String>, raw: &RawFeed, urls: &[&str], problems: &mut Vec<Problem>) -> bool {
    let in_url = urls.iter().any(|url| url.contains("{key}"));
    let problem = match (&raw.key_file, &raw.key_header) {
        (None, _) if in_url => {
            Problem::error(code::MISSING_KEY, format!("feed `{}` needs `key_file`", name.value))
                .at(&name.span, "its URL has a {key}")
                .help("Write key_file = \"/etc/mailsteer/feed.key\", or the name of a systemd credential.")
        }
        (None, Some(header)) => Problem::error(code::FEED_INVALID, "what the header is to say is missing")
            .at(&header.span, "")
            .help("Write key_file = \"/etc/mailsteer/feed.key\"."),
        (Some(file), None) if !in_url => Problem::error(code::FEED_INVALID, "the key is sent nowhere")
            .at(&file.span, "")
            .help("Write {key} where it stands in the URL, or key_header = \"X-Key\"."),
        (Some(_), Some(header)) if !is_token(&header.value) => {
            Problem::error(code::FEED_INVALID, format!("`{}` is no name of a header", header.value))
                .at(&header.span, "")
                .help("Write key_header = \"X-Key\".")
        }
        (Some(file), _) => {
            if urls.iter().any(|url| urls::in_clear(url)) {
                problems.push(
                    Problem::warning(code::SECRET_IN_CLEAR, "the key is sent in clear")
                        .at(&file.span, "by http, and not to this host")
                        .help("Whoever is on the way can read it. Write https."),
                );
            }
            return true;
        }
        (None, None) => return true,
    };
    problems.push(problem);
    false
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}
