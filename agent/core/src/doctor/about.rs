//! The list of checks: what each looks at, what a bad answer costs, and what to do. docs/doctor.md is made of it.

use std::fmt::Write as _;

/// A check, for people who want to know what is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Its stable name.
    pub name: &'static str,
    /// What it belongs to.
    pub group: &'static str,
    /// What is looked at.
    pub looks_at: &'static str,
    /// What a bad answer costs.
    pub cost: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const fn about(
    name: &'static str,
    group: &'static str,
    looks_at: &'static str,
    cost: &'static str,
    advice: &'static str,
) -> About {
    About { name, group, looks_at, cost, advice }
}

/// Every check, in the order in which they run.
pub const CHECKS: &[About] = &[
    about(
        "config",
        "config",
        "the file given with `--config`",
        "A config with errors is not used.",
        "`mailsteer check FILE` shows every error in its place.",
    ),
    about(
        "kernel",
        "kernel",
        "the kernel's version",
        "Before 6.1 nothing was tried. Before 6.6 the guard is a clsact filter, which `tc` can remove. Before 6.9 the table cannot be owned, so that `nft flush ruleset` of another program takes it.",
        "Boot 6.1 or later; from 6.9 on all of it is there.",
    ),
    about(
        "btf",
        "kernel",
        "`/sys/kernel/btf/vmlinux`",
        "The kernel may refuse the eBPF programs: then there is one lock only.",
        "Boot a kernel with `CONFIG_DEBUG_INFO_BTF=y`; Debian's have it.",
    ),
    about(
        "ebpf",
        "privileges",
        "whether the kernel loads an eBPF program as a trial; if not: capabilities, container",
        "Without eBPF there is one lock only, and no record of single connections.",
        "Run the agent with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which containers usually lack.",
    ),
    about(
        "lockdown",
        "privileges",
        "the lockdown security module",
        "`confidentiality` keeps eBPF programs from reading the kernel's memory.",
        "`integrity` is enough for Secure Boot.",
    ),
    about(
        "container",
        "privileges",
        "signs of a container",
        "Only the container's own network namespace is steered.",
        "Run the agent on the host, and match containers by `subnet`.",
    ),
    about(
        "seen",
        "privileges",
        "whether the looking was done as root",
        "What only root can read is not judged.",
        "Run `mailsteer doctor` as root.",
    ),
    about(
        "cgroup2",
        "kernel",
        "the cgroup2 mount, and whether the hierarchy is hybrid",
        "Without it there is no second anchor of the guard, and no stream is matched by cgroup.",
        "`mount -t cgroup2 none /sys/fs/cgroup`, or boot with `systemd.unified_cgroup_hierarchy=1`.",
    ),
    about(
        "bpffs",
        "kernel",
        "the BPF file system",
        "Nothing of the guard outlives the agent without it.",
        "`mount -t bpf bpf /sys/fs/bpf`.",
    ),
    about(
        "nft",
        "firewall",
        "the nft program and its version",
        "Without it no rules are written.",
        "Install the `nftables` package; 1.0.6 was tried.",
    ),
    about(
        "conntrack",
        "conntrack",
        "whether connection tracking is there and in use, `nf_conntrack_max`, and how full the table is",
        "A steered connection takes an entry, and for a while after it closed. A full table loses connections of the whole host.",
        "Raise `net.netfilter.nf_conntrack_max`.",
    ),
    about(
        "conntrack-timeout",
        "conntrack",
        "`CONFIG_NF_CONNTRACK_TIMEOUT`",
        "Closed connections keep their entry for 120 s in place of 10 s.",
        "Boot a kernel that has it, or raise `nf_conntrack_max`.",
    ),
    about(
        "notrack",
        "firewall",
        "rules of nftables and iptables that take steered ports out of connection tracking",
        "Connections of a steered stream that such a rule meets are refused at once.",
        "Limit the rule to other ports, or remove it.",
    ),
    about(
        "nat",
        "firewall",
        "rules that rewrite the source address before ours do",
        "A steered connection that such a rule meets is dropped: it would bear a wrong address.",
        "Give that chain the priority srcnat (100), which comes after ours (90), or exclude steered ports.",
    ),
    about(
        "marks",
        "firewall",
        "rules of others that look at packet marks or write connection marks",
        "A rule that takes one of our marks for its own drops the connection, or sends it elsewhere; the guard holds what lost its mark.",
        "Change the mask of the other program, or exclude steered ports from the rule.",
    ),
    about(
        "others",
        "firewall",
        "Docker, firewalld, Tailscale, kube-proxy, mwan3, Calico, wg-quick, by their chains and rules",
        "None by itself.",
        "None: collisions are told under notrack, nat, marks and rules.",
    ),
    about(
        "rp-filter",
        "routing",
        "`rp_filter` and `src_valid_mark` of every uplink",
        "A strict filter drops the answers to sources that leave by another uplink than the main table's.",
        "Declare the uplinks in the config: mailsteer then sets `src_valid_mark`. Or set `rp_filter` to 2.",
    ),
    about(
        "promote-secondaries",
        "routing",
        "addresses of pools that share a network on an interface",
        "When the first address of the network is removed, the kernel removes the others.",
        "Set `net.ipv4.conf.all.promote_secondaries = 1`, or add the addresses as /32.",
    ),
    about(
        "rules",
        "routing",
        "policy rules (`ip rule`) and routing tables that take our numbers, or come before ours",
        "Mail that goes by another uplink than its source's is held by the guard.",
        "Give the other rule another preference or table, or a selector that leaves steered mail alone.",
    ),
    about(
        "local-ports",
        "routing",
        "`net.ipv4.ip_local_port_range`",
        "All sources share one range of local ports for each destination: that many connections at once.",
        "Widen the range if one next hop takes all mail.",
    ),
    about(
        "port25",
        "way out",
        "connections from each source to the receivers of `[preflight]`, at port 25 and where that does not answer at 587, 465 and 443; only while no rules of mailsteer stand",
        "No mail leaves from a source whose port 25 a hoster or a firewall blocks.",
        "Ask the hoster to open port 25 for the address.",
    ),
    about(
        "nftables-service",
        "services",
        "whether `nftables.service` runs at boot and flushes the ruleset",
        "Start, reload and stop of it take our table away, unless it is owned by a running agent. The guard holds mail until the agent has put it back.",
        "Start mailsteer after it, and take `flush ruleset` out of `/etc/nftables.conf`.",
    ),
    about(
        "networkd",
        "services",
        "`ManageForeignRoutes=` and `ManageForeignRoutingPolicyRules=` of systemd-networkd",
        "It removes routes and rules that it does not know whenever it starts; the agent puts them back.",
        "Set both to `no` in `/etc/systemd/networkd.conf`.",
    ),
    about(
        "network-manager",
        "services",
        "whether NetworkManager runs at boot",
        "A connection that is brought up again loses addresses that are not in its profile; the agent puts them back.",
        "Leave the addresses to one of both.",
    ),
    about(
        "mta-order",
        "services",
        "whether mailsteer's boot unit comes before every installed MTA",
        "Mail leaves unsteered from the start of the MTA until the agent has written its rules.",
        "Order mailsteer's boot unit before the MTA's unit.",
    ),
    about(
        "dns",
        "dns",
        "whether the config has `[dns]`; everything of this group asks its resolver",
        "Nobody looks at the records of the sources and domains.",
        "Write `[dns]` and a `[domain.NAME]` for each domain that sends.",
    ),
    about(
        "dns-ptr",
        "dns",
        "the PTR of each source's public address",
        "Many receivers refuse mail from an address without a name.",
        "Whoever gave you the address sets it.",
    ),
    about(
        "dns-forward",
        "dns",
        "whether that name has the address",
        "Receivers take such a name for a lie.",
        "Publish the address at the name, or have the PTR changed.",
    ),
    about(
        "dns-ehlo",
        "dns",
        "whether that name is the pool's `ehlo`",
        "Filters count it against the mail. mailsteer cannot change what the MTA says.",
        "One name for all addresses of a pool, or a transport for each name: [mta-recipes.md](mta-recipes.md).",
    ),
    about(
        "dns-spf",
        "dns",
        "SPF of every domain that sends from the source, evaluated as receivers do (RFC 7208, with its limits of 10 lookups and 2 void ones)",
        "SPF does not pass, and neither does DMARC without DKIM.",
        "What is said of the record: most often the address is missing, or an `include` too many.",
    ),
    about(
        "dns-dkim",
        "dns",
        "the key of each selector listed: published once, not revoked, RSA of 1024 bits at least (a warning below 2048) or Ed25519 of 32 bytes",
        "Signatures with that key fail.",
        "Publish the public half of the key that the MTA signs with.",
    ),
    about(
        "dns-dmarc",
        "dns",
        "the DMARC record that counts for each domain, found by walking up the tree (RFC 9989): one, with a policy",
        "Gmail and Yahoo turn bulk mail away from domains without.",
        "Publish one record; `p=none` with `rua=` to begin with.",
    ),
    about(
        "dns-alignment",
        "dns",
        "whether the envelope's domain (SPF) or a key's (DKIM) belongs to the domain that people see",
        "DMARC fails whatever SPF and DKIM say.",
        "Sign as that domain, or use an envelope of it.",
    ),
    about(
        "dns-signed",
        "dns",
        "DNSSEC of the domains and reverse names, as far as the resolver validates",
        "None; a record that does not validate is a failed lookup, and unknown.",
        "None.",
    ),
];

/// The group of a check.
pub(super) fn group(name: &str) -> &'static str {
    CHECKS.iter().find(|check| check.name == name).map_or("", |check| check.group)
}

/// docs/doctor.md.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# mailsteer doctor\n\n\
         `mailsteer doctor [--config FILE]` reads the host and says what is missing, what it costs, and what to do. It \
         changes nothing\nand needs no agent. As an ordinary user it says what it could not see. With a config it also \
         says whether the marks,\nrules and addresses of that config collide with what others have.\n\n\
         Exit status: 0 nothing to do (ok, note), 1 somebody should look (warn), 2 it does not work like this (bad). \
         `--json`\nprints the same for programs. What could not be read is a note, never a verdict.\n\n\
         Made from `agent/core/src/doctor/about.rs`; a test keeps it current.\n",
    );
    let mut groups: Vec<&str> = vec![];
    for check in CHECKS {
        if !groups.contains(&check.group) {
            groups.push(check.group);
        }
    }
    for group in groups {
        let _ = write!(
            text,
            "\n## {group}\n\n| check | looks at | what it costs | what to do |\n|---|---|---|---|\n"
        );
        for check in CHECKS.iter().filter(|check| check.group == group) {
            let About { name, looks_at, cost, advice, .. } = check;
            let _ = writeln!(text, "| `{name}` | {looks_at} | {cost} | {advice} |");
        }
    }
    text
}
