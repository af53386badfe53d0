//! DNS lists: which are asked, through whom, how often.
//!
//! Owns: what `[lists]` means. Must not: know what a code means; the table does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::numbers::whole;
use super::resolver;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawLists};
use crate::config::read::At;
use crate::config::settings::{HostView, ListSettings};
use crate::signal::lists::{DEFAULT, List, ListTable, Pace};

/// From a minute, as often as any list's own data change, to a day.
const INTERVAL: RangeInclusive<i64> = 1..=1_440;
/// What a free list takes for abuse lies far above.
const QUERIES: RangeInclusive<i64> = 1..=60_000;
/// Open resolvers that lists do not answer, or answer wrongly: Google, Cloudflare, Quad9, OpenDNS, Level 3 (their own pages,
/// 2026-11).
const PUBLIC: [&str; 14] = [
    "8.8.8.8",
    "8.8.4.4",
    "1.1.1.1",
    "1.0.0.1",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.222.222",
    "208.67.220.220",
    "4.2.2.1",
    "4.2.2.2",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
    "2606:4700:4700::1111",
    "2620:fe::fe",
];

/// What `[lists]` says.
pub(super) fn lists(raw: &RawConfig, view: &HostView, problems: &mut Vec<Problem>) -> Option<ListSettings> {
    let table = raw.lists.as_ref()?;
    let written = &table.value;
    let minutes = whole(
        written.interval_minutes.as_ref(),
        INTERVAL,
        10,
        ("interval_minutes", code::LISTS_INVALID),
        problems,
    );
    let queries = whole(
        written.queries_per_minute.as_ref(),
        QUERIES,
        600,
        ("queries_per_minute", code::LISTS_INVALID),
        problems,
    );
    let lists = chosen(written, view, problems);
    let keys = keys(written, &lists, problems);
    if written.resolver.is_none() && !written.unread.contains(&"resolver") {
        problems.push(
            Problem::error(code::MISSING_KEY, "`[lists]` needs `resolver`")
                .at(&table.span, "whom to ask is missing")
                .help("Write resolver = \"127.0.0.1\", or where the resolver is that looks up names for this host's MTA."),
        );
    }
    let resolver = resolver::resolver(written.resolver.as_ref()?, code::LISTS_INVALID, problems)?;
    if let Some(written) = &written.resolver {
        is_public(written, resolver, problems);
    }
    let pace = Pace {
        interval: SignedDuration::from_mins(minutes),
        per_minute: u32::try_from(queries).unwrap_or(u32::MAX),
    };
    Some(ListSettings { resolver, lists, pace, keys })
}

fn chosen(written: &RawLists, view: &HostView, problems: &mut Vec<Problem>) -> Vec<List> {
    let (name, text) = match &view.lists {
        Some((name, text)) => (name.as_str(), text.as_str()),
        None => ("config/lists.toml", DEFAULT),
    };
    // What is wrong with it is told with its own places.
    let Some(table) = ListTable::load(name, text).table else { return vec![] };
    let Some(named) = &written.names else { return table.defaults() };
    let mut chosen: Vec<List> = vec![];
    for item in &named.value.items {
        match table.find(&item.value) {
            Ok(list) if chosen.iter().any(|other| other.name == list.name) => {}
            Ok(list) => chosen.push(list.clone()),
            Err(suggestion) => problems.push(
                Problem::error(code::UNKNOWN_LIST, format!("`{}` is not in the table of lists", item.value))
                    .at(&item.span, "")
                    .help(format!(
                        "{suggestion} A list of your own goes into a copy of the table, lists.toml beside this file."
                    )),
            ),
        }
    }
    chosen
}

fn keys(written: &RawLists, lists: &[List], problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let entries = written.keys.iter().flat_map(|keyed| &keyed.value.0);
    let keys: BTreeMap<String, String> =
        entries.map(|(name, file)| (name.value.clone(), file.value.clone())).collect();
    for list in lists.iter().filter(|list| list.wants_key() && !keys.contains_key(&list.name)) {
        let Some(named) = &written.names else { continue };
        problems.push(
            Problem::error(code::LIST_WITHOUT_KEY, format!("`{}` answers only with a key", list.name))
                .at(&named.span, "it is asked")
                .help(format!("Write keys = {{ \"{}\" = \"/etc/mailsteer/KEY\" }}: a file that holds the key and that nobody else can read.", list.name)),
        );
    }
    keys
}

fn is_public(written: &At<String>, resolver: SocketAddr, problems: &mut Vec<Problem>) {
    let is_it = |known: &&str| known.parse::<IpAddr>().is_ok_and(|known| known == resolver.ip());
    if PUBLIC.iter().any(is_it) {
        problems.push(
            Problem::warning(code::PUBLIC_RESOLVER, format!("lists do not answer {}", resolver.ip()))
                .at(&written.span, "a public resolver")
                .help("Spamhaus and others refuse public resolvers, since they cannot tell who asks. Run one on this host (unbound, without forwarders) and name it."),
        );
    }
}
