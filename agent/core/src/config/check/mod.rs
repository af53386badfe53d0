//! Every semantic check, and the config that comes of it.
//!
//! Owns: the order of the checks; each submodule owns the checks of its part. Must not: stop at an error. Every
//! check leaves something to go on with, and the config built from an erroneous file is thrown away by `load`.

mod address;
mod control;
mod countries;
mod dns;
mod feeds;
mod fuse;
mod general;
mod hooks;
mod host;
mod identity;
mod lists;
mod logs;
mod matches;
mod named;
mod names;
mod numbers;
mod overlap;
mod pools;
mod preflight;
mod providers;
mod resolver;
mod safety;
mod streams;
mod uplinks;
mod urls;

use ipnet::IpNet;

pub(crate) use self::address::{Kind, kind, network as address_network};
pub(crate) use self::names::{is_full_host_name, is_interface};
pub(crate) use self::providers::name as provider_name;

use self::host::HostCheck;
use self::matches::Matcher;
use self::streams::CheckedStream;
use self::uplinks::CheckedUplink;
use super::problem::{Problem, code};
use super::raw::RawConfig;
use super::read::At;
use super::settings::{Config, Ebpf, HostView, Mode, OwnTable, Plumbing, Pool};

/// Checks a file that was read; `problems` holds what the reader found.
pub(super) fn check(
    raw: &RawConfig,
    view: &HostView,
    problems: &mut Vec<Problem>,
) -> (Config, Vec<&'static str>) {
    let mode = raw.mode.as_ref().map(|mode| general::mode(mode, problems)).unwrap_or_default();
    let exclude = general::exclude(raw.exclude.as_ref(), problems);
    let uplinks = uplinks::uplinks(raw, problems);
    let (providers, learning) = providers::providers(raw, view, problems);
    let mut pools = pools::pools(raw, problems);
    identity::check(&pools, problems);
    uplinks::assign(&uplinks, &mut pools, problems);
    countries::database(raw, view, problems);
    let mut matcher = Matcher::new(view, &providers, raw.countries.is_some());
    let streams = streams::streams(raw, mode, &pools, &mut matcher, problems);
    streams::tags_are_no_sources(&streams, &pools, problems);
    streams::pools_are_used(&streams, &pools, problems);
    providers::lanes_have_numbers(raw, &streams, &providers, problems);
    overlap::check(&streams, problems);
    via_is_no_uplink(&streams, &uplinks, problems);
    excluded(raw, &streams, &exclude, problems);
    let steered = mode != Mode::Observe || streams.iter().any(|one| one.stream.mode != Mode::Observe);
    if steered {
        general::exclude_leaves_something(raw, &exclude, problems);
    }
    let plumbing = plumbing(raw);
    if let Some(host) = &view.host {
        HostCheck { host, plumbing, uplinks: &uplinks, pools: &pools, streams: &streams }.run(problems);
    }
    let ports = general::ports(raw.ports.as_ref(), problems);
    let metrics = general::metrics(raw, problems);
    let control = control::access(raw, view, problems);
    let retention = general::retention(raw, problems);
    let safety = safety::safety(raw, problems);
    let fuse = fuse::fuse(raw, problems);
    let lists = lists::lists(raw, view, problems);
    let preflight = preflight::preflight(raw, problems);
    let dns = dns::dns(raw, &pools, lists.as_ref(), problems);
    let hooks = hooks::hooks(raw, problems);
    let feeds = feeds::feeds(raw, problems);
    let logs = logs::logs(raw, problems);
    let ebpf = ebpf(raw);
    if ebpf == Ebpf::Off {
        cgroups_take_ebpf(raw, problems);
    }
    let not_checked = not_checked(raw, view, &matcher);
    // What is unwise matters once something is to be steered; observing changes nothing and is always fine.
    if !steered {
        problems.retain(Problem::is_error);
    }
    let config = Config {
        mode,
        ports,
        exclude,
        plumbing,
        own_table: own_table(raw),
        ebpf,
        metrics,
        control,
        retention,
        safety,
        fuse,
        lists,
        preflight,
        dns,
        hooks,
        providers: providers.clone(),
        learning,
        feeds,
        logs,
        uplinks: uplinks.into_iter().map(|one| one.uplink).collect(),
        pools: pools.into_iter().map(finished).collect(),
        streams: streams
            .into_iter()
            .map(|mut one| {
                matcher.settle(&mut one.stream.matches.uids);
                matcher.settle(&mut one.stream.matches.gids);
                one.stream
            })
            .collect(),
    };
    (config, not_checked)
}

fn finished(pool: pools::CheckedPool) -> (String, Pool) {
    let sources = pool.sources.into_iter().map(|one| one.source).collect();
    let name = pool.name.value;
    let (ehlo, balance, min_healthy) = (pool.ehlo, pool.balance, pool.min_healthy);
    (name.clone(), Pool { name, ehlo, balance, sources, min_healthy })
}

fn plumbing(raw: &RawConfig) -> Plumbing {
    raw.host
        .as_ref()
        .and_then(|host| host.value.addresses.as_ref())
        .map(|word| word.value.0)
        .unwrap_or_default()
}

fn own_table(raw: &RawConfig) -> OwnTable {
    raw.nft.as_ref().and_then(|nft| nft.value.own_table.as_ref()).map(|word| word.value.0).unwrap_or_default()
}

fn ebpf(raw: &RawConfig) -> Ebpf {
    raw.guard
        .as_ref()
        .and_then(|guard| guard.value.ebpf.as_ref())
        .map(|word| word.value.0)
        .unwrap_or_default()
}

/// A stream that nobody could match would leave as another's, or unsteered.
fn cgroups_take_ebpf(raw: &RawConfig, problems: &mut Vec<Problem>) {
    let streams = raw.stream.iter().flat_map(|table| &table.value.0);
    for (name, cgroup) in streams.filter_map(|(name, stream)| Some((name, stream.cgroup.as_ref()?))) {
        problems.push(
            Problem::error(
                code::CGROUP_WITHOUT_EBPF,
                format!("stream `{}` cannot be told by its cgroup without eBPF", name.value),
            )
            .at(&cgroup.span, "only the eBPF programs know cgroups")
            .help("Match it by `user`, `group`, `tag` or `mark`, or let `[guard] ebpf` be \"auto\" or \"required\"."),
        );
    }
}

fn not_checked(raw: &RawConfig, view: &HostView, matcher: &Matcher<'_>) -> Vec<&'static str> {
    let mut left = vec![];
    if view.host.is_none() {
        left.push("whether interfaces, addresses and routes fit this host");
    }
    if raw.countries.is_some() && view.countries.is_none() {
        left.push("whether the database of countries can be read");
    }
    if matcher.left_names() {
        left.push("whether every user and group exists");
    }
    left
}

/// Packets that come in by an uplink are replies or strangers' mail, never a stream.
fn via_is_no_uplink(streams: &[CheckedStream], uplinks: &[CheckedUplink], problems: &mut Vec<Problem>) {
    for via in streams.iter().flat_map(|stream| &stream.via) {
        let Some(uplink) = uplinks.iter().find(|one| one.uplink.interface == via.value) else { continue };
        problems.push(
            Problem::error(
                code::VIA_IS_UPLINK,
                format!("no stream comes in by `{}`: it is an uplink", via.value),
            )
            .at(&via.span, "`via` is where mail comes from")
            .at(&uplink.interface, "this is where mail leaves")
            .help("Write the interface behind which the senders are, such as a container bridge."),
        );
    }
}

/// Destinations that a stream asks for and `exclude` takes away.
fn excluded(raw: &RawConfig, streams: &[CheckedStream], exclude: &[IpNet], problems: &mut Vec<Problem>) {
    let written = raw.stream.iter().flat_map(|table| &table.value.0);
    for (one, (_, raw_stream)) in streams.iter().zip(written) {
        let Some(key) = &raw_stream.destination else { continue };
        let wanted = &one.stream.matches.destinations;
        let gone = |net: &IpNet| exclude.iter().any(|out| out.contains(net));
        if !wanted.is_empty() && wanted.iter().all(gone) {
            let problem = Problem::warning(
                code::DESTINATION_EXCLUDED,
                format!("stream `{}` never matches: its destinations are never steered", one.stream.name),
            );
            let problem = problem.at(&key.span, "all of it is excluded");
            let problem = match &raw.exclude {
                Some(list) => problem.at(&list.span, "by this list"),
                None => problem,
            };
            problems.push(problem.help("`exclude` comes before every stream; by default it holds the private networks. Write an `exclude` without these, or remove the stream."));
        }
    }
}

/// A key that must be there; `unread` are the keys of which something else was already reported.
fn required<'r, T>(
    value: Option<&'r At<T>>,
    unread: &[&str],
    name: &At<String>,
    (kind, key, example): (&str, &str, &str),
    problems: &mut Vec<Problem>,
) -> Option<&'r At<T>> {
    if value.is_none() && !unread.contains(&key) {
        problems.push(
            Problem::error(code::MISSING_KEY, format!("{kind} `{}` needs `{key}`", name.value))
                .at(&name.span, format!("`{key}` is missing"))
                .help(format!("Write {key} = {example} below [{kind}.{}].", name.value)),
        );
    }
    value
}
