//! The names of an address, and whether they are its own.

use std::net::IpAddr;

use super::known::{Known, Stop};
use crate::signal::lists::query_name;

/// Names that are looked at; more than one is rare, and more than a few a mistake.
const NAMES: usize = 10;

/// Where the names of an address stand (RFC 1035 section 3.5, RFC 3596 section 2.5).
#[must_use]
pub fn reverse_name(address: IpAddr) -> String {
    query_name(address, if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" })
}

/// A name of an address, and whether it has that address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The addresses of the family that it has.
    pub addresses: Vec<IpAddr>,
    /// It has this one.
    pub confirmed: bool,
}

/// The names of an address, each looked up forward again.
///
/// # Errors
/// That an answer is missing, or that a lookup failed.
pub fn names_of(known: &Known, address: IpAddr) -> Result<Vec<Named>, Stop> {
    let mut named = vec![];
    for name in known.names(&reverse_name(address))?.iter().take(NAMES) {
        let addresses = known.addresses(name, address)?.to_vec();
        let confirmed = addresses.contains(&address);
        named.push(Named { name: name.clone(), addresses, confirmed });
    }
    Ok(named)
}
