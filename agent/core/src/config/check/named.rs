//! Providers by name: which groups of the table, through whom they are found, how often.
//!
//! Owns: what `[providers]` means. Must not: know whose which name is; the table and `[provider.NAME]` say it.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::numbers::whole;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawProviders};
use crate::config::read::At;
use crate::config::settings::{HostView, Learning};
use crate::signal::providers::{DEFAULT, Group, Groups, LearnerPace, ProviderTable, Wanted};

/// From five minutes, as long as large providers' records are good for, to a day.
const INTERVAL: RangeInclusive<i64> = 5..=1_440;
const QUERIES: RangeInclusive<i64> = 1..=60_000;
const DNS: u16 = 53;

/// The groups that are providers here.
pub(super) fn groups(raw: &RawConfig, view: &HostView, problems: &mut Vec<Problem>) -> Vec<Group> {
    let Some(written) = raw.providers.as_ref().map(|table| &table.value) else { return vec![] };
    let (name, text) = match &view.providers {
        Some((name, text)) => (name.as_str(), text.as_str()),
        None => ("config/providers.toml", DEFAULT),
    };
    // What is wrong with it is told with its own places.
    let Some(table) = ProviderTable::load(name, text).table else { return vec![] };
    let Some(named) = &written.names else {
        return table.groups.into_iter().filter(|group| group.default).collect();
    };
    let mut chosen: Vec<Group> = vec![];
    for item in &named.value.items {
        match table.find(&item.value) {
            Ok(group) if chosen.iter().any(|other| other.name == group.name) => {}
            Ok(group) => chosen.push(group.clone()),
            Err(suggestion) => problems.push(
                Problem::error(
                    code::UNKNOWN_PROVIDER,
                    format!("`{}` is not in the table of providers", item.value),
                )
                .at(&item.span, "")
                .help(format!("{suggestion} One of your own is [provider.NAME] with `mx`.")),
            ),
        }
    }
    chosen
}

/// How addresses are found. `domains`: those of the groups.
pub(super) fn learning(
    raw: &RawConfig,
    groups: Groups,
    mut domains: Vec<String>,
    problems: &mut Vec<Problem>,
) -> Option<Learning> {
    let table = raw.providers.as_ref()?;
    let written = &table.value;
    let pace = pace(written, problems);
    for domain in crate::signal::providers::domains(written.domains.as_ref(), problems) {
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    if written.resolver.is_none() && !written.unread.contains(&"resolver") {
        problems.push(
            Problem::error(code::MISSING_KEY, "`[providers]` needs `resolver`")
                .at(&table.span, "whom to ask is missing")
                .help("Write resolver = \"127.0.0.1\", or where the resolver is that looks up names for this host's MTA."),
        );
    }
    let resolver = resolver(written.resolver.as_ref()?, problems)?;
    Some(Learning { resolver, wanted: Wanted { groups, domains, pace } })
}

fn pace(written: &RawProviders, problems: &mut Vec<Problem>) -> LearnerPace {
    let minutes = whole(
        written.interval_minutes.as_ref(),
        INTERVAL,
        60,
        ("interval_minutes", code::PROVIDERS_INVALID),
        problems,
    );
    let queries = whole(
        written.queries_per_minute.as_ref(),
        QUERIES,
        120,
        ("queries_per_minute", code::PROVIDERS_INVALID),
        problems,
    );
    let per_minute = u32::try_from(queries).unwrap_or(u32::MAX);
    LearnerPace { interval: SignedDuration::from_mins(minutes), per_minute }
}

fn resolver(written: &At<String>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let address = || written.value.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, DNS));
    let resolver = written.value.parse::<SocketAddr>().ok().or_else(address);
    if resolver.is_none() {
        problems.push(
            Problem::error(code::PROVIDERS_INVALID, format!("`{}` is no resolver", written.value))
                .at(&written.span, "an address, or an address and a port")
                .help("Write \"127.0.0.1\", \"192.0.2.53:5353\" or \"[2001:db8::53]:53\"."),
        );
    }
    resolver
}
