//! The ways to choose a source that are compared.
//!
//! Owns: the rules of each, as people write them. Must not: give one of them less to do: every way uses every source, by
//! turns.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::agent::Agent;
use crate::exec;
use crate::lab::Lab;
use crate::scene::MAIL;
use crate::topology::uplinks;

/// First address of the sources' network, a /20; 128.66.0.0/16 is nobody's.
const NETWORK: Ipv4Addr = Ipv4Addr::new(128, 66, 0, 0);
/// A range of a config stands for no more addresses.
const RANGE: u32 = 1000;

/// A way to choose the source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// None at all: the host's own address, no connection tracking.
    None,
    /// `snat to numgen inc mod N map`, by hand; it counts nothing.
    Numgen,
    /// iptables, a rule for each source, with the statistic match.
    Iptables,
    /// mailsteer with everything on.
    Mailsteer,
}

impl Way {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::None, Self::Numgen, Self::Iptables, Self::Mailsteer];

    /// Puts it up; inside: why this kernel cannot.
    pub(super) fn set_up(
        self,
        lab: &Lab,
        sources: u32,
    ) -> Result<std::result::Result<Option<Agent>, String>> {
        match self {
            Self::None => {}
            Self::Numgen => lab.mail.nft(&numgen(sources))?,
            Self::Iptables => {
                let rules = iptables(sources);
                let mut restore: Command = lab.mail.command("iptables-nft-restore");
                if let Err(error) = exec::output_of(&mut restore, &rules) {
                    return Ok(Err(format!("{error:#}")));
                }
            }
            Self::Mailsteer => return Ok(Ok(Some(Agent::start(lab, &config(sources))?))),
        }
        Ok(Ok(None))
    }
}

/// What is the same for all: the world's way back, and entries of closed connections that go when mailsteer lets its own
/// go; by the kernel's 120 s every table would be full after some bursts.
pub(super) fn prepare(lab: &Lab) -> Result<()> {
    lab.world.sh(&format!("ip route replace {NETWORK}/20 via {}", uplinks()[0].own4))?;
    lab.mail
        .sh("for state in time_wait fin_wait close_wait last_ack; do
                 echo 10 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_$state
             done
             echo 5 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close")
        .context("timeouts of conntrack")?;
    Ok(())
}

pub(super) fn is_source(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..2] == NETWORK.octets()[..2])
}

fn addresses(sources: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..=sources).map(|n| Ipv4Addr::from(u32::from(NETWORK) + n))
}

fn numgen(sources: u32) -> String {
    let mut map = String::new();
    for (n, address) in addresses(sources).enumerate() {
        let _written = write!(map, "{}{n} : {address}", if n == 0 { "" } else { ", " });
    }
    format!(
        "table ip hand {{
            chain post {{
                type nat hook postrouting priority 100
                tcp dport 25 snat to numgen inc mod {sources} map {{ {map} }}
            }}
        }}"
    )
}

/// Of N rules the first takes every N-th, the next of what is left every (N-1)-th, and so on.
fn iptables(sources: u32) -> String {
    let mut rules = String::from("*nat\n:POSTROUTING ACCEPT [0:0]\n");
    for (address, left) in addresses(sources).zip((1..=sources).rev()) {
        let some = match left {
            1 => String::new(),
            left => format!(" -m statistic --mode nth --every {left} --packet 0"),
        };
        let _written =
            writeln!(rules, "-A POSTROUTING -p tcp -m tcp --dport 25{some} -j SNAT --to-source {address}");
    }
    rules.push_str("COMMIT\n");
    rules
}

fn config(sources: u32) -> String {
    let first = u32::from(NETWORK) + 1;
    let ranges = (0..sources).step_by(RANGE as usize).map(|from| {
        let last = (from + RANGE).min(sources) - 1;
        format!("\"{}-{}\"", Ipv4Addr::from(first + from), Ipv4Addr::from(first + last))
    });
    format!(
        "mode = \"enforce\"\n[uplink.a]\ninterface = \"upa\"\ngateway = [\"192.0.2.1\"]\n\
         prefix = [\"192.0.2.0/25\", \"{NETWORK}/20\"]\n[pool.main]\naddresses = [{}]\n\
         [stream.mail]\nuid = {MAIL}\npool = \"main\"\n",
        ranges.collect::<Vec<_>>().join(", ")
    )
}
