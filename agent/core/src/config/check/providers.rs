//! Providers: who receives, told by network or by the names of mail servers.
//!
//! Owns: that a receiver is one provider's, and that all lanes have numbers. Must not: know what is believed of anybody there.

use std::ops::Range;

use ipnet::IpNet;

use super::named;
use super::streams::{CheckedStream, LANES};
use super::{address, names};
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawProvider};
use crate::config::read::At;
use crate::config::settings::{HostView, Learning, OTHER, Provider};
use crate::signal::providers::{Group, Groups, patterns};

/// What is somebody's already.
#[derive(Default)]
struct Taken {
    networks: Vec<(IpNet, String, Range<usize>)>,
    names: Groups,
}

/// Every provider: those of the file in its order, then the groups of the table that it does not name.
pub(super) fn providers(
    raw: &RawConfig,
    view: &HostView,
    problems: &mut Vec<Problem>,
) -> (Vec<Provider>, Option<Learning>) {
    let mut groups = named::groups(raw, view, problems);
    let domains = groups.iter().flat_map(|group| group.domains.clone()).collect();
    let mut taken = Taken::default();
    let written = raw.provider.iter().flat_map(|table| &table.value.0);
    let mut providers: Vec<(Provider, Option<Group>)> = vec![];
    for (name, one) in written {
        let group = groups.iter().position(|group| group.name == name.value).map(|at| groups.remove(at));
        needs_a_resolver(raw, name, one, problems);
        providers.push((provider(name, one, group.as_ref(), &mut taken, problems), group));
    }
    let of_table =
        |group: Group| (Provider { name: group.name.clone(), networks: vec![], named: false }, Some(group));
    providers.extend(groups.into_iter().map(of_table));
    // What the file says comes first: what the table has of another's is left to that one.
    for (provider, group) in providers.iter_mut().filter_map(|(one, group)| Some((one, group.as_ref()?))) {
        provider.named = true;
        for pattern in &group.mx {
            let _the_files_own = taken.names.add(pattern.clone(), &provider.name);
        }
        for network in &group.networks {
            let overlaps = |(other, name, _): &(IpNet, String, Range<usize>)| {
                *name != provider.name && (other.contains(network) || network.contains(other))
            };
            if !taken.networks.iter().any(overlaps) {
                provider.networks.push(*network);
                taken.networks.push((*network, provider.name.clone(), 0..0));
            }
        }
        provider.networks = IpNet::aggregate(&provider.networks);
    }
    let learning = named::learning(raw, taken.names, domains, problems);
    (providers.into_iter().map(|(provider, _)| provider).collect(), learning)
}

/// Reports what cannot be the name of a provider.
pub(crate) fn name(name: &At<String>, problems: &mut Vec<Problem>) {
    names::name(name, "a provider", problems);
    if name.value == OTHER {
        problems.push(
            Problem::error(code::BAD_NAME, format!("no provider can be called `{OTHER}`"))
                .at(&name.span, "")
                .help("It stands for the receivers that none of the providers has."),
        );
    }
}

fn needs_a_resolver(raw: &RawConfig, name: &At<String>, one: &RawProvider, problems: &mut Vec<Problem>) {
    if let Some(mx) = one.mx.as_ref().filter(|_| raw.providers.is_none()) {
        problems.push(
            Problem::error(code::MISSING_KEY, format!("`mx` of provider `{}` needs `[providers]`", name.value))
                .at(&mx.span, "names have to be looked up")
                .help("Add [providers] with resolver = \"127.0.0.1\", and with names = [] where no group of the table is wanted."),
        );
    }
}

fn provider(
    called: &At<String>,
    raw: &RawProvider,
    group: Option<&Group>,
    taken: &mut Taken,
    problems: &mut Vec<Problem>,
) -> Provider {
    name(called, problems);
    let mx = patterns(raw.mx.as_ref(), &called.value, &mut taken.names, problems);
    let named = !mx.is_empty() || group.is_some();
    let written = if named || raw.mx.is_some() {
        raw.networks.as_ref()
    } else {
        let example = ("provider", "networks", "[\"192.0.2.0/24\"]");
        super::required(raw.networks.as_ref(), &raw.unread, called, example, problems)
    };
    let mut networks = Vec::new();
    for item in written.into_iter().flat_map(|many| &many.value.items) {
        let Some(network) = address::network(item, problems) else { continue };
        let overlaps = |(other, ..): &&(IpNet, String, Range<usize>)| {
            other.contains(&network) || network.contains(other)
        };
        if let Some((_, other, span)) =
            taken.networks.iter().find(|entry| entry.1 != called.value && overlaps(entry))
        {
            problems.push(
                Problem::error(
                    code::PROVIDERS_OVERLAP,
                    format!("providers `{other}` and `{}` have receivers in common", called.value),
                )
                .at(&item.span, "")
                .at(span, format!("`{other}`"))
                .help("A receiver is one provider's. Take the smaller network out of the larger one."),
            );
        }
        taken.networks.push((network, called.value.clone(), item.span.clone()));
        networks.push(network);
    }
    let empty = |many: &&At<crate::config::read::Many<String>>| many.value.is_empty();
    if let Some(nothing) = written.into_iter().chain(raw.mx.as_ref()).find(empty) {
        problems.push(
            Problem::error(code::MATCH_EMPTY, format!("provider `{}` has an empty list", called.value))
                .at(&called.span, "no receiver would be its own")
                .at(&nothing.span, "")
                .help("Write the networks of its mail servers, or their names, or remove it."),
        );
    }
    Provider { name: called.value.clone(), networks: IpNet::aggregate(&networks), named }
}

/// Reports more lanes than there are numbers.
pub(super) fn lanes_have_numbers(
    raw: &RawConfig,
    streams: &[CheckedStream],
    providers: &[Provider],
    problems: &mut Vec<Problem>,
) {
    let at = |stream: &CheckedStream| match stream.stream.matches.providers.len() {
        0 => providers.len() + 1,
        some => some,
    };
    let lanes: usize = streams.iter().map(at).sum();
    // What has no providers is reported as too many streams.
    if lanes <= LANES || streams.len() > LANES {
        return;
    }
    let fits = (LANES / streams.len().max(1)).saturating_sub(1);
    let file = raw.provider.as_ref().map(|table| &table.value.0);
    let first = file.and_then(|file| file.get(fits).or(file.last())).map(|(name, _)| name.span.clone());
    let Some(place) = first.or_else(|| raw.providers.as_ref().map(|table| table.span.clone())) else {
        return;
    };
    problems.push(
        Problem::error(
            code::TOO_MANY_LANES,
            format!(
                "{} streams at {} providers and elsewhere are {lanes} lanes, more than {LANES}",
                streams.len(),
                providers.len()
            ),
        )
        .at(&place, "too many")
        .help("The packet mark has room for 255: a lane is a stream at a provider. Leave out providers that get little mail, or gather streams that share a pool."),
    );
}
