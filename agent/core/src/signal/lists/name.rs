//! The name by which a list is asked for an address.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// The name for an address in a zone: octets or nibbles in reverse (RFC 5782 sections 2.1 and 2.4).
#[must_use]
pub fn query_name(address: IpAddr, zone: &str) -> String {
    let mut name = String::with_capacity(72 + zone.len());
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                let _ = write!(name, "{octet}.");
            }
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
            }
        }
    }
    name.push_str(zone);
    name
}

/// The name of a test point: 127.0.0.2, which every list has, or 127.0.0.1, which none has (RFC 5782 section 5).
#[must_use]
pub fn test_name(listed: bool, zone: &str) -> String {
    query_name(IpAddr::V4(Ipv4Addr::new(127, 0, 0, if listed { 2 } else { 1 })), zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rfc_5782() {
        let of = |address: &str| query_name(address.parse().unwrap(), "bl.example");
        assert_eq!(of("192.0.2.99"), "99.2.0.192.bl.example");
        assert_eq!(
            of("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example"
        );
        assert_eq!(test_name(true, "x"), "2.0.0.127.x");
    }
}
