//! DMARC: which record counts, and what belongs together.

use mailsteer_core::signal::dns::dmarc::{Policy, Suffix, There, aligned, at, is_meant, read, walk};

use super::zone::Zone;

fn walked(zone: &str, domain: &str) -> (String, Vec<String>) {
    let mut zone = Zone::of(zone);
    let found = zone.resolve(|known| walk(known, domain)).unwrap();
    let asked = zone.asked.iter().map(|question| question.name.clone()).collect();
    (found.organisation, asked)
}

#[test]
fn a_record_is_known_by_its_version() {
    for good in ["v=DMARC1; p=none", "V = DMARC1 ;p=none", "v=DMARC1"] {
        assert!(is_meant(good), "{good}");
    }
    for bad in ["v=dmarc1; p=none", "p=none; v=DMARC1", "v=DMARC1 p=none", "", "v=spf1 -all", " DMARC1"] {
        assert!(!is_meant(bad), "{bad}");
    }
}

#[test]
fn tags_are_read_and_what_is_unknown_is_passed_over() {
    let record =
        read("v=DMARC1; p=Reject; sp=quarantine; adkim=s; aspf=r; psd=n; pct=50; rua=mailto:a@b.c; x=y;")
            .unwrap();
    assert_eq!((record.policy, record.below), (Ok(Policy::Reject), Some(Policy::Quarantine)));
    assert!(record.strict_dkim && !record.strict_spf);
    assert_eq!((record.suffix, record.reports), (Suffix::No, Some("mailto:a@b.c".to_owned())));
    assert!(read("v=DMARC1").unwrap().policy.is_err());
    assert!(read("v=DMARC1; p=block").unwrap().policy.unwrap_err().contains("p=block"));
    assert!(read("v=DMARC1; p=none; p=reject").is_err());
}

#[test]
fn two_records_are_none_and_what_looks_like_one_is_told() {
    let there = |zone: &str| Zone::of(zone).resolve(|known| at(known, "example.com")).unwrap();
    assert_eq!(there(""), There::Nothing(None));
    assert_eq!(
        there("_dmarc.example.com TXT v=DMARC1; p=none\n_dmarc.example.com TXT v=DMARC1; p=none"),
        There::Many(2)
    );
    assert!(matches!(
        there("_dmarc.example.com TXT v=spf1 -all\n_dmarc.example.com TXT v=DMARC1; p=none"),
        There::One(_)
    ));
    assert!(matches!(there("_dmarc.example.com TXT v=DMARC1; p"), There::Broken(_)));
    assert!(matches!(there("_dmarc.example.com TXT v=Dmarc1; p=none"), There::Nothing(Some(_))));
    assert!(Zone::of("_dmarc.example.com FAIL TXT").resolve(|known| at(known, "example.com")).is_err());
}

/// The examples of the tree walk that the text of section 4.10 describes.
#[test]
fn the_organisation_is_found_by_walking_up() {
    let (organisation, asked) = walked("_dmarc.example.com TXT v=DMARC1; p=none", "a.mail.example.com");
    assert_eq!(organisation, "example.com");
    assert_eq!(
        asked,
        ["_dmarc.a.mail.example.com", "_dmarc.mail.example.com", "_dmarc.example.com", "_dmarc.com"]
    );
    // The record with the fewest labels, whoever has one in between.
    let zone = "_dmarc.a.mail.example.com TXT v=DMARC1; p=none\n_dmarc.example.com TXT v=DMARC1; p=none";
    assert_eq!(walked(zone, "a.mail.example.com").0, "example.com");
    // `psd=n` ends the walk, and is the organisation.
    let zone = "_dmarc.mail.example.com TXT v=DMARC1; p=none; psd=n\n_dmarc.example.com TXT v=DMARC1; p=none";
    assert_eq!(walked(zone, "a.mail.example.com").0, "mail.example.com");
    // Below `psd=y` others register.
    let zone = "_dmarc.co.uk TXT v=DMARC1; p=none; psd=y\n_dmarc.uk TXT v=DMARC1; p=none";
    assert_eq!(walked(zone, "mail.example.co.uk").0, "example.co.uk");
    assert_eq!(walked(zone, "co.uk").0, "co.uk");
    // Nobody has a record: the domain is its own.
    assert_eq!(walked("", "mail.example.com").0, "mail.example.com");
}

#[test]
fn long_names_are_walked_in_eight_steps() {
    let (organisation, asked) = walked("", "a.b.c.d.e.f.g.h.i.j.mail.example.com");
    assert_eq!(organisation, "a.b.c.d.e.f.g.h.i.j.mail.example.com");
    assert_eq!(asked.len(), 8, "{asked:?}");
    assert_eq!(asked[1], "_dmarc.g.h.i.j.mail.example.com");
    // One label below a suffix, though the walk skipped it.
    let zone = "_dmarc.c.d.e.f.g.h.com TXT v=DMARC1; psd=y; p=none";
    assert_eq!(walked(zone, "x.a.b.c.d.e.f.g.h.com").0, "b.c.d.e.f.g.h.com");
}

#[test]
fn what_belongs_together() {
    let zone = "_dmarc.example.com TXT v=DMARC1; p=none\n_dmarc.com TXT v=DMARC1; p=none; psd=y";
    let is = |from: &str, other: &str, strict: bool| {
        Zone::of(zone).resolve(|known| aligned(known, from, other, strict)).unwrap()
    };
    assert!(is("example.com", "Example.COM.", true));
    assert!(is("example.com", "bounce.example.com", false));
    assert!(!is("example.com", "bounce.example.com", true));
    assert!(is("a.example.com", "b.example.com", false));
    assert!(!is("example.com", "example.net", false));
    assert!(!is("example.com", "other.com", false));
}
