//! Pools: their sources with names, weights and tiers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::address::{Kind, address, expand, kind, neighbourhood};
use super::names;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawPool, RawSource, RawSourceTable};
use crate::config::read::{At, Many, did_you_mean};
use crate::config::settings::{Balance, PoolSource, Tier};
use crate::model::Family;

/// As many slots as a lane has for one family.
const SLOTS: u64 = 4096;
/// No share needs to be larger.
const MAX_WEIGHT: i64 = 65_535;

/// A source and where it stands.
pub(super) struct CheckedSource {
    /// What it means.
    pub(super) source: PoolSource,
    /// Its entry in the file; a range has many sources.
    pub(super) span: Range<usize>,
    /// The operator named it.
    pub(super) named: bool,
    /// Its weight stands in its own table.
    weighed: bool,
}

/// A pool and where it stands.
pub(super) struct CheckedPool {
    /// Its name.
    pub(super) name: At<String>,
    /// Its EHLO name.
    pub(super) ehlo: Option<String>,
    /// How its lanes draw.
    pub(super) balance: Balance,
    /// Its sources, primary ones first.
    pub(super) sources: Vec<CheckedSource>,
    /// With fewer eligible primary sources the spare ones take over.
    pub(super) min_healthy: u32,
}

/// Every pool of the file.
pub(super) fn pools(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<CheckedPool> {
    let entries = raw.pool.iter().flat_map(|table| &table.value.0);
    entries.map(|(name, raw)| pool(name, raw, problems)).collect()
}

fn pool(name: &At<String>, raw: &RawPool, problems: &mut Vec<Problem>) -> CheckedPool {
    names::name(name, "a pool", problems);
    if let Some(ehlo) = &raw.ehlo {
        names::ehlo(ehlo, problems);
    }
    let example = "[\"203.0.113.10\"]";
    let primary =
        super::required(raw.addresses.as_ref(), &raw.unread, name, ("pool", "addresses", example), problems);
    let mut sources = primary.map(|list| tier(name, list, Tier::Primary, problems)).unwrap_or_default();
    if let Some(list) = primary.filter(|list| list.value.is_empty()) {
        problems.push(
            Problem::error(code::POOL_EMPTY, format!("pool `{}` has no address", name.value))
                .at(&list.span, "nothing to leave from")
                .help("List at least one address, or remove the pool."),
        );
    }
    if let Some(list) = &raw.spare {
        sources.extend(tier(name, list, Tier::Spare, problems));
    }
    weigh(name, raw, &mut sources, problems);
    same_network(name, &sources, problems);
    CheckedPool {
        name: name.clone(),
        ehlo: raw.ehlo.as_ref().map(|ehlo| ehlo.value.clone()),
        balance: raw.balance.as_ref().map(|word| word.value.0).unwrap_or_default(),
        min_healthy: min_healthy(raw, &sources, problems),
        sources,
    }
}

/// At most all of them: with more the spare ones would serve for ever.
fn min_healthy(raw: &RawPool, sources: &[CheckedSource], problems: &mut Vec<Problem>) -> u32 {
    let Some(written) = &raw.min_healthy else { return 1 };
    let primary = sources.iter().filter(|one| one.source.tier == Tier::Primary).count();
    match u32::try_from(written.value) {
        Ok(least) if (1..=primary.max(1)).contains(&(least as usize)) => least,
        _ => {
            problems.push(
                Problem::error(
                    code::MIN_HEALTHY_INVALID,
                    format!("{} of {primary} addresses cannot be healthy at least", written.value),
                )
                .at(&written.span, format!("1 to {}", primary.max(1)))
                .help("With fewer eligible addresses than this the spare ones take over: write how many the pool needs to carry its mail."),
            );
            1
        }
    }
}

fn tier(
    pool: &At<String>,
    list: &At<Many<RawSource>>,
    tier: Tier,
    problems: &mut Vec<Problem>,
) -> Vec<CheckedSource> {
    let mut found: Vec<CheckedSource> = vec![];
    for item in &list.value.items {
        let pairs = match &item.value {
            RawSource::Text(text) => {
                let text = At { value: text.clone(), span: item.span.clone() };
                expand(&text, problems).into_iter().map(|address| (address, None)).collect()
            }
            RawSource::Table(table) => pair(table, &item.span, problems),
        };
        usable(&pairs, &item.span, problems);
        for (local, public) in pairs {
            let number = found.len() + 1;
            let default = match tier {
                Tier::Primary => format!("{}-{number}", pool.value),
                Tier::Spare => format!("{}-spare-{number}", pool.value),
            };
            let (name, weight) = match &item.value {
                RawSource::Table(table) => label(table, problems),
                RawSource::Text(_) => (None, None),
            };
            let named = name.is_some();
            let source = PoolSource {
                name: name.unwrap_or(default),
                local,
                public: public.unwrap_or(local),
                weight: weight.unwrap_or(1),
                tier,
                uplink: None,
            };
            found.push(CheckedSource { source, span: item.span.clone(), named, weighed: weight.is_some() });
        }
    }
    found
}

fn pair(
    table: &RawSourceTable,
    span: &Range<usize>,
    problems: &mut Vec<Problem>,
) -> Vec<(IpAddr, Option<IpAddr>)> {
    let Some(local) = &table.local else {
        problems.push(
            Problem::error(code::MISSING_KEY, "a source needs `local`, its address on this host")
                .at(span, "`local` is missing")
                .help("Write { local = \"10.0.1.10\", public = \"198.51.100.7\" }, or the address alone in quotes."),
        );
        return vec![];
    };
    let Some(local) = address(local, problems) else { return vec![] };
    let Some(written) = &table.public else { return vec![(local, None)] };
    let Some(public) = address(written, problems) else { return vec![] };
    if Family::of(public) != Family::of(local) {
        problems.push(
            Problem::error(code::PUBLIC_OTHER_FAMILY, format!("{local} cannot be {public} to the world"))
                .at(&written.span, format!("{}, where `local` is {}", Family::of(public), Family::of(local)))
                .help("A 1:1 NAT keeps the family. Write a source of its own for each family."),
        );
    }
    vec![(local, Some(public))]
}

fn label(table: &RawSourceTable, problems: &mut Vec<Problem>) -> (Option<String>, Option<u32>) {
    if let Some(name) = &table.name {
        names::name(name, "a source", problems);
    }
    let name = table.name.as_ref().map(|name| name.value.clone());
    (name, table.weight.as_ref().map(|weight| weight_of(weight, problems)))
}

/// Reports addresses that no mail can leave from, and the misunderstandings of 1:1 NAT; once for an entry.
fn usable(pairs: &[(IpAddr, Option<IpAddr>)], span: &Range<usize>, problems: &mut Vec<Problem>) {
    let unusable =
        pairs.iter().flat_map(|(local, public)| [Some(*local), *public]).flatten().find_map(|address| {
            if let Kind::Unusable(why) = kind(address) { Some((address, why)) } else { None }
        });
    if let Some((address, why)) = unusable {
        problems.push(
            Problem::error(code::SOURCE_NOT_USABLE, format!("no mail can leave from {address}"))
                .at(span, why)
                .help("Write the public addresses of this host, as receivers shall see them."),
        );
        return;
    }
    for (local, public) in pairs {
        match (kind(*local), public, public.map(kind)) {
            (Kind::Private(what), None, _) => {
                problems.push(
                    Problem::error(code::PUBLIC_MISSING, format!("receivers never see {local}"))
                        .at(span, format!("{what}; its public address is not given"))
                        .help(format!(
                            "Behind a 1:1 NAT (most clouds) the host has a private address and the world sees a public one. \
                             DNS, lists and verdicts are about the public one, so write both: {{ local = \"{local}\", public = \"...\" }}."
                        )),
                );
                return;
            }
            (_, Some(public), Some(Kind::Private(what))) => {
                problems.push(
                    Problem::error(code::PUBLIC_IS_PRIVATE, format!("{public} cannot be a public address"))
                        .at(span, what)
                        .help(
                            "`local` is the address on this host, `public` the one that receivers see after the 1:1 NAT. \
                             The cloud's console lists it, or ask from this address: \
                             curl --interface <local> https://icanhazip.com",
                        ),
                );
                return;
            }
            _ => {}
        }
    }
}

fn weight_of(weight: &At<i64>, problems: &mut Vec<Problem>) -> u32 {
    if !(0..=MAX_WEIGHT).contains(&weight.value) {
        problems.push(
            Problem::error(code::WEIGHT_INVALID, format!("a weight cannot be {}", weight.value))
                .at(&weight.span, format!("0 to {MAX_WEIGHT}"))
                .help(
                    "A source with weight 2 takes twice the connections of one with weight 1; 0 takes none.",
                ),
        );
        return 1;
    }
    u32::try_from(weight.value).unwrap_or(1)
}

fn weigh(pool: &At<String>, raw: &RawPool, sources: &mut [CheckedSource], problems: &mut Vec<Problem>) {
    let names: Vec<String> = sources.iter().map(|one| one.source.name.clone()).collect();
    for (name, weight) in raw.weights.iter().flat_map(|table| &table.value.0) {
        let value = weight_of(weight, problems);
        let Some(one) = sources.iter_mut().find(|one| one.source.name == name.value) else {
            problems.push(unknown_source(pool, name, &names));
            continue;
        };
        if one.weighed {
            problems.push(
                Problem::error(code::WEIGHT_TWICE, format!("the weight of `{}` is given twice", name.value))
                    .at(&name.span, "here")
                    .at(&one.span, "and with the address")
                    .help("Remove one of them."),
            );
        }
        one.source.weight = value;
    }
    let span = raw.weights.as_ref().map_or(&pool.span, |table| &table.span);
    if !sources.is_empty() && sources.iter().all(|one| one.source.weight == 0) {
        problems.push(
            Problem::error(code::WEIGHTS_ALL_ZERO, format!("no source of pool `{}` may be used", pool.value))
                .at(span, "every weight is 0")
                .help("Give at least one source a weight over 0. To stop a stream, suspend its sources."),
        );
    }
    approximated(pool, span, sources, problems);
}

fn unknown_source(pool: &At<String>, name: &At<String>, names: &[String]) -> Problem {
    let help = match (did_you_mean(&name.value, names.iter().map(String::as_str)), names) {
        (_, []) => "The pool has no source.".to_owned(),
        (_, [only]) => format!("Its only source is `{only}`."),
        (close, [first, .., last]) => {
            let close = close.map(|close| format!("Did you mean `{close}`? ")).unwrap_or_default();
            format!("{close}Its sources are `{first}` to `{last}`, numbered in the order of its addresses.")
        }
    };
    Problem::error(code::UNKNOWN_SOURCE, format!("pool `{}` has no source `{}`", pool.value, name.value))
        .at(&name.span, "unknown source")
        .help(help)
}

fn approximated(
    pool: &At<String>,
    span: &Range<usize>,
    sources: &[CheckedSource],
    problems: &mut Vec<Problem>,
) {
    for tier in [Tier::Primary, Tier::Spare] {
        for family in Family::BOTH {
            let of_tier =
                |one: &&CheckedSource| one.source.tier == tier && Family::of(one.source.local) == family;
            let weights = sources.iter().filter(of_tier).map(|one| u64::from(one.source.weight));
            let (sum, divisor) =
                weights.fold((0, 0), |(sum, divisor), weight| (sum + weight, gcd(divisor, weight)));
            if divisor > 0 && sum / divisor > SLOTS {
                problems.push(
                    Problem::warning(
                        code::WEIGHTS_APPROXIMATED,
                        format!("the shares of pool `{}` will not be exact", pool.value),
                    )
                    .at(span, format!("its {family} weights need {} slots, there are {SLOTS}", sum / divisor))
                    .help("Use smaller numbers: 3 and 1 say the same as 3000 and 1001, nearly."),
                );
                return;
            }
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Warns of spares that fall together with the primary sources.
fn same_network(pool: &At<String>, sources: &[CheckedSource], problems: &mut Vec<Problem>) {
    let primary: BTreeMap<_, _> = sources
        .iter()
        .filter(|one| one.source.tier == Tier::Primary)
        .map(|one| (neighbourhood(one.source.public), one))
        .collect();
    let mut spares = sources.iter().filter(|one| one.source.tier == Tier::Spare);
    let together = |one: &CheckedSource| primary.get(&neighbourhood(one.source.public)).copied();
    if let Some((spare, other)) = spares.find_map(|one| together(one).map(|other| (one, other))) {
        let net = neighbourhood(spare.source.public);
        problems.push(
            Problem::warning(
                code::SPARE_SAME_NETWORK,
                format!("pool `{}` has addresses and spare in one network, {net}", pool.value),
            )
            .at(&spare.span, "this spare")
            .at(&other.span, "is a neighbour of this address")
            .help(format!(
                "Lists and receivers judge a whole /{}: what takes the addresses away takes such a spare too. Prefer a spare in another network.",
                net.prefix_len()
            )),
        );
    }
}
