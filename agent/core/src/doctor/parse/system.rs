//! Small formats of /proc, /sys, /etc and of programs' first lines.

use crate::doctor::findings::Mount;

/// Version of a kernel out of its release: `6.1.0-18-amd64` is (6, 1).
pub(in crate::doctor) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Mounts out of /proc/mounts. A space in a path stands there as `\040`.
#[must_use]
pub fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        Some(Mount { at: fields.next()?.replace("\\040", " "), kind: fields.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Effective capabilities out of /proc/self/status.
#[must_use]
pub fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The lockdown in force, which stands in brackets: `none [integrity] confidentiality`.
#[must_use]
pub fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

/// Version out of the first line of `nft --version`: `nftables v1.0.6 (Lester Gooch #5)`.
#[must_use]
pub fn nft_version(text: &str) -> Option<String> {
    let word = text.split_whitespace().find(|word| word.starts_with('v'))?;
    Some(word.trim_start_matches('v').to_owned())
}

/// Whether a kernel has conntrack timeout policies: out of its build config, or out of its list of symbols. `None`
/// where the text cannot tell, as without the module loaded.
#[must_use]
pub fn has_conntrack_timeouts(text: &str) -> Option<bool> {
    let mut tracked = false;
    for line in text.lines() {
        match line {
            "CONFIG_NF_CONNTRACK_TIMEOUT=y" => return Some(true),
            "# CONFIG_NF_CONNTRACK_TIMEOUT is not set" => return Some(false),
            _ => {}
        }
        match line.split_whitespace().nth(2) {
            Some("nf_ct_set_timeout") => return Some(true),
            Some("nf_conntrack_in") => tracked = true,
            _ => {}
        }
    }
    tracked.then_some(false)
}

/// The last value of a key in files of systemd's form, in the order in which they are read.
#[must_use]
pub fn setting<'t>(texts: &[&'t str], key: &str) -> Option<&'t str> {
    let mut values = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then_some(value.trim())
    });
    values.by_ref().last()
}

/// The units that `Before=` lines of a unit and its drop-ins name.
#[must_use]
pub fn orders(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Before="));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// User names and ids out of /etc/passwd.
#[must_use]
pub fn accounts(passwd: &str) -> Vec<(String, u32)> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    passwd.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(kernel_version("unknown"), None);
        assert_eq!(nft_version("nftables v1.0.6 (Lester Gooch #5)\n").as_deref(), Some("1.0.6"));
        assert_eq!(nft_version("what"), None);
    }

    #[test]
    fn what_the_kernel_shows() {
        let found = mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nx /mnt/a\\040b bpf rw 0 0\nbroken\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].at.as_str(), found[1].kind.as_str()), ("/mnt/a b", "bpf"));
        assert_eq!(capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(capabilities("CapEff:\tx\n"), None);
        assert_eq!(lockdown("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(lockdown("none\n"), None);
    }

    #[test]
    fn timeout_policies_by_config_and_by_symbols() {
        assert_eq!(has_conntrack_timeouts("CONFIG_NF_CONNTRACK_TIMEOUT=y\n"), Some(true));
        assert_eq!(has_conntrack_timeouts("# CONFIG_NF_CONNTRACK_TIMEOUT is not set\n"), Some(false));
        let symbols = "0000000000000000 T nf_conntrack_in\t[nf_conntrack]\n";
        assert_eq!(has_conntrack_timeouts(symbols), Some(false));
        let more = format!("{symbols}0000000000000000 T nf_ct_set_timeout\t[nf_conntrack]\n");
        assert_eq!(has_conntrack_timeouts(&more), Some(true));
        assert_eq!(has_conntrack_timeouts("0000000000000000 T tcp_v4_rcv\n"), None);
    }

    #[test]
    fn files_of_systemd() {
        let (main, drop_in) = ("[Network]\n#ManageForeignRoutes=yes\n", "ManageForeignRoutes = no\n");
        assert_eq!(setting(&[main], "ManageForeignRoutes"), None);
        assert_eq!(setting(&[main, drop_in], "ManageForeignRoutes"), Some("no"));
        assert_eq!(orders("[Unit]\nBefore=a.service b.service\nBefore=c.target\n").len(), 3);
        assert_eq!(accounts("root:x:0:0::/:\nbad\npostfix:x:101:103::/:\n")[1], ("postfix".to_owned(), 101));
    }
}
