//! Networks of countries, out of a database in MaxMind's format.
//!
//! Owns: reading the file into memory, as a whole, and what of it is asked for. Must not: keep it, or look at what the networks are
//! for. The file is foreign: whatever stands in it, the answer is networks or words.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ipnet::{IpNet, Ipv4Net};
use mailsteer_core::config::{CountriesAsked, CountryNetworks};
use maxminddb::{PathElement, Reader, WithinOptions};

/// Ten times what a database of whole cities has.
const LARGEST: u64 = 1 << 30;
/// A tree that leads back into itself has no end: databases of countries have under a million networks.
const MOST: usize = 20_000_000;

/// What the database has of the countries that a config asks for.
///
/// # Errors
/// Why it cannot be used, in words.
pub(crate) fn read(asked: &CountriesAsked) -> Result<CountryNetworks, String> {
    let name = &asked.database;
    let file = std::fs::File::open(name).map_err(|error| format!("cannot open {name}: {error}"))?;
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.len() as u64 == LARGEST {
        return Err(format!("{name} is too large: over {} MB", LARGEST >> 20));
    }
    of_bytes(bytes, &asked.codes).map_err(|why| format!("{name}: {why}"))
}

/// The same of what a file holds.
///
/// # Errors
/// Why it cannot be used, in words.
pub fn of_bytes(bytes: Vec<u8>, codes: &BTreeSet<String>) -> Result<CountryNetworks, String> {
    // The library is not known to panic; one that did would take the agent along.
    let read = catch_unwind(AssertUnwindSafe(|| networks(bytes, codes)));
    read.unwrap_or_else(|_| Err("it is broken in a way that nobody expected".to_owned()))
}

fn networks(bytes: Vec<u8>, codes: &BTreeSet<String>) -> Result<CountryNetworks, String> {
    let reader = Reader::from_source(bytes).map_err(|error| error.to_string())?;
    let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
    let mut found: CountryNetworks = codes.iter().map(|code| (code.clone(), vec![])).collect();
    let all = reader.networks(WithinOptions::default()).map_err(|error| error.to_string())?;
    for (count, entry) in all.enumerate() {
        if count == MOST {
            return Err(format!("it has more than {MOST} networks: its tree has no end"));
        }
        let entry = entry.map_err(|error| error.to_string())?;
        let code: Option<&str> = entry.decode_path(&path).map_err(|error| error.to_string())?;
        let Some(networks) = code.and_then(|code| found.get_mut(code)) else { continue };
        let network = entry.network().map_err(|error| error.to_string())?;
        networks.extend(plain(network.ip(), network.prefix()));
    }
    Ok(found)
}

/// As rules have it: an IPv4 network that stands among those of IPv6 (`::/96`) is one of IPv4.
fn plain(address: IpAddr, prefix: u8) -> Option<IpNet> {
    if let IpAddr::V6(v6) = address
        && prefix >= 96
        && v6.segments()[..6] == [0; 6]
    {
        let [.., a, b, c, d] = v6.octets();
        return Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix - 96).ok().map(|net| IpNet::V4(net.trunc()));
    }
    IpNet::new(address, prefix).ok().map(|net| net.trunc())
}
