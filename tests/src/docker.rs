//! A Docker daemon as a mail host's rules see it: what it inserts, deletes and flushes, by iptables, call by call.
//!
//! Owns: the rules of one bridge network of both families, in the order and places of dockerd's own. Must not: know of
//! mailsteer, or spare it. No daemon runs: the containers are the lab's.

use std::net::IpAddr;

use anyhow::Result;

use crate::netns::NetNs;
use crate::topology::{BRIDGE, BRIDGE_NET4, BRIDGE_NET6};

/// Calls of iptables for each family: `$nat` and `$filter` are the commands, `$net` is the network.
fn both(ns: &NetNs, calls: &str) -> Result<()> {
    for (program, net) in [("iptables-nft", BRIDGE_NET4), ("ip6tables-nft", BRIDGE_NET6)] {
        ns.sh(&format!(
            "net={net}; bridge={BRIDGE}
             nat='{program} --wait -t nat'; filter='{program} --wait -t filter'
             {calls}"
        ))?;
    }
    Ok(())
}

/// The daemon starts, with its bridge network: everything not its own is dropped when forwarded, and what leaves is
/// masqueraded.
///
/// # Errors
/// When iptables fails, as it does where the rules stand already.
pub fn start(ns: &NetNs) -> Result<()> {
    both(
        ns,
        "$filter -P FORWARD DROP
         $nat -N DOCKER
         $filter -N DOCKER
         $filter -N DOCKER-ISOLATION-STAGE-1
         $filter -N DOCKER-ISOLATION-STAGE-2
         $filter -A DOCKER-ISOLATION-STAGE-1 -j RETURN
         $filter -A DOCKER-ISOLATION-STAGE-2 -j RETURN
         $nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
         $nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
         $nat -I POSTROUTING -s $net ! -o $bridge -j MASQUERADE
         $nat -I DOCKER -i $bridge -j RETURN
         $filter -I FORWARD -i $bridge -o $bridge -j ACCEPT
         $filter -I FORWARD -i $bridge ! -o $bridge -j ACCEPT
         $filter -I FORWARD -o $bridge -j DOCKER
         $filter -I FORWARD -o $bridge -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         $filter -I FORWARD -j DOCKER-ISOLATION-STAGE-1
         $filter -I DOCKER-ISOLATION-STAGE-1 -i $bridge ! -o $bridge -j DOCKER-ISOLATION-STAGE-2
         $filter -I DOCKER-ISOLATION-STAGE-2 -o $bridge -j DROP
         $filter -N DOCKER-USER
         $filter -A DOCKER-USER -j RETURN
         $filter -I FORWARD -j DOCKER-USER",
    )
}

/// The daemon starts over: what it had is flushed, and then inserted again. Meanwhile nothing is forwarded.
///
/// # Errors
/// When iptables fails.
pub fn restart(ns: &NetNs) -> Result<()> {
    both(
        ns,
        "$nat -F
         $nat -X DOCKER
         $filter -F
         for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do
             $filter -X $chain
         done",
    )?;
    start(ns)
}

/// The network is taken down and made again, rule by rule: nothing of others is flushed.
///
/// # Errors
/// When iptables fails.
pub fn recreate_network(ns: &NetNs) -> Result<()> {
    both(
        ns,
        "$nat -D POSTROUTING -s $net ! -o $bridge -j MASQUERADE
         $nat -D DOCKER -i $bridge -j RETURN
         $filter -D FORWARD -i $bridge ! -o $bridge -j ACCEPT
         $filter -D FORWARD -o $bridge -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         $filter -I FORWARD -o $bridge -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         $filter -I FORWARD -i $bridge ! -o $bridge -j ACCEPT
         $nat -I DOCKER -i $bridge -j RETURN
         $nat -I POSTROUTING -s $net ! -o $bridge -j MASQUERADE",
    )
}

/// mailcow's `SNAT_TO_SOURCE` and `SNAT6_TO_SOURCE`: a rule at the head of the chain that gives all that leaves one
/// address. As its watcher does, it is put there anew each time.
///
/// # Errors
/// When iptables fails.
pub fn snat_to_source(ns: &NetNs, sources: &[IpAddr]) -> Result<()> {
    for source in sources {
        let (program, net) = match source {
            IpAddr::V4(_) => ("iptables-nft", BRIDGE_NET4),
            IpAddr::V6(_) => ("ip6tables-nft", BRIDGE_NET6),
        };
        let rule = format!("POSTROUTING -s {net} ! -d {net} -j SNAT --to-source {source}");
        ns.sh(&format!("{program} --wait -t nat -D {rule} 2>/dev/null || true"))?;
        ns.sh(&format!("{program} --wait -t nat -I {rule}"))?;
    }
    Ok(())
}

/// Publishes port 25 of a container, of the family of its address: `--publish 25:25`.
///
/// # Errors
/// When iptables fails.
pub fn publish_smtp(ns: &NetNs, container: IpAddr) -> Result<()> {
    let (program, to) = match container {
        IpAddr::V4(address) => ("iptables-nft", format!("{address}:25")),
        IpAddr::V6(address) => ("ip6tables-nft", format!("[{address}]:25")),
    };
    ns.sh(&format!(
        "{program} --wait -t nat -A POSTROUTING -s {container} -d {container} -p tcp --dport 25 -j MASQUERADE
         {program} --wait -t nat -A DOCKER ! -i {BRIDGE} -p tcp --dport 25 -j DNAT --to-destination {to}
         {program} --wait -A DOCKER -d {container} ! -i {BRIDGE} -o {BRIDGE} -p tcp --dport 25 -j ACCEPT"
    ))
    .map(drop)
}
