//! Conntrack entries to steered ports: which are wrong, and deleting those.
//!
//! Owns: dumping and deleting by netlink. Must not: touch entries to other ports, or entries that are right: a deleted
//! entry is a connection that ends. Everything here blocks and runs off the async threads.

mod entry;
mod holders;
pub(crate) mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mailsteer_core::model::{Family, LaneId, Slots, SourceId};

pub use entry::{Entry, Healthy, state};
pub use holders::{Holders, Standing, must_move};

/// What healing did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealReport {
    /// Entries to steered ports.
    pub examined: u64,
    /// Entries that were wrong and are gone.
    pub deleted: u64,
}

/// Why conntrack could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The privilege is missing.
    #[error("conntrack: not permitted; the agent needs CAP_NET_ADMIN")]
    NotPermitted(#[source] io::Error),
    /// The kernel refused, or has no conntrack netlink (module nf_conntrack_netlink).
    #[error("conntrack: {what}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("conntrack: the kernel's answer is not understood")]
    Answer(#[source] crate::nftnl::NetlinkError),
    /// The addresses of this host could not be read.
    #[error("conntrack: reading the addresses of this host")]
    Addresses(#[source] io::Error),
    /// The table's size could not be read.
    #[error("conntrack: {path}")]
    Usage {
        /// Its file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work was cut off.
    #[error("conntrack: cut off")]
    Cut(#[source] tokio::task::JoinError),
}

/// `Action::Heal`: deletes the entries to steered ports that bear no mark of ours, or whose address is not their
/// mark's.
///
/// # Errors
/// When the kernel refuses; what was deleted before stays deleted.
pub async fn heal(
    ports: &[u16],
    exclude: &[IpNet],
    sources: &BTreeMap<SourceId, IpAddr>,
) -> Result<HealReport, ConntrackError> {
    let healthy = Healthy {
        ports: ports.iter().copied().collect(),
        exclude: exclude.to_vec(),
        local: BTreeSet::new(),
        sources: sources.clone(),
    };
    tokio::task::spawn_blocking(move || heal_blocking(healthy)).await.map_err(ConntrackError::Cut)?
}

fn heal_blocking(mut healthy: Healthy) -> Result<HealReport, ConntrackError> {
    healthy.local = local_addresses()?;
    let mut connection = socket::Connection::open()?;
    let mut report = HealReport::default();
    for family in Family::BOTH {
        for port in healthy.ports.clone() {
            let found = connection.going_to(family, port)?;
            report.examined += found.len() as u64;
            for entry in found.iter().filter(|entry| healthy.must_go(entry)) {
                report.deleted += u64::from(connection.delete(entry)?);
            }
        }
    }
    Ok(report)
}

/// How many times the entries are looked through at most: a SYN that drew while the slots moved may enter its entry after
/// a look at it. Each look is later than the last such SYN by a whole round to the kernel.
const LOOKS: usize = 3;

/// `Action::MovePending`: deletes the entries of connections that nobody has answered and whose source holds no slot of
/// their lane, until none is left. Says how many. The sockets wait on: the kernel sends each SYN again within a second or
/// so, and that one draws a slot like any other. So does a new socket that takes the port of one that has given up: the
/// entry, which outlives its socket by up to two minutes, would give it the old source.
///
/// # Errors
/// When the kernel refuses; what was deleted before stays deleted.
pub async fn move_pending(
    ports: &[u16],
    slots: &BTreeMap<(LaneId, Family), Slots>,
) -> Result<u64, ConntrackError> {
    let (ports, slots) = (ports.to_vec(), slots.clone());
    let work = move || {
        let mut connection = socket::Connection::open()?;
        let mut holders = Holders::of(&slots);
        let mut all = 0;
        for _look in 0..LOOKS {
            let moved = move_once(&mut connection, &mut holders, &ports)?;
            all += moved;
            if moved == 0 {
                break;
            }
        }
        Ok(all)
    };
    tokio::task::spawn_blocking(work).await.map_err(ConntrackError::Cut)?
}

fn move_once(
    connection: &mut socket::Connection,
    holders: &mut Holders<'_>,
    ports: &[u16],
) -> Result<u64, ConntrackError> {
    let mut moved = 0;
    for family in Family::BOTH {
        for &port in ports {
            let found = connection.going_to(family, port)?;
            for entry in found.iter().filter(|entry| must_move(holders, entry)) {
                moved += u64::from(connection.delete(entry)?);
            }
        }
    }
    Ok(moved)
}

/// Every connection to these ports, as conntrack knows it. Blocks.
///
/// # Errors
/// When the kernel refuses.
pub fn all(ports: &[u16]) -> Result<Vec<Entry>, ConntrackError> {
    let mut connection = socket::Connection::open()?;
    let mut all = Vec::new();
    for family in Family::BOTH {
        for &port in ports {
            all.extend(connection.going_to(family, port)?);
        }
    }
    Ok(all)
}

/// Deletes these entries; says how many were still there. Blocks.
///
/// # Errors
/// When the kernel refuses; what was deleted before stays deleted.
pub fn delete<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<u64, ConntrackError> {
    let mut connection = socket::Connection::open()?;
    let mut deleted = 0;
    for entry in entries {
        deleted += u64::from(connection.delete(entry)?);
    }
    Ok(deleted)
}

fn local_addresses() -> Result<BTreeSet<IpAddr>, ConntrackError> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|errno| ConntrackError::Addresses(errno.into()))?;
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(interfaces.filter_map(address).collect())
}

/// The entry of a connection of this host, while conntrack knows it: also for some seconds after its end.
///
/// # Errors
/// When the kernel refuses.
pub fn find(from: SocketAddr, to: SocketAddr) -> Result<Option<Entry>, ConntrackError> {
    let entries = socket::Connection::open()?.going_to(Family::of(to.ip()), to.port())?;
    Ok(entries.into_iter().find(|entry| entry.source == from && entry.destination == to))
}

/// Entries in the table, and how many it holds at most.
///
/// # Errors
/// When conntrack is not loaded.
pub fn usage() -> Result<(u64, u64), ConntrackError> {
    let read = |path: &'static str| {
        let text = fs::read_to_string(path).map_err(|source| ConntrackError::Usage { path, source })?;
        text.trim().parse().map_err(|error| ConntrackError::Usage { path, source: io::Error::other(error) })
    };
    Ok((
        read("/proc/sys/net/netfilter/nf_conntrack_count")?,
        read("/proc/sys/net/netfilter/nf_conntrack_max")?,
    ))
}
