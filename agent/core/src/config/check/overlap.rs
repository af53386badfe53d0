//! Streams against each other: the first that matches wins, so a later one may be left with nothing.

use ipnet::IpNet;

use super::streams::CheckedStream;
use crate::config::problem::{Problem, code};
use crate::model::LaneMatch;

/// Reports streams that no connection can reach.
pub(super) fn check(streams: &[CheckedStream], problems: &mut Vec<Problem>) {
    for (index, later) in streams.iter().enumerate() {
        let earlier =
            streams[..index].iter().find(|earlier| earlier.sound && later.sound && takes_all(earlier, later));
        if let Some(earlier) = earlier {
            problems.push(unreachable(earlier, later));
            continue;
        }
        for earlier in &streams[..index] {
            if let Some(problem) = shared_tag(earlier, later) {
                problems.push(problem);
            }
        }
    }
}

fn takes_all(earlier: &CheckedStream, later: &CheckedStream) -> bool {
    covers(&earlier.stream.matches, &later.stream.matches)
}

fn unreachable(earlier: &CheckedStream, later: &CheckedStream) -> Problem {
    let (a, b) = (&earlier.stream.name, &later.stream.name);
    if takes_all(later, earlier) {
        return Problem::error(code::STREAMS_SAME_MATCH, format!("streams `{a}` and `{b}` match the same mail"))
            .at(&later.span, "never reached")
            .at(&earlier.span, "takes all of it first")
            .help("Tell them apart, by a tag for instance (Postfix: -o smtp_bind_address=198.18.0.2 in one transport), or remove one.");
    }
    let catch_all = earlier.stream.matches == LaneMatch::default();
    let why =
        if catch_all { "has no match key, so it takes everything" } else { "takes all of its mail first" };
    let help = if catch_all {
        format!("The first stream that matches wins. Move [stream.{a}] to the end of the file.")
    } else {
        format!("The first stream that matches wins. Move [stream.{b}] above [stream.{a}].")
    };
    Problem::error(code::STREAM_UNREACHABLE, format!("no mail ever reaches stream `{b}`"))
        .at(&later.span, "never reached")
        .at(&earlier.span, why)
        .help(help)
}

/// A tag in two streams is of use in the later one only where something else tells them apart.
fn shared_tag(earlier: &CheckedStream, later: &CheckedStream) -> Option<Problem> {
    let (tag, span) = later.tags.iter().find(|(tag, _)| earlier.stream.matches.tags.contains(tag))?;
    let narrowed = LaneMatch { tags: vec![*tag], ..later.stream.matches.clone() };
    if !covers(&earlier.stream.matches, &narrowed) {
        return None;
    }
    let mut problem = Problem::error(
        code::TAG_IN_TWO_STREAMS,
        format!("tag {tag} is in streams `{}` and `{}`", earlier.stream.name, later.stream.name),
    )
    .at(span, "never matches here");
    if let Some((_, first)) = earlier.tags.iter().find(|(other, _)| other == tag) {
        problem = problem.at(first, "the earlier stream takes it");
    }
    Some(problem.help("Give each stream a tag of its own, and bind each MTA transport to its stream's tag."))
}

/// Whether everything that `narrow` matches is matched by `wide` too.
fn covers(wide: &LaneMatch, narrow: &LaneMatch) -> bool {
    listed(&wide.uids, &narrow.uids)
        && listed(&wide.gids, &narrow.gids)
        && listed(&wide.tags, &narrow.tags)
        && listed(&wide.marks, &narrow.marks)
        && listed(&wide.via, &narrow.via)
        && fits(&wide.cgroups, &narrow.cgroups, |one| wide.cgroups.iter().any(|parent| within(one, parent)))
        && nets(&wide.subnets, &narrow.subnets)
        && nets(&wide.destinations, &narrow.destinations)
        && listed(&wide.providers, &narrow.providers)
        && listed(&wide.countries.codes, &narrow.countries.codes)
}

/// An empty list sets no condition: it covers all, and only it covers an empty one.
fn fits<T>(wide: &[T], narrow: &[T], covered: impl Fn(&T) -> bool) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(covered))
}

fn listed<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    fits(wide, narrow, |one| wide.contains(one))
}

fn nets(wide: &[IpNet], narrow: &[IpNet]) -> bool {
    let whole = IpNet::aggregate(&wide.to_vec());
    fits(wide, narrow, |one| whole.iter().any(|net| net.contains(one)))
}

fn within(child: &str, parent: &str) -> bool {
    child.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
