//! Reads a host for `mailsteer doctor`: files of the kernel and of services, rtnetlink, what nft and iptables list,
//! and what receivers answer.
//!
//! Owns: reading, one subject a file. Must not: judge, or change anything. What cannot be read is said with its
//! reason and ends nothing: the looking works without root, without an agent and in a container.

mod files;
mod firewall;
mod kernel;
mod port25;
pub(crate) mod routing;
mod services;

use std::path::PathBuf;

use mailsteer_core::config::Config;
use mailsteer_core::doctor::{Findings, Read, Unread};

use self::files::Places;

/// Where files are looked for; `/` but in tests.
#[derive(Clone, Debug)]
pub struct Root(pub PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

/// Looks at this host, in the network namespace of the calling thread. `root` holds `/etc`, `/run` and the like of
/// its services; the kernel's own files are always this one's. With a config that says with whom, port 25 is tried.
pub async fn look(root: &Root, config: Option<&Config>) -> Findings {
    let services = Places { root: root.0.clone() };
    let routing::Seen { host, rules, taken_tables } = routing::look().await;
    Findings {
        root: nix::unistd::geteuid().is_root(),
        release: kernel::release(),
        btf: Ok(std::path::Path::new("/sys/kernel/btf/vmlinux").exists()),
        bpf: kernel::bpf(),
        capabilities: kernel::capabilities(),
        unprivileged_bpf_disabled: kernel::unprivileged_bpf_disabled(),
        lockdown: kernel::lockdown(),
        container: kernel::container(&services),
        nft: firewall::nft_version(),
        mounts: kernel::mounts(),
        conntrack: kernel::conntrack(),
        timeouts: kernel::timeouts(),
        interfaces: routing::interfaces(),
        host,
        rules,
        taken_tables,
        nftables: firewall::nftables(),
        iptables: firewall::iptables(),
        local_ports: routing::local_ports(),
        port25: port25::look(config).await,
        nftables_conf_flushes: services::nftables_conf_flushes(&services),
        networkd: services::networkd(&services),
        units: services::units(&services),
    }
}

/// Something has another shape than expected.
fn odd<T>(what: &str) -> Read<T> {
    Err(Unread { why: format!("{what} is not as expected"), needs_root: false })
}
