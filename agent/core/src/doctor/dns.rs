//! DNS compliance as judgements: what the DNS says of each source and domain.
//!
//! Owns: how much is said of a thousand sources. Must not: evaluate a record; [`crate::signal::dns`] did.

use super::finding::{Finding, Level};
use crate::config::DnsSettings;
use crate::signal::dns::{Check, Checked, Dnssec, Outcome, Report};

/// So many faults of a kind are told one by one.
const TOLD: usize = 10;

/// The doctor's name for a check.
const fn name(check: Check) -> &'static str {
    match check {
        Check::Ptr => "dns-ptr",
        Check::Forward => "dns-forward",
        Check::Ehlo => "dns-ehlo",
        Check::Spf => "dns-spf",
        Check::Dkim => "dns-dkim",
        Check::Dmarc => "dns-dmarc",
        Check::Alignment => "dns-alignment",
    }
}

/// What a run of the checks found, by check.
#[must_use]
pub fn compliance(report: &Report, settings: &DnsSettings) -> Vec<Finding> {
    let mut findings = vec![];
    for check in Check::OF_SOURCE.into_iter().chain(Check::OF_DOMAIN) {
        let sources = report.sources.iter().flat_map(|row| &row.checks);
        let domains = report.domains.iter().flat_map(|row| &row.checks);
        let found: Vec<&Checked> = sources.chain(domains).filter(|one| one.check == check).collect();
        of_check(check, &found, settings, &mut findings);
    }
    findings.push(signed(report));
    findings
}

/// Where there is nothing to ask for.
#[must_use]
pub fn unasked() -> Finding {
    Finding::new(
        "dns",
        Level::Note,
        "the config has no `[dns]`: nobody looks at PTR, SPF, DKIM and DMARC",
        "",
        "Write [dns] with resolver = \"127.0.0.1\" and the domains that send (docs/config.md).",
    )
}

/// Where nobody can be asked.
#[must_use]
pub fn unaskable(why: &str) -> Finding {
    Finding::new(
        "dns",
        Level::Note,
        format!("not looked at: {why}"),
        "Nothing is known of it, neither good nor bad.",
        "",
    )
}

fn of_check(check: Check, found: &[&Checked], settings: &DnsSettings, findings: &mut Vec<Finding>) {
    let of = |outcome: Outcome| found.iter().filter(move |one| one.outcome == outcome).copied();
    let name = name(check);
    let (level, cost) = if settings.require.contains(&check) {
        (Level::Bad, "It is required: such a source serves no more, unless all of its pool fail it.")
    } else {
        (Level::Warn, cost(check))
    };
    let failed: Vec<Finding> =
        of(Outcome::Failed).map(|one| Finding::new(name, level, &one.what, cost, &one.advice)).collect();
    let mended = of(Outcome::Ok).filter(|one| !one.advice.is_empty());
    let mended: Vec<Finding> = mended
        .map(|one| {
            Finding::new(name, Level::Warn, &one.what, "It holds, and not for everybody.", &one.advice)
        })
        .collect();
    let good = of(Outcome::Ok).filter(|one| one.advice.is_empty()).count();
    for (all, rest) in [(failed, level), (mended, Level::Warn)] {
        let more = all.len().saturating_sub(TOLD);
        findings.extend(all.into_iter().take(TOLD));
        if more > 0 {
            let advice = "mailsteer events";
            findings.push(Finding::new(name, rest, format!("and {more} more of this kind"), cost, advice));
        }
    }
    let mut unknown = of(Outcome::Unknown);
    if let Some(first) = unknown.next() {
        let more = unknown.count();
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        let what = format!("{}{more}", first.what);
        findings.push(Finding::new(
            name,
            Level::Note,
            what,
            "Nothing is known of it, neither good nor bad.",
            "",
        ));
    }
    match good {
        0 => {}
        1 => findings.extend(
            of(Outcome::Ok).find(|one| one.advice.is_empty()).map(|one| Finding::ok(name, &one.what)),
        ),
        many => findings.push(Finding::ok(name, format!("{many} are as they should be"))),
    }
}

const fn cost(check: Check) -> &'static str {
    match check {
        Check::Ptr => "Many receivers refuse mail from an address without a name (Gmail: 550 5.7.25).",
        Check::Forward => "Receivers take such a name for a lie, and the address for one without.",
        Check::Ehlo => "Filters count a name in EHLO against the mail that is not the address's.",
        Check::Spf => "SPF does not pass, and neither does DMARC without DKIM.",
        Check::Dkim => "Signatures with that key fail.",
        Check::Dmarc => "Gmail and Yahoo turn bulk mail away from domains without (2024-02).",
        Check::Alignment => "DMARC fails whatever SPF and DKIM say.",
    }
}

/// DNSSEC is nobody's duty: that it is not there is said, and no more.
fn signed(report: &Report) -> Finding {
    let all: Vec<(&str, &Dnssec)> = report
        .domains
        .iter()
        .map(|row| (row.name.as_str(), &row.dnssec))
        .chain(report.sources.iter().map(|row| (row.name.as_str(), &row.dnssec)))
        .collect();
    let of = |wanted: fn(&Dnssec) -> bool| {
        let mut names: Vec<&str> = all.iter().filter(|(_, one)| wanted(one)).map(|(name, _)| *name).collect();
        let more = names.len().saturating_sub(TOLD);
        names.truncate(TOLD);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        if names.is_empty() { "none".to_owned() } else { format!("{}{more}", names.join(", ")) }
    };
    let unknown =
        all.iter().find_map(|(_, one)| if let Dnssec::Unknown(why) = one { Some(why) } else { None });
    let what = format!(
        "signed and validated: {}; not signed: {}",
        of(|one| *one == Dnssec::Validated),
        of(|one| *one == Dnssec::Unsigned)
    );
    match unknown {
        Some(why) => Finding::new(
            "dns-signed",
            Level::Note,
            format!("{what}; of others nothing is known: {why}"),
            "",
            "",
        ),
        None => Finding::ok("dns-signed", what),
    }
}
