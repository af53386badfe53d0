//! What a stream matches: users, groups, cgroups, tags, networks, marks, interfaces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use super::address::{Kind, address, kind, network};
use super::{countries, names};
use crate::config::problem::{Problem, code};
use crate::config::raw::RawStream;
use crate::config::read::{At, Many, did_you_mean, suggest};
use crate::config::settings::{HostView, OTHER, Provider};
use crate::model::LaneMatch;

/// No user or group has this number: what is unknown away from its host matches nobody.
const NOBODY: u32 = u32::MAX;

/// Reads match keys.
pub(super) struct Matcher<'a> {
    view: &'a HostView,
    providers: &'a [Provider],
    /// Whether the config names a database of countries.
    has_countries: bool,
    /// Names that could not be looked up here, so that they can be told apart.
    unknown: Vec<String>,
}

/// What was read of a stream's match keys.
pub(super) struct Matched {
    /// What it means.
    pub(super) matches: LaneMatch,
    /// Its tags in the file.
    pub(super) tags: Vec<(IpAddr, Range<usize>)>,
}

impl<'a> Matcher<'a> {
    /// A matcher that knows this host's users and groups, and the config's providers.
    pub(super) fn new(view: &'a HostView, providers: &'a [Provider], has_countries: bool) -> Self {
        Self { view, providers, has_countries, unknown: vec![] }
    }

    /// Whether a name could not be looked up, because this is not the host.
    pub(super) fn left_names(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// Replaces the numbers that stood for unknown names.
    pub(super) fn settle(&self, ids: &mut Vec<u32>) {
        let names = u32::try_from(self.unknown.len()).unwrap_or(NOBODY);
        for id in &mut *ids {
            if *id >= NOBODY - names {
                *id = NOBODY;
            }
        }
        ids.dedup();
    }

    /// Reads all match keys of a stream.
    pub(super) fn read(&mut self, raw: &RawStream, problems: &mut Vec<Problem>) -> Matched {
        not_empty(raw, problems);
        contradictions(raw, problems);
        let tags = tags(raw.tag.as_ref(), problems);
        let users =
            Names { list: &self.view.users, code: code::UNKNOWN_USER, kind: "user", database: "passwd" };
        let groups =
            Names { list: &self.view.groups, code: code::UNKNOWN_GROUP, kind: "group", database: "group" };
        let mut uids = numbers(raw.uid.as_ref(), problems);
        uids.extend(self.look_up(raw.user.as_ref(), &users, problems));
        let mut gids = numbers(raw.gid.as_ref(), problems);
        gids.extend(self.look_up(raw.group.as_ref(), &groups, problems));
        root(raw, &uids, problems);
        let matches = LaneMatch {
            uids: sorted(uids),
            gids: sorted(gids),
            cgroups: items(raw.cgroup.as_ref()).filter_map(|item| cgroup(item, problems)).collect(),
            tags: tags.iter().map(|(tag, _)| *tag).collect(),
            subnets: items(raw.subnet.as_ref()).filter_map(|item| network(item, problems)).collect(),
            marks: items(raw.mark.as_ref()).filter_map(|item| mark(item, problems)).collect(),
            via: items(raw.via.as_ref())
                .filter(|item| names::interface(&item.value, &item.span, problems))
                .map(|item| item.value.clone())
                .collect(),
            destinations: items(raw.destination.as_ref())
                .filter_map(|item| network(item, problems))
                .collect(),
            providers: self.providers(raw, problems),
            countries: countries::countries(
                raw.destination_country.as_ref(),
                self.has_countries,
                self.view,
                problems,
            ),
        };
        families(raw, &matches, problems);
        Matched { matches, tags }
    }

    fn providers(&self, raw: &RawStream, problems: &mut Vec<Problem>) -> Vec<String> {
        let mut found: Vec<String> = vec![];
        for item in items(raw.provider.as_ref()) {
            let is_one = self.providers.iter().any(|provider| provider.name == item.value);
            if is_one && !found.contains(&item.value) {
                found.push(item.value.clone());
            } else if !is_one {
                let known: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
                let help = match item.value.as_str() {
                    OTHER => "Put a stream without `provider` below: it takes what is left.".to_owned(),
                    _ if known.is_empty() => "Add [provider.NAME], or [providers].".to_owned(),
                    name => suggest(name, &known, "The providers"),
                };
                problems.push(
                    Problem::error(code::UNKNOWN_PROVIDER, format!("there is no provider `{}`", item.value))
                        .at(&item.span, "unknown provider")
                        .help(help),
                );
            }
        }
        found
    }

    fn look_up(
        &mut self,
        names: Option<&At<Many<String>>>,
        known: &Names<'_>,
        problems: &mut Vec<Problem>,
    ) -> Vec<u32> {
        let mut ids = vec![];
        for name in items(names) {
            if let Some(id) = known.list.get(&name.value) {
                ids.push(*id);
            } else if !known.list.is_empty() {
                problems.push(known.unknown(name));
            } else {
                ids.push(self.stand_in(&format!("{} {}", known.kind, name.value)));
            }
        }
        ids
    }

    fn stand_in(&mut self, name: &str) -> u32 {
        let index = self.unknown.iter().position(|known| known == name).unwrap_or_else(|| {
            self.unknown.push(name.to_owned());
            self.unknown.len() - 1
        });
        NOBODY - 1 - u32::try_from(index).unwrap_or(0)
    }
}

/// Names of users or of groups.
struct Names<'a> {
    list: &'a BTreeMap<String, u32>,
    code: &'static str,
    kind: &'static str,
    database: &'static str,
}

impl Names<'_> {
    fn unknown(&self, name: &At<String>) -> Problem {
        let close = did_you_mean(&name.value, self.list.keys().map(String::as_str))
            .map(|close| format!("Did you mean `{close}`? "))
            .unwrap_or_default();
        Problem::error(self.code, format!("this host has no {} `{}`", self.kind, name.value))
            .at(&name.span, format!("unknown {}", self.kind))
            .help(format!(
                "{close}`getent {}` lists them. Mail in a container has the users of the container: match its `subnet` instead.",
                self.database
            ))
    }
}

fn items<T>(many: Option<&At<Many<T>>>) -> impl Iterator<Item = &At<T>> {
    many.into_iter().flat_map(|many| &many.value.items)
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn not_empty(raw: &RawStream, problems: &mut Vec<Problem>) {
    fn empty<'r, T>(
        key: &'static str,
        many: Option<&'r At<Many<T>>>,
    ) -> Option<(&'static str, &'r Range<usize>)> {
        many.filter(|many| many.value.is_empty()).map(|many| (key, &many.span))
    }
    let keys = [
        empty("user", raw.user.as_ref()),
        empty("uid", raw.uid.as_ref()),
        empty("group", raw.group.as_ref()),
        empty("gid", raw.gid.as_ref()),
        empty("cgroup", raw.cgroup.as_ref()),
        empty("tag", raw.tag.as_ref()),
        empty("subnet", raw.subnet.as_ref()),
        empty("mark", raw.mark.as_ref()),
        empty("via", raw.via.as_ref()),
        empty("destination", raw.destination.as_ref()),
        empty("provider", raw.provider.as_ref()),
        empty("destination_country", raw.destination_country.as_ref()),
    ];
    for (key, span) in keys.into_iter().flatten() {
        problems.push(
            Problem::error(code::MATCH_EMPTY, format!("`{key}` is an empty list"))
                .at(span, "matches nothing, or everything?")
                .help(format!("List what the stream shall match, or remove `{key}` if it does not matter.")),
        );
    }
}

/// Reports keys that no single connection can fit: made on this host, and forwarded through it.
fn contradictions(raw: &RawStream, problems: &mut Vec<Problem>) {
    let forwarded = [
        ("subnet", raw.subnet.as_ref().map(|key| &key.span)),
        ("via", raw.via.as_ref().map(|key| &key.span)),
    ];
    let local = [
        ("tag", raw.tag.as_ref().map(|key| &key.span)),
        ("user", raw.user.as_ref().map(|key| &key.span)),
        ("uid", raw.uid.as_ref().map(|key| &key.span)),
        ("group", raw.group.as_ref().map(|key| &key.span)),
        ("gid", raw.gid.as_ref().map(|key| &key.span)),
        ("cgroup", raw.cgroup.as_ref().map(|key| &key.span)),
    ];
    let first = |keys: &[(&'static str, Option<&Range<usize>>)]| {
        keys.iter().find_map(|(key, span)| span.cloned().map(|span| (*key, span)))
    };
    let (Some((here, here_span)), Some((through, through_span))) = (first(&local), first(&forwarded)) else {
        return;
    };
    problems.push(
        Problem::error(code::NEVER_MATCHES, format!("no connection has both `{here}` and `{through}`"))
            .at(&here_span, "only connections made on this host")
            .at(&through_span, "only connections forwarded for others, such as containers")
            .help("Make two streams of it. Both may name the same pool."),
    );
}

/// Reports addresses of which one side is all IPv4 and the other all IPv6.
fn families(raw: &RawStream, matches: &LaneMatch, problems: &mut Vec<Problem>) {
    let from: Vec<bool> = matches
        .tags
        .iter()
        .map(IpAddr::is_ipv4)
        .chain(matches.subnets.iter().map(|net| net.addr().is_ipv4()))
        .collect();
    let to: Vec<bool> = matches.destinations.iter().map(|net: &IpNet| net.addr().is_ipv4()).collect();
    let (Some(first), Some(destination)) = (from.first(), raw.destination.as_ref()) else { return };
    if !to.is_empty() && from.iter().all(|one| one == first) && to.iter().all(|one| one != first) {
        let origin = raw.tag.as_ref().or(raw.subnet.as_ref()).map_or(0..0, |key| key.span.clone());
        problems.push(
            Problem::error(code::NEVER_MATCHES, "no connection goes from IPv4 to IPv6 or back")
                .at(&destination.span, if *first { "only IPv6" } else { "only IPv4" })
                .at(&origin, if *first { "only IPv4" } else { "only IPv6" })
                .help("Write both ends in the same family, or list both families at both ends."),
        );
    }
}

fn numbers(list: Option<&At<Many<i64>>>, problems: &mut Vec<Problem>) -> Vec<u32> {
    let mut ids = vec![];
    for item in items(list) {
        match u32::try_from(item.value) {
            Ok(id) if id != NOBODY => ids.push(id),
            _ => problems.push(
                Problem::error(
                    code::ID_INVALID,
                    format!("{} cannot be the number of a user or group", item.value),
                )
                .at(&item.span, "0 to 4294967294")
                .help("`id postfix` shows the numbers of a user."),
            ),
        }
    }
    ids
}

fn root(raw: &RawStream, uids: &[u32], problems: &mut Vec<Problem>) {
    if !uids.contains(&0) {
        return;
    }
    let user = items(raw.user.as_ref()).find(|name| name.value == "root").map(|name| &name.span);
    let Some(span) = user.or_else(|| items(raw.uid.as_ref()).find(|id| id.value == 0).map(|id| &id.span))
    else {
        return;
    };
    problems.push(
        Problem::warning(code::USER_IS_ROOT, "the stream matches root")
            .at(span, "")
            .help("MTAs connect as a user of their own (postfix, Debian-exim, mail), and root's connections are anything else: scripts, monitoring, tests. Name the MTA's user."),
    );
}

fn tags(raw: Option<&At<Many<String>>>, problems: &mut Vec<Problem>) -> Vec<(IpAddr, Range<usize>)> {
    let mut found = vec![];
    for item in items(raw) {
        let Some(tag) = address(item, problems) else { continue };
        let why = match kind(tag) {
            Kind::Private(_) => None,
            Kind::Public => Some("a public address, which belongs to someone"),
            Kind::Unusable(why) => Some(why),
        };
        if let Some(why) = why {
            problems.push(
                Problem::error(code::TAG_NOT_PRIVATE, format!("{tag} cannot be a tag"))
                    .at(&item.span, why)
                    .help("A tag is a private address that is used for nothing else and never reaches the wire: take one of 198.18.0.0/15, or of fd00::/8 for IPv6."),
            );
        }
        found.push((tag, item.span.clone()));
    }
    found
}

fn cgroup(item: &At<String>, problems: &mut Vec<Problem>) -> Option<String> {
    let path = item.value.trim_matches('/');
    let why = if path.is_empty() {
        "the root holds every process"
    } else if item.value.starts_with("/sys/fs/cgroup") {
        "a path in the file system, not in the cgroup tree"
    } else if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        "`.`, `..` and empty parts lead nowhere"
    } else {
        return Some(path.to_owned());
    };
    problems.push(
        Problem::error(code::BAD_CGROUP, format!("`{}` is not the path of a cgroup", item.value))
            .at(&item.span, why)
            .help("Write it as `systemctl show -p ControlGroup postfix@-` does, such as \"system.slice/system-postfix.slice/postfix@-.service\". Leave the key out to match every process."),
    );
    None
}

fn mark(item: &At<i64>, problems: &mut Vec<Problem>) -> Option<u32> {
    let shown = if item.value > 0 { format!("{:#x}", item.value) } else { item.value.to_string() };
    let why = match u32::try_from(item.value) {
        Ok(0) => "0 means that there is no mark",
        Ok(mark) if (0x4c..=0x4e).contains(&(mark >> 24)) => {
            "0x4c000000 to 0x4effffff are mailsteer's own marks"
        }
        Ok(mark) => return Some(mark),
        Err(_) => "a mark has 32 bits",
    };
    problems.push(
        Problem::error(code::MARK_INVALID, format!("a stream cannot match mark {shown}"))
            .at(&item.span, why)
            .help("Write the mark that the other program sets, such as 0x10."),
    );
    None
}
