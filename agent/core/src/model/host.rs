//! The host as it is found: links, addresses and routes, one snapshot at a time.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A snapshot of what rtnetlink says, in the order the kernel gives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// Every interface of the namespace.
    pub links: Vec<Link>,
    /// Every address of every interface.
    pub addresses: Vec<Address>,
    /// Unicast routes of the main table.
    pub routes: Vec<Route>,
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up and with carrier: packets can leave.
    pub up: bool,
    /// A loopback interface.
    pub loopback: bool,
    /// Has one other end and no neighbours (ppp, tun, wg): what is sent by it arrives there without a gateway.
    pub point_to_point: bool,
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Whether it may be used.
    pub state: AddressState,
    /// Bears our protocol mark: mailsteer added it.
    pub ours: bool,
}

/// Whether an address may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressState {
    /// Ready.
    Ready,
    /// Duplicate address detection has not finished.
    Tentative,
    /// Duplicate address detection found another owner.
    DadFailed,
}

/// A unicast route of the main table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` or `::/0` for a default route.
    pub destination: IpNet,
    /// Next hop, where there is one.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub ifindex: u32,
    /// Metric; lower wins.
    pub metric: u32,
}
