//! Countries that a stream's mail goes to, with their networks as the operator's database has them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Countries and all of their networks. Clones share the networks: there may be tens of thousands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Countries {
    /// Two letters each, as in ISO 3166-1.
    pub codes: Vec<String>,
    /// Sorted, and no two with an address in common. Left out where a plan is shown: the codes say it.
    #[serde(skip)]
    networks: Arc<Vec<IpNet>>,
}

impl Countries {
    /// Joins neighbours and sorts.
    #[must_use]
    pub fn new(codes: Vec<String>, networks: &Vec<IpNet>) -> Self {
        let mut networks = IpNet::aggregate(networks);
        networks.sort_unstable();
        Self { codes, networks: Arc::new(networks) }
    }

    /// Whether no country is named: it does not matter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// Their networks.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.networks.partition_point(|net| net.network() <= address);
        after.checked_sub(1).and_then(|at| self.networks.get(at)).is_some_and(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_among_neighbours_of_both_families() {
        let nets =
            ["198.51.100.0/25", "192.0.2.0/24", "198.51.100.128/25", "2001:db8::/32", "203.0.113.7/32"];
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let countries = Countries::new(vec!["DE".to_owned()], &nets);
        assert_eq!(countries.networks().len(), 4, "neighbours are one");
        let has = |address: &str| countries.contains(address.parse().unwrap());
        for inside in ["192.0.2.0", "192.0.2.255", "198.51.100.200", "203.0.113.7", "2001:db8:ffff::1"] {
            assert!(has(inside), "{inside}");
        }
        for outside in ["192.0.1.255", "192.0.3.0", "203.0.113.8", "255.255.255.255", "::", "2001:db9::"] {
            assert!(!has(outside), "{outside}");
        }
    }
}
