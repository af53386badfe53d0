//! Streams: pool, mode, and what is to be said of a whole stream.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use super::general;
use super::matches::Matcher;
use super::names;
use super::pools::{CheckedPool, CheckedSource};
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawStream};
use crate::config::read::{At, suggest};
use crate::config::settings::{Mode, Stream};
use crate::model::Family;

/// As many lanes as the mark has numbers for: one for each stream at each provider, `other` among them.
pub(super) const LANES: usize = 255;

/// A stream and where it stands.
pub(super) struct CheckedStream {
    /// What it means.
    pub(super) stream: Stream,
    /// Its name in the file.
    pub(super) span: Range<usize>,
    /// Its tags in the file.
    pub(super) tags: Vec<(IpAddr, Range<usize>)>,
    /// Its `via` interfaces in the file.
    pub(super) via: Vec<At<String>>,
    /// Every match key could be read; otherwise comparing it with others would mislead.
    pub(super) sound: bool,
}

/// Every stream of the file, in file order.
pub(super) fn streams(
    raw: &RawConfig,
    mode: Mode,
    pools: &[CheckedPool],
    matcher: &mut Matcher<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<CheckedStream> {
    let Some(table) = &raw.stream else { return vec![] };
    let entries = &table.value.0;
    if let Some((name, _)) = entries.get(LANES) {
        problems.push(
            Problem::error(code::TOO_MANY_STREAMS, format!("{} streams are more than {LANES}", entries.len()))
                .at(&name.span, "the first too many")
                .help("The packet mark has room for 255. Gather users, tags or subnets that share a pool in lists of one stream."),
        );
    }
    entries.iter().map(|(name, raw)| stream(name, raw, mode, pools, matcher, problems)).collect()
}

fn stream(
    name: &At<String>,
    raw: &RawStream,
    mode: Mode,
    pools: &[CheckedPool],
    matcher: &mut Matcher<'_>,
    problems: &mut Vec<Problem>,
) -> CheckedStream {
    names::name(name, "a stream", problems);
    let errors = |problems: &[Problem]| problems.iter().filter(|problem| problem.is_error()).count();
    let before = errors(problems);
    let found = matcher.read(raw, problems);
    // A key that could not be read is no sign that the stream takes everything.
    let sound = errors(problems) == before && !raw.misread;
    let pool =
        super::required(raw.pool.as_ref(), &raw.unread, name, ("stream", "pool", "\"main\""), problems);
    if let Some(pool) = pool {
        pool_exists(pool, pools, problems);
    }
    CheckedStream {
        span: name.span.clone(),
        tags: found.tags,
        via: raw.via.iter().flat_map(|many| many.value.items.clone()).collect(),
        sound,
        stream: Stream {
            name: name.value.clone(),
            pool: pool.map(|at| at.value.clone()).unwrap_or_default(),
            matches: found.matches,
            mode: raw.mode.as_ref().map_or(mode, |own| general::mode(own, problems)),
            on_exhausted: raw.on_exhausted.as_ref().map(|word| word.value.0).unwrap_or_default(),
            ipv6: raw.ipv6.as_ref().map(|word| word.value.0).unwrap_or_default(),
            on_relapse: raw.on_relapse.as_ref().map(|word| word.value.0).unwrap_or_default(),
            on_flip: raw.on_flip.as_ref().map(|word| word.value.0).unwrap_or_default(),
        },
    }
}

fn pool_exists(pool: &At<String>, pools: &[CheckedPool], problems: &mut Vec<Problem>) {
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.value.as_str()).collect();
    if names.contains(&pool.value.as_str()) {
        return;
    }
    let help = if names.is_empty() {
        format!("Add [pool.{}] with its `addresses`.", pool.value)
    } else {
        suggest(&pool.value, &names, "The pools")
    };
    problems.push(
        Problem::error(code::UNKNOWN_POOL, format!("there is no pool `{}`", pool.value))
            .at(&pool.span, "unknown pool")
            .help(help),
    );
}

/// The source whose address this is.
pub(super) fn source_of(address: IpAddr, pools: &[CheckedPool]) -> Option<&CheckedSource> {
    let mut sources = pools.iter().flat_map(|pool| &pool.sources);
    sources.find(|one| one.source.local == address || one.source.public == address)
}

/// Reports tags that are pool addresses.
pub(super) fn tags_are_no_sources(
    streams: &[CheckedStream],
    pools: &[CheckedPool],
    problems: &mut Vec<Problem>,
) {
    for (tag, span) in streams.iter().flat_map(|stream| &stream.tags) {
        let Some(source) = source_of(*tag, pools) else { continue };
        // Nothing else needs to be said of it.
        problems.retain(|problem| problem.code != code::TAG_NOT_PRIVATE || problem.start() != span.start);
        problems.push(
            Problem::error(code::TAG_IS_POOL_ADDRESS, format!("tag {tag} is an address of a pool"))
                .at(span, "a tag must not be a source")
                .at(&source.span, format!("it is source `{}`", source.source.name))
                .help("When a pool address goes away, an MTA that binds it warns and sends from the default address. Bind a private address that is used for nothing else, such as 198.18.0.2; mailsteer keeps it on lo, and the pool decides what the world sees."),
        );
    }
}

/// Warns of pools that no stream uses, and of steered streams whose pool has no IPv4 source.
pub(super) fn pools_are_used(streams: &[CheckedStream], pools: &[CheckedPool], problems: &mut Vec<Problem>) {
    let used: BTreeSet<&str> = streams.iter().map(|stream| stream.stream.pool.as_str()).collect();
    // What is unused is known only once all could be read.
    let read = !problems.iter().any(Problem::is_error);
    for pool in pools {
        if read && !used.contains(pool.name.value.as_str()) {
            problems.push(
                Problem::warning(code::POOL_UNUSED, format!("no stream uses pool `{}`", pool.name.value))
                    .at(&pool.name.span, "")
                    .help(format!(
                        "Nothing leaves from it. Add a [stream.NAME] with pool = \"{}\", or remove the pool.",
                        pool.name.value
                    )),
            );
        }
    }
    for stream in streams.iter().filter(|stream| stream.stream.mode != Mode::Observe) {
        let Some(pool) = pools.iter().find(|pool| pool.name.value == stream.stream.pool) else { continue };
        let only_v6 = pool.sources.iter().all(|one| Family::of(one.source.local) == Family::V6);
        if only_v6 && !pool.sources.is_empty() {
            problems.push(
                Problem::warning(
                    code::POOL_WITHOUT_IPV4,
                    format!("stream `{}` cannot reach IPv4 receivers", stream.stream.name),
                )
                .at(&stream.span, "its IPv4 connections are refused")
                .at(&pool.name.span, "this pool has IPv6 sources only")
                .help("Most receivers have IPv4 only. Add an IPv4 address to the pool unless you mean it."),
            );
        }
    }
}
