//! DNS compliance: who is asked, what is required, and the domains.
//!
//! Owns: what `[dns]` and `[domain.NAME]` mean. Must not: know what a record says; `signal::dns` does.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::names::is_full_host_name;
use super::numbers::whole;
use super::pools::CheckedPool;
use super::resolver::resolver;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawDns, RawDomain};
use crate::config::read::{At, Many, suggest};
use crate::config::settings::{DnsSettings, Domain, ListSettings};
use crate::signal::dns::Check;

/// From a minute, which only a test wants, to a day.
const INTERVAL: RangeInclusive<i64> = 1..=1_440;
/// What stands between a selector and its domain.
const KEYS: &str = "._domainkey.";

/// What `[dns]` and `[domain.NAME]` say. `lists`: whose resolver serves where `[dns]` names none.
pub(super) fn dns(
    raw: &RawConfig,
    pools: &[CheckedPool],
    lists: Option<&ListSettings>,
    problems: &mut Vec<Problem>,
) -> Option<DnsSettings> {
    let entries = raw.domain.iter().flat_map(|table| &table.value.0);
    let domains: Vec<Domain> =
        entries.filter_map(|(name, written)| domain(name, written, pools, problems)).collect();
    let Some(table) = &raw.dns else {
        unlooked(raw, problems);
        return None;
    };
    let written = &table.value;
    let minutes = whole(
        written.interval_minutes.as_ref(),
        INTERVAL,
        60,
        ("interval_minutes", code::DNS_INVALID),
        problems,
    );
    let require = required(written, &domains, pools, problems);
    let resolver = match &written.resolver {
        Some(named) => resolver(named, code::DNS_INVALID, problems)?,
        None => {
            let of_lists = lists.map(|lists| lists.resolver);
            if of_lists.is_none() && !written.unread.contains(&"resolver") && raw.lists.is_none() {
                problems.push(
                    Problem::error(code::MISSING_KEY, "`[dns]` needs `resolver`")
                        .at(&table.span, "whom to ask is missing")
                        .help("Write resolver = \"127.0.0.1\", or where the resolver is that looks up names for this host's MTA."),
                );
            }
            of_lists?
        }
    };
    Some(DnsSettings { resolver, interval: SignedDuration::from_mins(minutes), require, domains })
}

/// Domains that nobody looks at.
fn unlooked(raw: &RawConfig, problems: &mut Vec<Problem>) {
    let Some((name, _)) = raw.domain.iter().flat_map(|table| &table.value.0).next() else { return };
    problems.push(
        Problem::warning(
            code::DOMAIN_WITHOUT_DNS,
            format!("nobody looks at the records of `{}`", name.value),
        )
        .at(&name.span, "there is no `[dns]`")
        .help("Write [dns] with resolver = \"127.0.0.1\", or where the resolver of this host is."),
    );
}

/// Checks that are required; a warning for those that never run.
fn required(
    written: &RawDns,
    domains: &[Domain],
    pools: &[CheckedPool],
    problems: &mut Vec<Problem>,
) -> BTreeSet<Check> {
    let items = written.require.iter().flat_map(|many| &many.value.items);
    let mut require = BTreeSet::new();
    for item in items {
        let check = item.value.0;
        require.insert(check);
        let missing = match check {
            Check::Ehlo if pools.iter().all(|pool| pool.ehlo.is_none()) => "no pool has `ehlo`",
            Check::Spf if domains.is_empty() => "there is no `[domain.NAME]`",
            _ => continue,
        };
        problems.push(
            Problem::warning(code::DNS_NEVER_CHECKED, format!("`{}` is required and never looked at", check.as_str()))
                .at(&item.span, missing)
                .help("It bars nobody like this. Say what is to be compared, in each pool `ehlo`, for SPF the domains; or leave it out."),
        );
    }
    require
}

fn domain(
    name: &At<String>,
    written: &RawDomain,
    pools: &[CheckedPool],
    problems: &mut Vec<Problem>,
) -> Option<Domain> {
    let is_good = is_domain(name, problems);
    let envelope = match &written.envelope {
        Some(envelope) if !is_domain(envelope, problems) => return None,
        Some(envelope) => envelope.value.to_ascii_lowercase(),
        None => name.value.to_ascii_lowercase(),
    };
    let keys = items(written.dkim.as_ref()).filter_map(|item| key(item, &name.value, problems)).collect();
    let of_pools = items(written.pools.as_ref()).filter(|pool| is_pool(pool, pools, problems));
    let pools = of_pools.map(|pool| pool.value.clone()).collect();
    is_good.then(|| Domain { name: name.value.to_ascii_lowercase(), envelope, keys, pools })
}

fn items(many: Option<&At<Many<String>>>) -> impl Iterator<Item = &At<String>> {
    many.into_iter().flat_map(|many| &many.value.items)
}

fn is_pool(written: &At<String>, pools: &[CheckedPool], problems: &mut Vec<Problem>) -> bool {
    let known: Vec<&str> = pools.iter().map(|pool| pool.name.value.as_str()).collect();
    let is_known = known.contains(&written.value.as_str());
    if !is_known {
        problems.push(
            Problem::error(code::UNKNOWN_POOL, format!("there is no pool `{}`", written.value))
                .at(&written.span, "")
                .help(suggest(&written.value, &known, "The pools")),
        );
    }
    is_known
}

fn is_domain(written: &At<String>, problems: &mut Vec<Problem>) -> bool {
    let is_one = is_full_host_name(&written.value);
    if !is_one {
        problems.push(
            Problem::error(code::BAD_DOMAIN, format!("`{}` is no domain", written.value))
                .at(&written.span, "")
                .help("Write it as it stands after the @: [domain.\"example.com\"], without a dot at the end; one with other letters in its xn-- form."),
        );
    }
    is_one
}

/// Where the key of a selector is.
fn key(written: &At<String>, domain: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let (selector, of) = written.value.split_once(KEYS).unwrap_or((&written.value, domain));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    if !selector.split('.').all(is_label) || !is_full_host_name(of) {
        problems.push(
            Problem::error(code::BAD_DOMAIN, format!("`{}` is no selector", written.value))
                .at(&written.span, "")
                .help("Write what stands in `s=` of the signature, such as \"s1\"; or, where `d=` is another domain, \"s1._domainkey.esp.example\"."),
        );
        return None;
    }
    Some(format!("{selector}{KEYS}{of}").to_ascii_lowercase())
}
