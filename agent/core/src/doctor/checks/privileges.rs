//! What may be done here: eBPF, lockdown, containers, and what was seen without root.

use super::{Patient, listed};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::findings::Unread;

/// The capabilities that eBPF and rules take. CAP_SYS_ADMIN (21) stands for the two that came later.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    vec![ebpf(patient), lockdown(patient), container(patient), seen(patient)]
}

fn ebpf(patient: &Patient<'_>) -> Finding {
    let name = "ebpf";
    let cost = "There is one lock only, nftables: a flush of the rules leaks until it is repaired, and single connections are not recorded.";
    match &patient.found.bpf {
        Ok(true) => Finding::ok(name, "the kernel loads eBPF programs"),
        Ok(false) => Finding::new(
            name,
            Level::Warn,
            "this kernel has no eBPF programs for network interfaces",
            cost,
            "Boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT; Debian's have both.",
        ),
        Err(unread) if patient.found.root => {
            let advice = match missing(patient) {
                Some(text) => format!("Missing: {text}. Give the agent these capabilities; unprivileged containers cannot have them."),
                None => "A security module or the container's seccomp filter forbids it: allow the bpf() system call.".to_owned(),
            };
            Finding::new(
                name,
                Level::Warn,
                format!("no eBPF program can be loaded ({})", unread.why),
                cost,
                advice,
            )
        }
        Err(unread) => {
            let open = matches!(patient.found.unprivileged_bpf_disabled, Ok(0));
            let why = if open { unread.why.clone() } else { format!("{}; only root may try", unread.why) };
            Finding::unread(name, "whether eBPF programs can be loaded", &Unread { why, needs_root: true })
        }
    }
}

/// Capabilities that even root lacks here.
fn missing(patient: &Patient<'_>) -> Option<String> {
    let have = *patient.found.capabilities.as_ref().ok()?;
    let has = |bit: u32| have >> bit & 1 == 1;
    let lacks = |bit: u32| !has(bit) && (bit == NEEDED[0].0 || !has(CAP_SYS_ADMIN));
    let names: Vec<&str> = NEEDED.iter().filter(|(bit, _)| lacks(*bit)).map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| listed(&names))
}

fn lockdown(patient: &Patient<'_>) -> Finding {
    let name = "lockdown";
    match &patient.found.lockdown {
        Ok(None) => Finding::ok(name, "no lockdown"),
        Ok(Some(mode)) if mode == "confidentiality" => Finding::new(
            name,
            Level::Warn,
            "the kernel is locked down for confidentiality",
            "eBPF programs cannot read the kernel's memory; mailsteer was never tried under it.",
            "Boot with lockdown=integrity, which is what Secure Boot asks for.",
        ),
        Ok(Some(mode)) => Finding::ok(name, format!("lockdown: {mode}")),
        Err(unread) => Finding::unread(name, "the kernel's lockdown", unread),
    }
}

fn container(patient: &Patient<'_>) -> Finding {
    let name = "container";
    match &patient.found.container {
        Ok(None) => Finding::ok(name, "not in a container"),
        Ok(Some(kind)) => Finding::new(
            name,
            Level::Note,
            format!("this is a container ({kind})"),
            "Only mail of this container's network namespace is seen and steered.",
            "Run the agent on the host if mail of other containers shall be steered; there a stream matches a container by `subnet`.",
        ),
        Err(unread) => Finding::unread(name, "whether this is a container", unread),
    }
}

fn seen(patient: &Patient<'_>) -> Finding {
    let name = "seen";
    if patient.found.root {
        return Finding::ok(name, "looked as root");
    }
    Finding::new(
        name,
        Level::Note,
        "looked without root",
        "What only root can read was not judged: eBPF, and the rules of nftables and iptables.",
        "Run `mailsteer doctor` as root.",
    )
}
