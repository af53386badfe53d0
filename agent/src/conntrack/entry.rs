//! One conntrack entry, and whether it must go.
//!
//! Owns: the rule of healing, as a pure function. Must not: talk to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mailsteer_core::model::{Family, SourceId};
use mailsteer_ebpf::Mark;

/// A TCP connection as conntrack knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who opened it, as the opener sees itself.
    pub source: SocketAddr,
    /// Whom the opener asked for.
    pub destination: SocketAddr,
    /// Whom the other side answers to: the address that the connection leaves from.
    pub leaves_from: IpAddr,
    /// The port that it leaves from.
    pub leaves_by: u16,
    /// The connection's mark.
    pub mark: u32,
    /// How far it came: a number of [`state`]; `None` where the kernel does not say.
    pub state: Option<u8>,
    /// The kernel's number for the entry, so that no newer one with the same ends is meant.
    pub id: Option<[u8; 4]>,
    /// The conntrack zone, where there is one.
    pub zone: Option<[u8; 2]>,
}

/// States of a TCP connection in conntrack (`enum tcp_conntrack`, include/uapi/linux/netfilter/nf_conntrack_tcp.h).
pub mod state {
    /// Its SYN left, and nobody has answered.
    pub const SYN_SENT: u8 = 1;
    /// Its SYN was answered.
    pub const SYN_RECV: u8 = 2;
    /// It stands.
    pub const ESTABLISHED: u8 = 3;
}

impl Entry {
    /// Whether nobody has answered its SYN yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.state == Some(state::SYN_SENT)
    }

    /// Whether it stands and neither side has begun to end it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, Some(state::SYN_RECV | state::ESTABLISHED))
    }

    /// The family of both ends.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.destination.ip())
    }
}

/// What a healthy entry is measured by.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Healthy {
    /// Steered ports.
    pub ports: BTreeSet<u16>,
    /// Destinations that are never steered.
    pub exclude: Vec<IpNet>,
    /// Addresses of this host.
    pub local: BTreeSet<IpAddr>,
    /// Eligible sources.
    pub sources: BTreeMap<SourceId, IpAddr>,
}

impl Healthy {
    /// Whether the entry is of a connection that the rules should have marked and did not, or that leaves from
    /// another address than its mark says. What was stamped as seen and not steered stays.
    #[must_use]
    pub fn must_go(&self, entry: &Entry) -> bool {
        self.steerable(entry)
            && match Mark::unpack(entry.mark) {
                None => true,
                Some(Mark { source: 0, .. }) => false,
                Some(mark) => self.sources.get(&SourceId(mark.source)) != Some(&entry.leaves_from),
            }
    }

    fn steerable(&self, entry: &Entry) -> bool {
        let to = entry.destination.ip();
        self.ports.contains(&entry.destination.port())
            && !to.is_loopback()
            && !to.is_multicast()
            && !self.local.contains(&to)
            && !self.exclude.iter().any(|net| net.contains(&to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Healthy {
        Healthy {
            ports: [25].into(),
            exclude: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            local: ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            sources: [
                (SourceId(1), "198.51.100.10".parse().unwrap()),
                (SourceId(2), "2001:db8::10".parse().unwrap()),
            ]
            .into(),
        }
    }

    fn entry(to: &str, leaves_from: &str, mark: u32) -> Entry {
        let destination: SocketAddr = to.parse().unwrap();
        let leaves_from: IpAddr = leaves_from.parse().unwrap();
        let (source, state) = ((leaves_from, 40_000).into(), Some(state::ESTABLISHED));
        Entry { source, destination, leaves_from, leaves_by: 40_000, mark, state, id: None, zone: None }
    }

    fn mark(source: u16) -> u32 {
        Mark { uplink: 0, lane: 3, source }.pack()
    }

    #[test]
    fn goes_without_a_mark_or_with_a_strangers() {
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", 0)));
        assert!(healthy().must_go(&entry("[2001:db8:2::1]:25", "2001:db8::1", 0)));
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", 0x1234)));
        // A slot key or a pre-mark is no decision.
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", 0x4e01_0000)));
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", 0x4c00_0001)));
    }

    #[test]
    fn stays_where_address_and_mark_agree() {
        assert!(!healthy().must_go(&entry("192.0.2.1:25", "198.51.100.10", mark(1))));
        assert!(!healthy().must_go(&entry("[2001:db8:2::1]:25", "2001:db8::10", mark(2))));
    }

    #[test]
    fn goes_where_they_do_not_agree_or_the_source_is_none_of_the_plan() {
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", mark(1))));
        assert!(healthy().must_go(&entry("192.0.2.1:25", "198.51.100.10", mark(7))));
    }

    #[test]
    fn stays_when_stamped_as_not_steered() {
        assert!(!healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", mark(0))));
        assert!(!healthy().must_go(&entry("192.0.2.1:25", "198.51.100.1", Mark::MAGIC)));
    }

    #[test]
    fn stays_when_it_is_none_of_ours() {
        for to in [
            "192.0.2.1:80",
            "10.1.2.3:25",
            "[fd00::5]:25",
            "127.0.0.1:25",
            "[::1]:25",
            "198.51.100.1:25",
            "[2001:db8::1]:25",
        ] {
            let from = if to.starts_with('[') { "2001:db8::1" } else { "198.51.100.1" };
            assert!(!healthy().must_go(&entry(to, from, 0)), "{to}");
        }
    }
}
