//! Sources across pools: a source's identity is its public address, and each belongs to one local address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::pools::{CheckedPool, CheckedSource};
use crate::config::problem::{Problem, code};
use crate::config::settings::Tier;

/// As many sources as the mark has numbers for.
const LIMIT: usize = 4079;

type Place<'p> = (&'p CheckedPool, &'p CheckedSource);

/// Checks every source against every other.
pub(super) fn check(pools: &[CheckedPool], problems: &mut Vec<Problem>) {
    let mut seen = Seen::default();
    for pool in pools {
        for source in &pool.sources {
            seen.add((pool, source), problems);
        }
    }
    let distinct: BTreeSet<IpAddr> = seen.by_local.keys().copied().collect();
    if distinct.len() > LIMIT {
        problems.push(
            Problem::error(code::TOO_MANY_SOURCES, format!("{} sources are more than {LIMIT}", distinct.len()))
                .help("The packet mark has room for 4079. Shorten the ranges to the addresses that mail leaves from."),
        );
    }
}

#[derive(Default)]
struct Seen<'p> {
    by_public: BTreeMap<IpAddr, Place<'p>>,
    by_local: BTreeMap<IpAddr, Place<'p>>,
    by_name: BTreeMap<&'p str, Place<'p>>,
    /// Pairs of entries already reported: overlapping ranges are one problem, not one for each address.
    told: BTreeSet<(usize, usize)>,
}

impl<'p> Seen<'p> {
    fn add(&mut self, place: Place<'p>, problems: &mut Vec<Problem>) {
        let (_, new) = place;
        let public = self.by_public.get(&new.source.public).copied();
        let local = self.by_local.get(&new.source.local).copied();
        if let Some(problem) = public.or(local).and_then(|old| self.again(old, place)) {
            problems.push(problem);
        }
        let taken = self.by_name.get(new.source.name.as_str()).copied();
        if let Some((_, old)) = taken.filter(|(_, old)| old.source.public != new.source.public) {
            problems.push(
                Problem::error(code::SOURCE_NAME_TAKEN, format!("two sources are named `{}`", new.source.name))
                    .at(&new.span, new.source.public.to_string())
                    .at(&old.span, old.source.public.to_string())
                    .help("Commands find a source by its name. Give one of them another `name`, or its pool another name."),
            );
        }
        self.by_public.entry(new.source.public).or_insert(place);
        self.by_local.entry(new.source.local).or_insert(place);
        self.by_name.entry(&new.source.name).or_insert(place);
    }

    fn again(&mut self, (old_pool, old): Place<'p>, (new_pool, new): Place<'p>) -> Option<Problem> {
        if !self.told.insert((old.span.start, new.span.start)) {
            return None;
        }
        let (a, b) = (&old.source, &new.source);
        if (a.local, a.public) != (b.local, b.public) {
            return Some(
                Problem::error(code::PAIR_DIFFERS, "one address is part of two sources")
                    .at(&new.span, format!("{} seen as {}", b.local, b.public))
                    .at(&old.span, format!("{} seen as {}", a.local, a.public))
                    .help("A 1:1 NAT has one public address for each local one. A source may stand in several pools, but always as the same pair."),
            );
        }
        if old_pool.name == new_pool.name {
            return Some(
                Problem::error(code::ADDRESS_TWICE, format!("{} is in pool `{}` twice", b.public, new_pool.name.value))
                    .at(&new.span, "again here")
                    .at(&old.span, "first here")
                    .help("Remove it from one of the entries. For a larger share use `weights`; a spare cannot back itself up."),
            );
        }
        if old.named && new.named && a.name != b.name {
            return Some(
                Problem::error(
                    code::SOURCE_TWO_NAMES,
                    format!("{} is named `{}` and `{}`", b.public, a.name, b.name),
                )
                .at(&new.span, "here")
                .at(&old.span, "and here")
                .help("It is one source in two pools: give it one name in both."),
            );
        }
        // A spare that several pools share is common and sensible.
        (a.tier == Tier::Primary && b.tier == Tier::Primary).then(|| {
            Problem::warning(
                code::SOURCE_IN_TWO_POOLS,
                format!("{} serves pools `{}` and `{}`", b.public, old_pool.name.value, new_pool.name.value),
            )
            .at(&new.span, "here")
            .at(&old.span, "and here")
            .help("What one stream's mail does to the address's reputation, the other stream's mail suffers. Keep pools apart unless you mean it.")
        })
    }
}
