//! Which hosts, links and addresses the lab has: a mail host, the world, containers behind a bridge.
//!
//! Owns: the plan of addresses, and the `ip` commands that make it. Must not: start any process that stays.
//! The world is one namespace: it routes, and answers on every address of the receivers' networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::NetNs;
use crate::tunnel::Tunnel;

/// What a lab looks like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Uplinks of the mail host: 1 or 2.
    pub uplinks: usize,
    /// How many of these, from the last on, are point to point: no Ethernet header, no neighbours, no gateway.
    pub tunnels: usize,
    /// Whether there is IPv6.
    pub ipv6: bool,
    /// How many containers are behind the bridge.
    pub containers: usize,
    /// How many of these, from the last on, have a user namespace of their own, as with `userns-remap`.
    pub remapped: usize,
    /// How many sources of each family are on the host before the agent comes (for adoption), at each uplink.
    pub plumbed: usize,
    /// Strict reverse path filter on the mail host's uplinks.
    pub strict_rp_filter: bool,
    /// The mail host is a container of unprivileged hosting: its root is nobody outside, and may load no eBPF.
    pub unprivileged: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uplinks: 2,
            tunnels: 0,
            ipv6: true,
            containers: 0,
            remapped: 0,
            plumbed: 0,
            strict_rp_filter: false,
            unprivileged: false,
        }
    }
}

/// An uplink of the mail host.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Interface in the mail host.
    pub interface: &'static str,
    /// The other end, in the world.
    pub far: &'static str,
    /// The mail host's own address.
    pub own4: Ipv4Addr,
    /// The mail host's own address.
    pub own6: Ipv6Addr,
    /// The router's address.
    pub gateway4: Ipv4Addr,
    /// The router's address.
    pub gateway6: Ipv6Addr,
    net4: [u8; 3],
    net6: u16,
    first: u8,
}

impl Uplink {
    /// The n-th source (from 0): `.11`, `.12` ... on uplink a, `.21`, `.22` ... on uplink b.
    #[must_use]
    pub fn source4(&self, n: u8) -> IpAddr {
        let [a, b, c] = self.net4;
        Ipv4Addr::new(a, b, c, self.first + n).into()
    }

    /// The n-th IPv6 source (from 0): `::11`, `::12` ... on uplink a, `::21`, `::22` ... on uplink b.
    #[must_use]
    pub fn source6(&self, n: u8) -> IpAddr {
        // Written in decimal digits, so that ::11 belongs to .11.
        let host = u16::from_str_radix(&(self.first + n).to_string(), 16).unwrap_or_default();
        Ipv6Addr::new(0x2001, 0xdb8, self.net6, 0, 0, 0, 0, host).into()
    }
}

/// The uplinks, a and b.
#[must_use]
pub fn uplinks() -> [Uplink; 2] {
    let uplink = |interface, far, net4: [u8; 3], net6, first| Uplink {
        interface,
        far,
        own4: Ipv4Addr::new(net4[0], net4[1], net4[2], 10),
        own6: Ipv6Addr::new(0x2001, 0xdb8, net6, 0, 0, 0, 0, 0x10),
        gateway4: Ipv4Addr::new(net4[0], net4[1], net4[2], 1),
        gateway6: Ipv6Addr::new(0x2001, 0xdb8, net6, 0, 0, 0, 0, 1),
        net4,
        net6,
        first,
    };
    [uplink("upa", "wa", [192, 0, 2], 0xa, 11), uplink("upb", "wb", [198, 51, 100], 0xb, 21)]
}

/// A receiver's IPv4 address: 203.0.113.n; every one of them answers.
#[must_use]
pub fn receiver4(n: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, n).into()
}

/// A receiver's IPv6 address: 2001:db8:ffff::n; every one of them answers.
#[must_use]
pub fn receiver6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, n).into()
}

/// Address of the DNS server.
pub const DNS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// A private relay, reached by uplink a.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 25);
/// The containers' bridge, and its networks: those of a mailcow.
pub const BRIDGE: &str = "br-mailcow";
/// The containers' IPv4 network.
pub const BRIDGE_NET4: &str = "172.22.1.0/24";
/// The containers' IPv6 network.
pub const BRIDGE_NET6: &str = "fd4d:6169:6c63:6f77::/64";

/// IPv4 address of container `n` (from 0).
#[must_use]
pub fn container4(n: usize) -> IpAddr {
    Ipv4Addr::new(172, 22, 1, 250u8.saturating_sub(u8::try_from(n).unwrap_or(u8::MAX))).into()
}

/// IPv6 address of container `n` (from 0).
#[must_use]
pub fn container6(n: usize) -> IpAddr {
    Ipv6Addr::new(0xfd4d, 0x6169, 0x6c63, 0x6f77, 0, 0, 0, 0x250 - u16::try_from(n).unwrap_or_default())
        .into()
}

/// The point-to-point uplinks by interface.
pub type Tunnels = BTreeMap<&'static str, Tunnel>;

/// Links, addresses and routes between the mail host and the world.
///
/// # Errors
/// When `ip` fails.
pub fn connect(mail: &NetNs, world: &NetNs, options: &Options) -> Result<Tunnels> {
    for (key, value) in [("net.core.somaxconn", "8192"), ("net.ipv4.tcp_max_syn_backlog", "8192")] {
        world.sysctl(key, value)?;
    }
    world.sysctl("net.ipv4.ip_forward", "1")?;
    world.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    // A router asks for a neighbour with its own address on the link, never with the receiver's: the mail host's
    // reverse path filter would drop the question where it has no route to the receiver.
    world.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
    // More than the default's 28,232 ports, so that minutes of load need no reuse within the conntrack timeout.
    mail.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    let mut tunnels = Tunnels::new();
    for (n, uplink) in uplinks().iter().take(options.uplinks).enumerate() {
        if n + options.tunnels < options.uplinks {
            link(mail, world, uplink, options, n)?;
        } else {
            tunnels.insert(uplink.interface, dial(mail, world, uplink, options)?);
            answer(mail, world, uplink, uplink.own4)?;
            let (interface, metric) = (uplink.interface, metric(n));
            mail.sh(&format!("ip route add default dev {interface} metric {metric}"))?;
            if options.ipv6 {
                mail.sh(&format!("ip -6 route add default dev {interface} metric {metric}"))?;
            }
        }
        plumb(mail, uplink, options)?;
    }
    world.sh(&format!(
        "ip route add local 203.0.113.0/24 dev lo
         ip route add local 2001:db8:ffff::/64 dev lo
         ip address add {RELAY}/32 dev lo"
    ))?;
    // A receiver network that is on every lo anyway must not answer for the mail host's.
    world.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    Ok(tunnels)
}

fn metric(n: usize) -> usize {
    100 * (n + 1)
}

/// Makes a point-to-point link. The world's end is up and routes; the mail host's is down and has nothing.
///
/// # Errors
/// When a device cannot be had, or `ip` fails.
pub fn dial(mail: &NetNs, world: &NetNs, uplink: &Uplink, options: &Options) -> Result<Tunnel> {
    let Uplink { interface, far, .. } = uplink;
    let tunnel = Tunnel::new((mail, interface), (world, far))?;
    settings(mail, world, uplink, options)?;
    let Uplink { gateway4, gateway6, net4: [a, b, c], net6, .. } = uplink;
    world.sh(&format!(
        "ip address add {gateway4}/32 dev {far}
         ip link set {far} up
         ip route add {a}.{b}.{c}.0/25 dev {far}"
    ))?;
    if options.ipv6 {
        world.sh(&format!(
            "ip address add {gateway6}/128 dev {far} nodad
             ip route add 2001:db8:{net6:x}::/64 dev {far}"
        ))?;
    }
    Ok(tunnel)
}

/// Brings the mail host's end of a point-to-point link up, with this address of its own, as pppd would.
///
/// # Errors
/// When `ip` fails.
pub fn answer(mail: &NetNs, world: &NetNs, uplink: &Uplink, own4: Ipv4Addr) -> Result<()> {
    let Uplink { interface, far, own6, gateway4, gateway6, .. } = uplink;
    mail.sh(&format!("ip address add {own4} peer {gateway4} dev {interface}; ip link set {interface} up"))?;
    if world.sh(&format!("ip -6 address show dev {far}"))?.contains(&gateway6.to_string()) {
        mail.sh(&format!("ip address add {own6} peer {gateway6} dev {interface}"))?;
    }
    Ok(())
}

fn link(mail: &NetNs, world: &NetNs, uplink: &Uplink, options: &Options, n: usize) -> Result<()> {
    let Uplink { interface, far, own4, own6, gateway4, gateway6, .. } = uplink;
    mail.sh(&format!("ip link add {interface} type veth peer name {far} netns {}", world.path()))?;
    settings(mail, world, uplink, options)?;
    let metric = metric(n);
    world.sh(&format!("ip address add {gateway4}/25 dev {far}; ip link set {far} up"))?;
    mail.sh(&format!(
        "ip address add {own4}/25 dev {interface}
         ip link set {interface} up
         ip route add default via {gateway4} dev {interface} metric {metric}"
    ))?;
    if options.ipv6 {
        world.sh(&format!("ip address add {gateway6}/64 dev {far} nodad"))?;
        mail.sh(&format!(
            "ip address add {own6}/64 dev {interface} nodad
             ip route add default via {gateway6} dev {interface} metric {metric}"
        ))?;
    }
    Ok(())
}

/// What the kernel is told of both ends before they are up.
fn settings(mail: &NetNs, world: &NetNs, uplink: &Uplink, options: &Options) -> Result<()> {
    let Uplink { interface, far, .. } = uplink;
    for (ns, device) in [(mail, interface), (world, far)] {
        ns.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), if options.ipv6 { "0" } else { "1" })?;
    }
    // DAD is the agent's to await on the mail host; the world's addresses are not under test.
    world.sysctl(&format!("net.ipv6.conf.{far}.accept_dad"), "0")?;
    world.sysctl(&format!("net.ipv4.conf.{far}.rp_filter"), "0")?;
    mail.sysctl(
        &format!("net.ipv4.conf.{interface}.rp_filter"),
        if options.strict_rp_filter { "1" } else { "2" },
    )
}

fn plumb(mail: &NetNs, uplink: &Uplink, options: &Options) -> Result<()> {
    for n in 0..u8::try_from(options.plumbed)? {
        mail.sh(&format!("ip address add {}/32 dev {}", uplink.source4(n), uplink.interface))?;
        if options.ipv6 {
            let source = uplink.source6(n);
            mail.sh(&format!("ip address add {source}/128 dev {} nodad preferred_lft 0", uplink.interface))?;
        }
    }
    Ok(())
}

/// A bridge with containers, forwarded and masqueraded as Docker does it.
///
/// # Errors
/// When `ip` or `nft` fails.
pub fn contain(mail: &NetNs, containers: &[NetNs], ipv6: bool) -> Result<()> {
    if containers.is_empty() {
        return Ok(());
    }
    mail.sysctl("net.ipv4.ip_forward", "1")?;
    mail.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    mail.sh(&format!(
        "ip link add {BRIDGE} type bridge
         ip address add 172.22.1.1/24 dev {BRIDGE}
         ip link set {BRIDGE} up"
    ))?;
    if ipv6 {
        mail.sh(&format!("ip address add fd4d:6169:6c63:6f77::1/64 dev {BRIDGE} nodad"))?;
    }
    for (n, container) in containers.iter().enumerate() {
        mail.sh(&format!("ip link add vc{n} type veth peer name eth0 netns {}", container.path()))?;
        container.sysctl("net.ipv6.conf.eth0.accept_dad", "0")?;
        mail.sh(&format!("ip link set vc{n} master {BRIDGE} up"))?;
        container.sh(&format!(
            "ip address add {}/24 dev eth0; ip link set eth0 up; ip route add default via 172.22.1.1",
            container4(n)
        ))?;
        if ipv6 {
            container.sh(&format!(
                "ip address add {}/64 dev eth0 nodad; ip route add default via fd4d:6169:6c63:6f77::1",
                container6(n)
            ))?;
        }
    }
    masquerade(mail)
}

/// What Docker has: its own tables, so that ours must get along with them.
fn masquerade(mail: &NetNs) -> Result<()> {
    let table = |family: &str, word: &str, net: &str| {
        format!(
            "table {family} nat {{ chain POSTROUTING {{ type nat hook postrouting priority 100
             {word} saddr {net} oifname != \"{BRIDGE}\" masquerade\n}}\n}}\n"
        )
    };
    mail.nft(&(table("ip", "ip", BRIDGE_NET4) + &table("ip6", "ip6", BRIDGE_NET6)))
}
