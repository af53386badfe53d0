//! Strangers: what other software and other people do to a mail host's network, meaning no harm.
//!
//! Owns: doing it, and undoing where that outlives the namespace. Must not: act outside of the namespace it is
//! given. `nf_conntrack_max` is one number for the whole machine and is never changed: see
//! [`conntrack_full`].

use std::io::{BufWriter, Write as _};

use anyhow::Result;

use crate::exec;
use crate::netns::NetNs;

/// `nft flush ruleset`, as Debian's nftables.service does on start, reload and stop.
///
/// # Errors
/// When nft fails.
pub fn flush(ns: &NetNs) -> Result<()> {
    ns.sh("nft flush ruleset").map(drop)
}

/// A rule that keeps port 25 out of conntrack, as a tuning guide has it.
///
/// # Errors
/// When nft fails.
pub fn notrack(ns: &NetNs) -> Result<()> {
    ns.nft(
        "table inet stranger_notrack {
            chain out { type filter hook output priority raw
                tcp dport 25 notrack
            }
            chain pre { type filter hook prerouting priority raw
                tcp dport 25 notrack
            }
        }",
    )
}

/// The other half of such a guide: what comes back from port 25 is kept out of conntrack too.
///
/// # Errors
/// When nft fails.
pub fn notrack_replies(ns: &NetNs) -> Result<()> {
    ns.nft(
        "table inet stranger_notrack_replies {
            chain pre { type filter hook prerouting priority raw
                tcp sport 25 notrack
            }
        }",
    )
}

/// Another packet mark, set after our choice.
///
/// # Errors
/// When nft fails.
pub fn other_mark(ns: &NetNs) -> Result<()> {
    ns.nft(
        "table inet stranger_mark {
            chain out { type filter hook output priority 10
                tcp dport 25 meta mark set 0x1234
            }
            chain post { type filter hook postrouting priority -10
                tcp dport 25 meta mark set 0x1234
            }
        }",
    )
}

/// A MASQUERADE that comes before our translation.
///
/// # Errors
/// When nft fails.
pub fn masquerade_first(ns: &NetNs) -> Result<()> {
    ns.nft(
        "table inet stranger_masquerade {
            chain post { type nat hook postrouting priority 50
                tcp dport 25 masquerade
            }
        }",
    )
}

/// The common hardening rule that drops what comes in on lo with another machine's address, and so our resets.
///
/// # Errors
/// When nft fails.
pub fn drop_resets_on_lo(ns: &NetNs) -> Result<()> {
    ns.nft(
        "table inet stranger_lo {
            chain in { type filter hook input priority -5
                iif lo ip saddr != 127.0.0.0/8 drop
                iif lo ip6 saddr != ::1 drop
            }
        }",
    )
}

/// `conntrack -F`.
///
/// # Errors
/// When conntrack fails.
pub fn conntrack_flush(ns: &NetNs) -> Result<()> {
    exec::output(ns.command("conntrack").arg("-F")).map(drop)
}

/// Fills the namespace's conntrack table to its last entry with established connections of others, which the
/// kernel does not drop early to make room.
///
/// `nf_conntrack_max` belongs to the whole machine and stays as it is; but entries are counted by namespace, so that
/// only this one is full. [`conntrack_flush`] ends it.
///
/// # Errors
/// When conntrack fails for another reason than the table's being full.
pub fn conntrack_full(ns: &NetNs) -> Result<()> {
    let most: u32 = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?.trim().parse()?;
    let mut entries = tempfile::NamedTempFile::new()?;
    {
        let mut out = BufWriter::new(&mut entries);
        for n in 0..most {
            let [_, a, b, c] = n.to_be_bytes();
            writeln!(
                out,
                "-I -p tcp -s 10.{a}.{b}.{c} -d 10.255.0.1 --sport 40000 --dport 443 --state ESTABLISHED \
                 -u SEEN_REPLY,ASSURED -t 3600"
            )?;
        }
        out.flush()?;
    }
    // Ends with an error where live connections have taken the last places: then the table is full as well.
    let loaded = exec::output(ns.command("conntrack").arg("--load-file").arg(entries.path()));
    let count: u32 = ns.sh("conntrack -C")?.trim().parse()?;
    match loaded {
        Err(e) if count < most => Err(e.context(format!("only {count} of {most} entries"))),
        _ => Ok(()),
    }
}

/// Takes a stranger's table away: `notrack`, `mark`, `masquerade` or `lo`.
///
/// # Errors
/// When it is not there.
pub fn leave(ns: &NetNs, which: &str) -> Result<()> {
    ns.sh(&format!("nft delete table inet stranger_{which}")).map(drop)
}
/// What curious administrators, scripts and other agents do to our table; each alone opens a gap or closes the way.
const EDITS: [&str; 10] = [
    "flush chain inet mailsteer translate",
    "delete table inet mailsteer",
    "flush map inet mailsteer slots",
    "insert rule inet mailsteer output tcp dport 25 return",
    "flush map inet mailsteer addr4; flush map inet mailsteer addr6",
    "flush chain inet mailsteer output",
    "insert rule inet mailsteer translate tcp dport 25 masquerade",
    "flush set inet mailsteer ok4; flush set inet mailsteer ok6",
    "flush chain inet mailsteer lane_1",
    "flush table inet mailsteer",
];

/// Edits our table in the `n`-th way; there are ten.
///
/// # Errors
/// When nft fails, as it does where the table is owned.
pub fn edit(ns: &NetNs, n: usize) -> Result<()> {
    ns.nft(EDITS[n % EDITS.len()])
}
