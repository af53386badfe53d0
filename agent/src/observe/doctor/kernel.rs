//! The kernel and what it lets us do.

use std::path::Path;

use aya::programs::ProgramType;
use mailsteer_core::doctor::{Conntrack, Mount, Read, Unread, parse};

use super::files::{self, Places, needed, text};
use super::odd;

pub(super) fn release() -> Read<String> {
    needed("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned())
}

/// Loads the smallest program and drops it at once: only the kernel's own answer counts in containers.
pub(super) fn bpf() -> Read<bool> {
    aya::sys::is_program_supported(ProgramType::SchedClassifier).map_err(|error| {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        Unread { why, needs_root: !nix::unistd::geteuid().is_root() }
    })
}

pub(super) fn capabilities() -> Read<u64> {
    let status = needed("/proc/self/status")?;
    parse::capabilities(&status).map_or_else(|| odd("/proc/self/status"), Ok)
}

pub(super) fn unprivileged_bpf_disabled() -> Read<u8> {
    number("/proc/sys/kernel/unprivileged_bpf_disabled")
}

pub(super) fn lockdown() -> Read<Option<String>> {
    let text = text(Path::new("/sys/kernel/security/lockdown"))?;
    Ok(text.as_deref().and_then(parse::lockdown))
}

pub(super) fn container(places: &Places) -> Read<Option<String>> {
    if let Some(kind) = places.text("/run/systemd/container")? {
        return Ok(Some(kind.trim().to_owned()));
    }
    let signs = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    Ok(signs.iter().find(|(file, _)| places.exists(file)).map(|(_, kind)| (*kind).to_owned()))
}

pub(super) fn mounts() -> Read<Vec<Mount>> {
    needed("/proc/self/mounts").map(|text| parse::mounts(&text))
}

pub(super) fn conntrack() -> Read<Conntrack> {
    let max = text(Path::new("/proc/sys/net/netfilter/nf_conntrack_max"))?;
    let count = text(Path::new("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
    let loadable = max.is_some() || release().is_ok_and(|release| has_module(&release));
    Ok(Conntrack { max: number(max), count: number(count), loadable })
}

fn has_module(release: &str) -> bool {
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let list = text(Path::new(&format!("/lib/modules/{release}/{list}")));
        list.is_ok_and(|list| list.is_some_and(|text| text.contains("/nf_conntrack.ko")))
    })
}

/// The build config where a distribution leaves it, else the kernel's symbols.
pub(super) fn timeouts() -> Read<bool> {
    let config = format!("/boot/config-{}", release()?);
    for place in [config.as_str(), "/proc/kallsyms"] {
        if let Some(has) = text(Path::new(place))?.as_deref().and_then(parse::has_conntrack_timeouts) {
            return Ok(has);
        }
    }
    Err(Unread { why: format!("neither {config} nor a loaded nf_conntrack tells"), needs_root: false })
}

pub(super) fn number<T: std::str::FromStr>(path: &str) -> Read<T> {
    files::needed(path)?.trim().parse().or_else(|_| odd(path))
}
