//! What kernel and user space offer: version, BTF, mounts, the nft program.

use super::Patient;
use crate::config::OwnTable;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::parse::kernel_version;

/// The oldest that is tested.
const OLDEST: (u32, u32) = (6, 1);
/// From here on the guard can be a tcx link.
const TCX: (u32, u32) = (6, 6);
/// From here on a table can be owned and outlive its owner.
const OWNED: (u32, u32) = (6, 9);
/// The nft program that is tested.
const NFT: [u32; 3] = [1, 0, 6];
/// Where the agent looks for the BPF file system unless told otherwise.
const BPFFS: &str = "/sys/fs/bpf";

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    vec![version(patient), btf(patient), cgroup2(patient), bpffs(patient), nft(patient)]
}

fn version(patient: &Patient<'_>) -> Finding {
    let name = "kernel";
    let release = match &patient.found.release {
        Ok(release) => release,
        Err(unread) => return Finding::unread(name, "the kernel's version", unread),
    };
    let flush = "The table cannot be owned (6.9 can): after `nft flush ruleset` of another program the guard holds mail until the agent has put the table back.";
    let tc = "The guard is a clsact filter (a tcx link from 6.6 on), which `tc qdisc del` can remove: the agent puts it back, and until then one lock stands.";
    let advice = "Nothing has to be done. From 6.9 on neither can happen.";
    match kernel_version(release) {
        None => {
            Finding::new(name, Level::Note, format!("Linux {release}: no version that is understood"), "", "")
        }
        Some(version) if version < OLDEST => Finding::new(
            name,
            Level::Bad,
            format!("Linux {release} is older than 6.1"),
            "mailsteer was never tried on it: eBPF programs may not load, and rules may miss elements.",
            "Boot Linux 6.1 (Debian 12's own) or any later one.",
        ),
        Some(version) if version < TCX => Finding::new(
            name,
            Level::Note,
            format!("Linux {release}: no tcx, no owned table"),
            format!("{tc} {flush}"),
            advice,
        ),
        Some(version) if version < OWNED => {
            Finding::new(name, Level::Note, format!("Linux {release}: no owned table"), flush, advice)
        }
        Some(_) if patient.config.is_some_and(|config| config.own_table == OwnTable::Never) => Finding::ok(
            name,
            format!("Linux {release}: tcx; the table could be owned, and the config says never"),
        ),
        Some(_) => Finding::ok(name, format!("Linux {release}: tcx, and a table that can be owned")),
    }
}

fn btf(patient: &Patient<'_>) -> Finding {
    let name = "btf";
    match &patient.found.btf {
        Ok(true) => Finding::ok(name, "the kernel has BTF"),
        Ok(false) => Finding::new(
            name,
            Level::Warn,
            "the kernel has no BTF (/sys/kernel/btf/vmlinux)",
            "It may refuse the eBPF programs: then there is one lock only, and no record of single connections.",
            "Boot a kernel with CONFIG_DEBUG_INFO_BTF=y; Debian's have it.",
        ),
        Err(unread) => Finding::unread(name, "whether the kernel has BTF", unread),
    }
}

fn cgroup2(patient: &Patient<'_>) -> Finding {
    let name = "cgroup2";
    let mounts = match &patient.found.mounts {
        Ok(mounts) => mounts,
        Err(unread) => return Finding::unread(name, "what is mounted", unread),
    };
    let hybrid = mounts.iter().any(|mount| mount.kind == "cgroup");
    match mounts.iter().find(|mount| mount.kind == "cgroup2") {
        None => Finding::new(
            name,
            Level::Bad,
            "no cgroup2 hierarchy is mounted",
            "There is no second anchor of the guard, no record of who connects, and no stream is matched by cgroup.",
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Some(mount) if hybrid => Finding::new(
            name,
            Level::Note,
            format!("the cgroup hierarchy is hybrid: cgroup2 is at {}", mount.at),
            "Nothing: mailsteer finds it there. A `cgroup` of a stream is a path below that directory, and rules of nft's own that name a cgroup do not work.",
            "",
        ),
        Some(mount) => Finding::ok(name, format!("cgroup2 is at {}", mount.at)),
    }
}

fn bpffs(patient: &Patient<'_>) -> Finding {
    let name = "bpffs";
    let mounts = match &patient.found.mounts {
        Ok(mounts) => mounts,
        Err(unread) => return Finding::unread(name, "what is mounted", unread),
    };
    let places: Vec<&str> =
        mounts.iter().filter(|mount| mount.kind == "bpf").map(|mount| mount.at.as_str()).collect();
    match places.as_slice() {
        [] => Finding::new(
            name,
            Level::Bad,
            "no BPF file system is mounted",
            "The guard is pinned there: without it there is no second lock.",
            format!("mount -t bpf bpf {BPFFS}"),
        ),
        places if places.contains(&BPFFS) => Finding::ok(name, format!("the BPF file system is at {BPFFS}")),
        [place, ..] => Finding::new(
            name,
            Level::Note,
            format!("the BPF file system is at {place}, not at {BPFFS}"),
            "The agent does not look there by itself.",
            format!("Start the agent with --bpffs {place}, or: mount -t bpf bpf {BPFFS}"),
        ),
    }
}

fn nft(patient: &Patient<'_>) -> Finding {
    let name = "nft";
    let version = match &patient.found.nft {
        Ok(Some(version)) => version,
        Ok(None) => {
            return Finding::new(
                name,
                Level::Bad,
                "the nft program is not installed",
                "No rules can be written, so the agent does not start.",
                "apt-get install nftables",
            );
        }
        Err(unread) => return Finding::unread(name, "the nft program's version", unread),
    };
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    if numbers.as_slice() < NFT.as_slice() {
        return Finding::new(
            name,
            Level::Warn,
            format!("nft {version} is older than 1.0.6"),
            "mailsteer was never tried with it: it may not understand the rules.",
            "Install nftables 1.0.6 (Debian 12's own) or later.",
        );
    }
    Finding::ok(name, format!("nft {version}"))
}
