//! Addresses, networks and ranges: what the texts mean, and what kind of address one is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::problem::{Problem, code};
use crate::config::read::At;

/// How many addresses one entry may stand for.
const ENTRY_LIMIT: u128 = 1024;

/// What an address is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The world can answer to it.
    Public,
    /// Only a private network can; with the network's name.
    Private(&'static str),
    /// No mail can leave from it; with the reason.
    Unusable(&'static str),
}

/// The kind of an address. Documentation ranges count as public: examples and tests live there.
pub(crate) fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [0, ..] => Kind::Unusable("it stands for \"no address\""),
        [127, ..] => Kind::Unusable("it is a loopback address, which never leaves the host"),
        [169, 254, ..] => Kind::Unusable("it is link-local, which no router forwards"),
        [224..=239, ..] => Kind::Unusable("it is a multicast address"),
        [240..=255, ..] => Kind::Unusable("it is reserved or the broadcast address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Kind::Private("private, RFC 1918"),
        [100, 64..=127, ..] => Kind::Private("the carrier's NAT range, RFC 6598"),
        [198, 18..=19, ..] => Kind::Private("the benchmarking range, RFC 2544"),
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Unusable("it stands for \"no address\""),
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Unusable("it is the loopback address, which never leaves the host"),
        [0, 0, 0, 0, 0, 0xffff, ..] => {
            Kind::Unusable("it is an IPv4 address written as IPv6: write it as IPv4")
        }
        [0xfe80..=0xfebf, ..] => Kind::Unusable("it is link-local, which no router forwards"),
        [0xff00..=0xffff, ..] => Kind::Unusable("it is a multicast address"),
        [0xfc00..=0xfdff, ..] => Kind::Private("unique local, RFC 4193"),
        _ => Kind::Public,
    }
}

/// Reads one address; otherwise reports it.
pub(super) fn address(text: &At<String>, problems: &mut Vec<Problem>) -> Option<IpAddr> {
    let read = text.value.parse().ok();
    if read.is_none() {
        problems.push(
            Problem::error(code::BAD_ADDRESS, format!("`{}` is not an IP address", text.value))
                .at(&text.span, "one address is needed here")
                .help("Write one IPv4 or IPv6 address, such as \"203.0.113.10\" or \"2001:db8:5::10\"."),
        );
    }
    read
}

/// Reads a network, or one address as the network that holds only it; otherwise reports it.
pub(crate) fn network(text: &At<String>, problems: &mut Vec<Problem>) -> Option<IpNet> {
    if let Ok(address) = text.value.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    match text.value.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Some(net),
        Ok(net) => {
            let message = format!("`{}` is an address inside a network, not a network", text.value);
            problems.push(Problem::error(code::BAD_NETWORK, message).at(&text.span, "").help(format!(
                "Write \"{}\" for the whole network, or \"{}\" for the one address.",
                net.trunc(),
                net.addr()
            )));
            None
        }
        Err(_) => {
            problems.push(
                Problem::error(code::BAD_NETWORK, format!("`{}` is not a network", text.value))
                    .at(&text.span, "a network is needed here")
                    .help("Write a network such as \"10.0.0.0/8\" or \"fc00::/7\", or a single address."),
            );
            None
        }
    }
}

/// The addresses that an entry of a pool stands for: an address, a network, a range.
pub(super) fn expand(text: &At<String>, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    match bounds(&text.value) {
        Ok((first, last)) => between(first, last),
        Err(problem) => {
            problems.push(problem.at(&text.span, ""));
            vec![]
        }
    }
}

/// First and last address of an entry.
fn bounds(text: &str) -> Result<(IpAddr, IpAddr), Problem> {
    let (first, last) = if let Ok(address) = text.parse::<IpAddr>() {
        (address, address)
    } else if text.contains('/') {
        network_bounds(text)?
    } else if let Some((first, last)) = text.split_once('-') {
        range_bounds(text, first.trim(), last.trim())?
    } else {
        return Err(Problem::error(code::BAD_ADDRESS, format!("`{text}` is neither address nor network nor range"))
            .help("Write \"203.0.113.10\", \"203.0.113.32/27\" or \"203.0.113.40-203.0.113.43\". Host names are not looked up."));
    };
    let count = number(last).saturating_sub(number(first)).saturating_add(1);
    if count > ENTRY_LIMIT {
        return Err(Problem::error(code::RANGE_TOO_LARGE, format!("`{text}` stands for more than {ENTRY_LIMIT} addresses"))
            .help("Write only the addresses that mail shall leave from; mailsteer puts every one of them on the host."));
    }
    Ok((first, last))
}

fn network_bounds(text: &str) -> Result<(IpAddr, IpAddr), Problem> {
    let net: IpNet = text.parse().map_err(|_| {
        Problem::error(code::BAD_RANGE, format!("`{text}` is not a network"))
            .help("Write the network's first address and its prefix length, such as \"203.0.113.32/27\".")
    })?;
    if net.trunc() != net {
        return Err(Problem::error(
            code::RANGE_NOT_ALIGNED,
            format!("`{text}` is an address inside a network"),
        )
        .help(format!(
            "Write \"{}\" for this one address, or \"{}\" for all addresses of the network.",
            net.addr(),
            net.trunc()
        )));
    }
    Ok((net.network(), net.broadcast()))
}

fn range_bounds(text: &str, first: &str, last: &str) -> Result<(IpAddr, IpAddr), Problem> {
    let bad = |why: &str| {
        Problem::error(code::BAD_RANGE, format!("`{text}` is not a range: {why}"))
            .help("Write the first and the last address in full, such as \"203.0.113.40-203.0.113.43\".")
    };
    let first: IpAddr = first.parse().map_err(|_| bad("what stands before the dash is no address"))?;
    let last: IpAddr = last.parse().map_err(|_| bad("what stands after the dash is no address"))?;
    if first.is_ipv4() != last.is_ipv4() {
        return Err(bad("one end is IPv4 and the other IPv6"));
    }
    if number(first) > number(last) {
        return Err(bad("it ends before it begins"));
    }
    Ok((first, last))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn between(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
    match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits()..=b.to_bits()).map(|bits| Ipv4Addr::from_bits(bits).into()).collect()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits()..=b.to_bits()).map(|bits| Ipv6Addr::from_bits(bits).into()).collect()
        }
        _ => vec![],
    }
}

/// The network in which neighbours share a reputation: /24 or /48.
pub(super) fn neighbourhood(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 24 } else { 48 };
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: String) -> Vec<IpAddr> {
        let mut problems = vec![];
        let found = expand(&At { value: text, span: 0..0 }, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        found
    }

    proptest! {
        #[test]
        fn a_range_written_from_its_addresses_reads_back(start: u32, count in 1u32..=1024) {
            let start = start.min(u32::MAX - count);
            let want: Vec<IpAddr> = (start..start + count).map(|bits| Ipv4Addr::from_bits(bits).into()).collect();
            prop_assert_eq!(expanded(format!("{}-{}", want[0], want[want.len() - 1])), want);
        }

        #[test]
        fn an_ipv6_range_written_from_its_addresses_reads_back(start: u128, count in 1u128..=1024) {
            let start = start.min(u128::MAX - count);
            let want: Vec<IpAddr> = (start..start + count).map(|bits| Ipv6Addr::from_bits(bits).into()).collect();
            prop_assert_eq!(expanded(format!("{}-{}", want[0], want[want.len() - 1])), want);
        }

        #[test]
        fn a_network_stands_for_all_of_its_addresses_once(start: u32, length in 22u8..=32) {
            let net: IpNet = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(start), length).unwrap().trunc().into();
            let found = expanded(net.to_string());
            prop_assert_eq!(found.len(), 1usize << (32 - length));
            prop_assert!(found.iter().all(|address| net.contains(address)));
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
