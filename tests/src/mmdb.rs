//! Small databases of countries in MaxMind's format (version 2.0), as tests need them.
//!
//! Owns: writing one. Must not: read any.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// What stands in a tree's record.
#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Node(usize),
    /// By its place in the data section.
    Data(usize),
}

/// The bytes of a database in which these networks (`ADDRESS/LENGTH`, none within another) are in these countries.
#[must_use]
pub fn database(networks: &[(&str, &str)]) -> Vec<u8> {
    let (mut nodes, mut data, mut places) = (vec![[Child::Nothing; 2]], vec![], BTreeMap::new());
    for (network, country) in networks {
        let place = *places.entry(*country).or_insert_with(|| {
            let place = data.len();
            map(&mut data, 1);
            text(&mut data, "country");
            map(&mut data, 1);
            text(&mut data, "iso_code");
            text(&mut data, country);
            place
        });
        insert(&mut nodes, &bits(network), place);
    }
    let mut bytes = vec![];
    for child in nodes.iter().flatten() {
        let record = match child {
            Child::Nothing => nodes.len(),
            Child::Node(number) => *number,
            Child::Data(place) => nodes.len() + 16 + place,
        };
        bytes.extend(u32::try_from(record).unwrap_or(u32::MAX).to_be_bytes());
    }
    bytes.extend([0; 16]);
    bytes.extend(data);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    metadata(&mut bytes, u32::try_from(nodes.len()).unwrap_or(u32::MAX));
    bytes
}

fn insert(nodes: &mut Vec<[Child; 2]>, bits: &[usize], place: usize) {
    let Some((last, way)) = bits.split_last() else { return };
    let mut node = 0;
    for bit in way {
        node = match nodes[node][*bit] {
            Child::Node(next) => next,
            Child::Nothing | Child::Data(_) => {
                nodes.push([Child::Nothing; 2]);
                let next = nodes.len() - 1;
                nodes[node][*bit] = Child::Node(next);
                next
            }
        };
    }
    nodes[node][*last] = Child::Data(place);
}

/// The bits of a prefix; IPv4 stands below `::/96`.
fn bits(network: &str) -> Vec<usize> {
    let (address, length) = network.split_once('/').unwrap_or((network, "0"));
    let length: usize = length.parse().unwrap_or(0);
    let (octets, length) = match address.parse() {
        Ok(IpAddr::V4(v4)) => ([[0; 12].as_slice(), &v4.octets()].concat(), 96 + length),
        Ok(IpAddr::V6(v6)) => (v6.octets().to_vec(), length),
        Err(_) => (vec![], 0),
    };
    let bit = |at: usize| usize::from(octets[at / 8] >> (7 - at % 8) & 1);
    (0..length).map(bit).collect()
}

fn metadata(bytes: &mut Vec<u8>, nodes: u32) {
    map(bytes, 9);
    for (key, value) in [("binary_format_major_version", 2_u16), ("binary_format_minor_version", 0)] {
        text(bytes, key);
        number(bytes, value);
    }
    text(bytes, "build_epoch");
    bytes.extend([8, 2]);
    bytes.extend(1_790_000_000_u64.to_be_bytes());
    text(bytes, "database_type");
    text(bytes, "Test-Country");
    text(bytes, "description");
    map(bytes, 0);
    text(bytes, "ip_version");
    number(bytes, 6);
    text(bytes, "languages");
    bytes.extend([0, 4]);
    text(bytes, "node_count");
    bytes.push(6 << 5 | 4);
    bytes.extend(nodes.to_be_bytes());
    text(bytes, "record_size");
    number(bytes, 32);
}

fn map(bytes: &mut Vec<u8>, pairs: u8) {
    bytes.push(7 << 5 | pairs);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(2 << 5 | u8::try_from(text.len()).unwrap_or(28).min(28));
    bytes.extend(text.bytes().take(28));
}

fn number(bytes: &mut Vec<u8>, value: u16) {
    bytes.push(5 << 5 | 2);
    bytes.extend(value.to_be_bytes());
}
