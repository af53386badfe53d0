//! A world in which everything is right, and the same with one thing wrong at a time.

use mailsteer_core::signal::dns::{
    Check, Checked, Dnssec, DomainPlan, Outcome, Plan, Report, SourcePlan, survey,
};

use super::dkim::{ED25519, RSA_768, RSA_1024, RSA_2048};
use super::zone::Zone;

pub(crate) fn plan() -> Plan {
    let source = |name: &str, address: &str| SourcePlan {
        name: name.into(),
        address: address.parse().unwrap(),
        ehlo: Some("mail.example.com".into()),
        envelopes: vec!["example.com".into(), "bounce.example.net".into()],
    };
    let domain = |name: &str, envelope: &str, keys: &[&str]| DomainPlan {
        name: name.into(),
        envelope: envelope.into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    Plan {
        sources: vec![source("main-1", "192.0.2.11"), source("main-2", "2001:db8:a::11")],
        domains: vec![
            domain("example.com", "example.com", &["s1._domainkey.example.com", "s2._domainkey.example.com"]),
            domain("example.net", "bounce.example.net", &[]),
        ],
    }
}

pub(crate) fn good() -> String {
    format!(
        "192.0.2.11 PTR mail.example.com
        2001:db8:a::11 PTR Mail.Example.com.
        mail.example.com A 192.0.2.11
        mail.example.com AAAA 2001:db8:a::11
        example.com TXT v=spf1 ip4:192.0.2.0/24 ip6:2001:db8:a::/64 -all
        bounce.example.net TXT v=spf1 a:mail.example.com -all
        s1._domainkey.example.com TXT v=DKIM1; p={RSA_2048}
        s2._domainkey.example.com TXT v=DKIM1; k=ed25519; p={ED25519}
        _dmarc.example.com TXT v=DMARC1; p=reject; rua=mailto:d@example.com
        _dmarc.example.net TXT v=DMARC1; p=quarantine
        . SIGNED
        example.com SIGNED
        192.0.2.11 SIGNED"
    )
}

pub(crate) fn report(zone: &str) -> Report {
    Zone::of(zone).resolve_all(|known| survey(&plan(), known))
}

fn all(report: &Report) -> impl Iterator<Item = (&str, &Checked)> {
    let sources = report.sources.iter().flat_map(|row| row.checks.iter().map(|one| (row.name.as_str(), one)));
    let domains = report.domains.iter().flat_map(|row| row.checks.iter().map(|one| (row.name.as_str(), one)));
    sources.chain(domains)
}

/// Those that are not `ok`, as `NAME CHECK`.
fn not(report: &Report, outcome: Outcome) -> Vec<String> {
    let found = all(report).filter(|(_, one)| one.outcome == outcome);
    found.map(|(name, one)| format!("{name} {}", one.check.as_str())).collect()
}

#[test]
fn all_is_well_in_the_good_world() {
    let report = report(&good());
    for (name, one) in all(&report) {
        assert!(one.outcome == Outcome::Ok && !one.what.is_empty(), "{name}: {one:?}");
    }
    assert_eq!(all(&report).count(), 2 * 4 + 3 + 2, "no key of example.net is listed");
    let dnssec: Vec<&Dnssec> = report.sources.iter().map(|row| &row.dnssec).collect();
    assert_eq!(dnssec, [&Dnssec::Validated, &Dnssec::Unsigned]);
    assert_eq!(report.domains[0].dnssec, Dnssec::Validated);
}

/// What is changed, which checks fail then, and words of what is said.
type Fault = (String, &'static [&'static str], &'static str);

fn changed(from: &str, to: &str) -> String {
    let good = good();
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

fn of_sources() -> Vec<Fault> {
    vec![
        (
            changed("192.0.2.11 PTR mail.example.com", ""),
            &["main-1 ptr", "main-1 forward", "main-1 ehlo"],
            "192.0.2.11 has no name: there is no PTR record at 11.2.0.192.in-addr.arpa",
        ),
        (
            changed("mail.example.com A 192.0.2.11", "mail.example.com A 192.0.2.12"),
            &["main-1 forward", "main-1 spf"],
            "mail.example.com has 192.0.2.12",
        ),
        (
            changed("mail.example.com A 192.0.2.11", ""),
            &["main-1 forward", "main-1 spf"],
            "no address of its family",
        ),
        (
            changed(
                "192.0.2.11 PTR mail.example.com",
                "192.0.2.11 PTR a.example.com\na.example.com A 192.0.2.11",
            ),
            &["main-1 ehlo"],
            "192.0.2.11 is called a.example.com, but its pool says EHLO mail.example.com",
        ),
        (
            changed("ip4:192.0.2.0/24", ""),
            &["main-1 spf"],
            "SPF of example.com forbids 192.0.2.11 (`-all` of example.com)",
        ),
        (
            changed("ip4:192.0.2.0/24 ip6:2001:db8:a::/64 -all", "~all"),
            &["main-1 spf", "main-2 spf"],
            "softfail",
        ),
        (
            changed("bounce.example.net TXT v=spf1 a:mail.example.com -all", ""),
            &["main-1 spf", "main-2 spf"],
            "bounce.example.net has no SPF record",
        ),
        (changed("ip4:192.0.2.0/24", "ip4:192.0.2.0/33"), &["main-1 spf", "main-2 spf"], "permanent error"),
    ]
}

fn of_domains() -> Vec<Fault> {
    let rsa = format!("v=DKIM1; p={RSA_2048}");
    vec![
        (
            changed(&rsa, "v=DKIM1; p="),
            &["example.com dkim"],
            "s1._domainkey.example.com cannot be used: `p=` is empty: the key is revoked",
        ),
        (changed(&rsa, &format!("v=DKIM1; p={RSA_768}")), &["example.com dkim"], "768 bits"),
        (
            changed("s2._domainkey.example.com TXT", "s3._domainkey.example.com TXT"),
            &["example.com dkim"],
            "there is no key",
        ),
        (format!("{}\ns1._domainkey.example.com TXT {rsa}", good()), &["example.com dkim"], "2 TXT records"),
        (
            changed("_dmarc.example.com TXT", "_dmarc.example.org TXT"),
            &["example.com dmarc"],
            "example.com has no DMARC record",
        ),
        (
            format!("{}\n_dmarc.example.com TXT v=DMARC1; p=none", good()),
            &["example.com dmarc"],
            "2 DMARC records",
        ),
        (changed("p=reject", "p=deny"), &["example.com dmarc"], "`p=deny` is no policy"),
        (changed("v=DMARC1; p=reject", "v=DMARC1"), &["example.com dmarc"], "`p=` is missing"),
        (changed("v=DMARC1; p=reject", "v=Dmarc1; p=reject"), &["example.com dmarc"], "is no DMARC record"),
        (
            changed("v=DMARC1; p=quarantine", "v=DMARC1; p=quarantine; aspf=s"),
            &["example.net alignment"],
            "neither SPF (bounce.example.net) nor DKIM prove example.net",
        ),
    ]
}

#[test]
fn each_fault_fails_its_check_and_says_where() {
    for (zone, failing, words) in of_sources().into_iter().chain(of_domains()) {
        let report = report(&zone);
        assert_eq!(not(&report, Outcome::Failed), failing, "{zone}");
        assert_eq!(not(&report, Outcome::Unknown), [""; 0]);
        let failed: Vec<&Checked> =
            all(&report).map(|(_, one)| one).filter(|one| one.outcome == Outcome::Failed).collect();
        assert!(failed.iter().any(|one| one.what.contains(words)), "{words}: {failed:?}");
        assert!(failed.iter().all(|one| !one.advice.is_empty()), "{failed:?}");
    }
}

/// Each lookup fails once: what rests on it is unknown, nothing else changes, and nothing fails.
#[test]
fn a_failed_lookup_is_unknown() {
    let mut zone = Zone::of(&good());
    zone.resolve_all(|known| survey(&plan(), known));
    for question in zone.asked {
        let kind = match question.kind.as_str() {
            "DNSSEC" => "SIGNED",
            other => other,
        };
        let name = if question.name.is_empty() { "." } else { &question.name };
        let report = report(&format!("{}\n{name} FAIL {kind}", good()));
        assert_eq!(not(&report, Outcome::Failed), [""; 0], "{question}");
        let unknown = not(&report, Outcome::Unknown).len();
        assert_eq!(unknown == 0, kind == "SIGNED", "{question}");
    }
}

#[test]
fn what_holds_but_should_be_mended_has_advice() {
    let mended = |zone: String| {
        let report = report(&zone);
        assert_eq!(not(&report, Outcome::Failed), [""; 0]);
        let advice = all(&report).filter(|(_, one)| !one.advice.is_empty());
        advice.map(|(_, one)| (one.check, one.advice.clone())).collect::<Vec<_>>()
    };
    // Nobody signs for example.net.
    let always = mended(good());
    assert!(matches!(always.as_slice(), [(Check::Alignment, words)] if words.contains("without DKIM")));
    for (zone, check, words) in [
        (good().replace(RSA_2048, RSA_1024), Check::Dkim, "2048 bits"),
        (good().replace("ip4:192.0.2.0/24", "+all"), Check::Spf, "lets anybody send"),
        (format!("{}\n192.0.2.11 PTR other.example.com", good()), Check::Ptr, "Leave one PTR"),
        (good().replace("p=quarantine", "p=none"), Check::Dmarc, "without rua="),
    ] {
        let found = mended(zone);
        assert!(found.iter().any(|(of, said)| *of == check && said.contains(words)), "{words}: {found:?}");
    }
}

#[test]
fn a_resolver_that_validates_nothing_says_nothing_of_dnssec() {
    let report = report(&good().replace(". SIGNED", ""));
    assert!(matches!(&report.domains[0].dnssec, Dnssec::Unknown(why) if why.contains("does not validate")));
}
