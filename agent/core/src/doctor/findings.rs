//! What was found on a host, before anybody judges it.
//!
//! Owns: plain data. Must not: judge, or take what could not be read for absent: every part can be [`Unread`].

use std::collections::BTreeMap;

use super::firewall::Firewall;
use crate::model::{Family, Host};
use crate::signal::port25::Try;

/// What was read, or why it could not be.
pub type Read<T> = Result<T, Unread>;

/// Why something could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread {
    /// In words.
    pub why: String,
    /// Root could read it.
    pub needs_root: bool,
}

/// A host as it was found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Whether the looking was done as root.
    pub root: bool,
    /// Release of the kernel, such as `6.1.0-18-amd64`.
    pub release: Read<String>,
    /// Whether the kernel shows its BTF.
    pub btf: Read<bool>,
    /// Whether the kernel loaded an eBPF program as a trial.
    pub bpf: Read<bool>,
    /// Effective capabilities, as bits.
    pub capabilities: Read<u64>,
    /// What `kernel.unprivileged_bpf_disabled` says.
    pub unprivileged_bpf_disabled: Read<u8>,
    /// The lockdown that is in force; `None` without that security module.
    pub lockdown: Read<Option<String>>,
    /// The kind of container that this is; `None` outside of one.
    pub container: Read<Option<String>>,
    /// The version of the nft program; `None` where there is none.
    pub nft: Read<Option<String>>,
    /// What is mounted.
    pub mounts: Read<Vec<Mount>>,
    /// Connection tracking.
    pub conntrack: Read<Conntrack>,
    /// Whether the kernel has timeout policies (`CONFIG_NF_CONNTRACK_TIMEOUT`).
    pub timeouts: Read<bool>,
    /// Links, addresses and routes.
    pub host: Read<Host>,
    /// Settings by interface, `all` among them.
    pub interfaces: Read<BTreeMap<String, InterfaceSettings>>,
    /// Policy routing rules of both families.
    pub rules: Read<Vec<PolicyRule>>,
    /// Routing tables of our numbers that hold routes of others.
    pub taken_tables: Read<Vec<u32>>,
    /// What the nft program lists.
    pub nftables: Read<Firewall>,
    /// What the iptables programs list, both kinds and both families.
    pub iptables: Read<Firewall>,
    /// First and last local port of connections.
    pub local_ports: Read<(u16, u16)>,
    /// Whether `/etc/nftables.conf` flushes the ruleset; `None` where there is no such file.
    pub nftables_conf_flushes: Read<Option<bool>>,
    /// What systemd-networkd does with what it does not know.
    pub networkd: Read<Foreign>,
    /// What tries of port 25 met, by the source's name; `None` where nobody is to be tried.
    pub port25: Read<Option<BTreeMap<String, Read<Vec<Try>>>>>,
    /// The units that matter to mail, as far as they are installed.
    pub units: Read<Vec<Unit>>,
}

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where.
    pub at: String,
    /// Its type.
    pub kind: String,
}

/// Connection tracking as it is now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conntrack {
    /// Entries that there may be; `None` while the module is not loaded.
    pub max: Option<u64>,
    /// Entries that there are in this network namespace.
    pub count: Option<u64>,
    /// Whether the module can be loaded, where it is not.
    pub loadable: bool,
}

/// Kernel settings of an interface, IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterfaceSettings {
    /// Reverse path filter: 0 off, 1 strict, 2 loose. The larger of this and `all`'s counts.
    pub rp_filter: u8,
    /// Whether the filter heeds the packet mark. This or `all`'s counts.
    pub src_valid_mark: bool,
    /// Whether a network's other addresses stay when its first is removed. This or `all`'s counts.
    pub promote_secondaries: bool,
}

/// A policy routing rule, as far as it is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRule {
    /// Its family.
    pub family: Family,
    /// Its preference; lower comes first.
    pub preference: u32,
    /// Mark and mask, where it looks at the mark.
    pub mark: Option<(u32, u32)>,
    /// The selection is turned round (`not`).
    pub inverted: bool,
    /// It selects by something else than the mark: address, interface, port, user.
    pub selective: bool,
    /// The table that it looks up; `None` for other actions.
    pub table: Option<u32>,
    /// It skips default routes (`suppress_prefixlength 0`) or longer ones.
    pub suppresses: bool,
    /// It bears our protocol number.
    pub ours: bool,
}

/// What a network manager does with what it did not add.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// It leaves routes alone (`ManageForeignRoutes=no`).
    pub leaves_routes: bool,
    /// It leaves policy rules alone (`ManageForeignRoutingPolicyRules=no`).
    pub leaves_rules: bool,
}

/// An installed systemd unit, or an init script that stands for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Its name, such as `postfix.service`.
    pub name: String,
    /// It is started at boot.
    pub enabled: bool,
    /// The units that it comes before.
    pub before: Vec<String>,
}
