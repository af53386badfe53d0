//! Providers: who receives, told by network.
//!
//! Owns: that a receiver is one provider's, and that all lanes have numbers. Must not: know what is believed of anybody there.

use std::ops::Range;

use ipnet::IpNet;

use super::streams::LANES;
use super::{address, names};
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawProvider};
use crate::config::read::At;
use crate::config::settings::{OTHER, Provider};

/// Every provider of the file, in file order.
pub(super) fn providers(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<Provider> {
    let Some(table) = &raw.provider else { return vec![] };
    let mut taken: Vec<(IpNet, String, Range<usize>)> = Vec::new();
    let providers =
        table.value.0.iter().map(|(name, raw)| provider(name, raw, &mut taken, problems)).collect();
    lanes_have_numbers(raw, problems);
    providers
}

fn provider(
    name: &At<String>,
    raw: &RawProvider,
    taken: &mut Vec<(IpNet, String, Range<usize>)>,
    problems: &mut Vec<Problem>,
) -> Provider {
    names::name(name, "a provider", problems);
    if name.value == OTHER {
        problems.push(
            Problem::error(code::BAD_NAME, format!("no provider can be called `{OTHER}`"))
                .at(&name.span, "")
                .help("It stands for the receivers that none of the providers has."),
        );
    }
    let example = ("provider", "networks", "[\"192.0.2.0/24\"]");
    let written = super::required(raw.networks.as_ref(), &raw.unread, name, example, problems);
    let mut networks = Vec::new();
    for item in written.into_iter().flat_map(|many| &many.value.items) {
        let Some(network) = address::network(item, problems) else { continue };
        let overlaps = |(other, ..): &&(IpNet, String, Range<usize>)| {
            other.contains(&network) || network.contains(other)
        };
        if let Some((_, other, span)) = taken.iter().find(|entry| entry.1 != name.value && overlaps(entry)) {
            problems.push(
                Problem::error(
                    code::PROVIDERS_OVERLAP,
                    format!("providers `{other}` and `{}` have receivers in common", name.value),
                )
                .at(&item.span, "")
                .at(span, format!("`{other}`"))
                .help("A receiver is one provider's. Take the smaller network out of the larger one."),
            );
        }
        taken.push((network, name.value.clone(), item.span.clone()));
        networks.push(network);
    }
    if written.is_some_and(|many| many.value.items.is_empty()) {
        problems.push(
            Problem::error(code::MATCH_EMPTY, format!("provider `{}` has no networks", name.value))
                .at(&name.span, "no receiver would be its own")
                .help("Write the networks of its mail servers, or remove it."),
        );
    }
    Provider { name: name.value.clone(), networks: IpNet::aggregate(&networks) }
}

fn lanes_have_numbers(raw: &RawConfig, problems: &mut Vec<Problem>) {
    let streams = raw.stream.as_ref().map_or(0, |table| table.value.0.len());
    let Some(providers) = raw.provider.as_ref().map(|table| &table.value.0) else { return };
    let lanes = streams.saturating_mul(providers.len() + 1);
    // What has no providers is reported as too many streams.
    if lanes <= LANES || streams > LANES {
        return;
    }
    let fits = LANES / streams.max(1) - 1;
    let Some((first, _)) = providers.get(fits) else { return };
    problems.push(
        Problem::error(
            code::TOO_MANY_LANES,
            format!(
                "{streams} streams at {} providers and elsewhere are {lanes} lanes, more than {LANES}",
                providers.len()
            ),
        )
        .at(&first.span, "the first too many")
        .help("The packet mark has room for 255: a lane is a stream at a provider. Leave out providers that get little mail, or gather streams that share a pool."),
    );
}
