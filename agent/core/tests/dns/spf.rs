//! Each case is made from a sentence of RFC 7208, whose section stands beside it.

use std::fmt::Write as _;
use std::net::IpAddr;

use mailsteer_core::signal::dns::Kind;
use mailsteer_core::signal::dns::spf::{Asked, Ruling, Verdict, check_host};
use proptest::prelude::*;

use super::zone::Zone;

const V4: &str = "192.0.2.3";
const V6: &str = "2001:db8::3";

fn rule(zone: &mut Zone, address: &str, domain: &str) -> Result<Ruling, String> {
    let address: IpAddr = address.parse().unwrap();
    let sender = format!("strong-bad@{domain}");
    zone.resolve(|known| {
        check_host(known, Asked { address, sender: &sender, helo: "mx.example.org" }, domain)
    })
}

/// `pass`, `fail`, `softfail`, `neutral`, `none`, `permerror`, `temperror`
fn result(zone: &str, address: &str) -> String {
    match rule(&mut Zone::of(zone), address, "example.com") {
        Err(_) => "temperror",
        Ok(ruling) => match ruling.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::SoftFail => "softfail",
            Verdict::Neutral => "neutral",
            Verdict::None => "none",
            Verdict::PermError(_) => "permerror",
        },
    }
    .to_owned()
}

fn why(zone: &str) -> String {
    let Ok(Ruling { verdict: Verdict::PermError(why), .. }) = rule(&mut Zone::of(zone), V4, "example.com")
    else {
        panic!("{zone}")
    };
    why
}

#[track_caller]
fn is(wanted: &str, address: &str, zone: &str) {
    assert_eq!(result(zone, address), wanted, "{address} at\n{zone}");
}

#[test]
fn a_domain_that_cannot_be_one_has_no_record() {
    // 4.3
    for domain in ["com", "", "a..com", &format!("{}.com", "x".repeat(64))] {
        let ruling = rule(&mut Zone::of("com TXT v=spf1 +all"), V4, domain).unwrap();
        assert_eq!(ruling.verdict, Verdict::None, "{domain}");
    }
}

#[test]
fn finding_the_record() {
    is("none", V4, "");
    is("none", V4, "example.com TXT something else");
    // 4.5: "v=spf10" is no version of it.
    is("none", V4, "example.com TXT v=spf10 +all");
    is("pass", V4, "example.com TXT google-site-verification=x\nexample.com TXT v=spf1 +all");
    // 4.5: more than one.
    is("permerror", V4, "example.com TXT v=spf1 +all\nexample.com TXT v=spf1 -all");
    is("permerror", V4, "example.com TXT v=spf1 -all\nexample.com TXT v=spf1");
    // 4.4
    is("temperror", V4, "example.com FAIL TXT");
    // 4.7: nothing matches.
    is("neutral", V4, "example.com TXT v=spf1");
    is("neutral", V4, "example.com TXT v=spf1 a:none.example.org");
}

#[test]
fn qualifiers_and_case() {
    // 4.6.2, 12: ABNF's letters have no case.
    for (term, wanted) in
        [("all", "pass"), ("+ALL", "pass"), ("-aLl", "fail"), ("~all", "softfail"), ("?all", "neutral")]
    {
        is(wanted, V4, &format!("example.com TXT V=sPf1 {term}"));
    }
    is("pass", V4, "eXample.COM TXT v=spf1 A:MAIL.%{D} -All\nmail.Example.com A 192.0.2.3");
    // The first that matches decides.
    is("fail", V4, "example.com TXT v=spf1 -ip4:192.0.2.0/24 +all");
}

#[test]
fn errors_anywhere_are_permanent_even_after_a_match() {
    // 4.6
    is("permerror", V4, "example.com TXT v=spf1 +all foo");
    is("permerror", V4, "example.com TXT v=spf1 ip4:192.0.2.3 redirect=a.com redirect=b.com");
    is("pass", V4, "example.com TXT v=spf1 ip4:192.0.2.3 unknown=thing exp=why.example.com");
}

#[test]
fn include_is_a_question_and_no_text() {
    // 5.2: what the other record says of others is no match here.
    for (inner, wanted) in [
        ("v=spf1 +all", "pass"),
        ("v=spf1 -all", "softfail"),
        ("v=spf1 ~all", "softfail"),
        ("v=spf1 ?all", "softfail"),
        ("v=spf1 foo", "permerror"),
        ("nothing", "permerror"),
    ] {
        let zone = format!("example.com TXT v=spf1 include:other.com ~all\nother.com TXT {inner}");
        is(wanted, V4, &zone);
    }
    is("temperror", V4, "example.com TXT v=spf1 include:other.com +all\nother.com FAIL TXT");
    is("permerror", V4, "example.com TXT v=spf1 include:other.com +all");
    // The includer's qualifier counts.
    is("fail", V4, "example.com TXT v=spf1 -include:other.com +all\nother.com TXT v=spf1 +all");
    // `%{d}` is the included domain there; `%{o}` stays the sender's (7.2).
    let zone = "example.com TXT v=spf1 include:o.com -all\no.com TXT v=spf1 exists:%{d}.%{o}.net\no.com.example.com.net A 127.0.0.2";
    is("pass", V4, zone);
}

#[test]
fn redirect_takes_over_where_nothing_matches() {
    // 6.1
    is("fail", V4, "example.com TXT v=spf1 redirect=other.com\nother.com TXT v=spf1 -all");
    is("pass", V4, "example.com TXT v=spf1 redirect=other.com ip4:192.0.2.3\nother.com TXT v=spf1 -all");
    is("pass", V4, "example.com TXT v=spf1 all redirect=other.com\nother.com TXT v=spf1 -all");
    is("permerror", V4, "example.com TXT v=spf1 redirect=other.com");
    is("permerror", V4, "example.com TXT v=spf1 redirect=com");
    is("temperror", V4, "example.com TXT v=spf1 redirect=other.com\nother.com FAIL TXT");
    let zone = "example.com TXT v=spf1 redirect=_spf.%{d}\n_spf.example.com TXT v=spf1 ip4:192.0.2.0/24 -all";
    is("pass", V4, zone);
    is("fail", "198.51.100.1", zone);
}

#[test]
fn a_with_both_lengths() {
    // 5.3, 5.6
    let zone = |term: &str| {
        format!(
            "example.com TXT v=spf1 {term} -all\nexample.com A 192.0.2.200\nexample.com AAAA 2001:db8::ff:1"
        )
    };
    is("fail", V4, &zone("a"));
    is("pass", V4, &zone("a/24"));
    is("fail", V6, &zone("a/24"));
    is("pass", V6, &zone("a/24//96"));
    is("pass", V6, &zone("a//64"));
    is("fail", V4, &zone("a//64"));
    is("pass", V4, &zone("a/0"));
    is("fail", V4, &zone("a:other.com/24"));
    is("pass", V4, "example.com TXT v=spf1 a:other.com\nother.com A 192.0.2.1\nother.com A 192.0.2.3");
    is("temperror", V4, "example.com TXT v=spf1 a +all\nexample.com FAIL A");
    // Only the family that connects is asked for.
    let mut both = Zone::of("example.com TXT v=spf1 a -all");
    rule(&mut both, V6, "example.com").unwrap();
    assert!(both.asked.iter().all(|question| question.kind != Kind::A), "{:?}", both.asked);
}

#[test]
fn mx_and_its_exchanges() {
    // 5.4
    let zone = "example.com TXT v=spf1 mx -all\nexample.com MX a.com\nexample.com MX b.com\nb.com A 192.0.2.3\nb.com AAAA 2001:db8::3";
    is("pass", V4, zone);
    is("pass", V6, zone);
    is("fail", "192.0.2.4", zone);
    is("pass", "192.0.2.4", &zone.replace("mx", "mx/24"));
    is("fail", "192.0.2.4", &zone.replace("mx", "mx//24"));
    // An exchange's own failure is a failure of all of it.
    is("temperror", V4, "example.com TXT v=spf1 mx +all\nexample.com MX a.com\na.com FAIL A");
    // 5.4: an A record of the domain itself is no exchange.
    is("fail", V4, "example.com TXT v=spf1 mx -all\nexample.com A 192.0.2.3");
    // RFC 7505: a null MX is no host.
    is("fail", V4, "example.com TXT v=spf1 mx -all\nexample.com MX .");
}

#[test]
fn more_than_ten_exchanges_are_too_many() {
    // 4.6.4
    let mut zone = "example.com TXT v=spf1 mx -all\n".to_owned();
    for number in 0..11 {
        writeln!(zone, "example.com MX m{number}.com\nm{number}.com A 198.51.100.{number}").unwrap();
    }
    is("permerror", V4, &zone);
    is("pass", "198.51.100.9", &zone);
    is("permerror", "198.51.100.10", &zone);
}

#[test]
fn ptr_takes_a_name_that_is_confirmed_and_below() {
    // 5.5
    let zone = |name: &str, address: &str| {
        format!("example.com TXT v=spf1 ptr -all\n192.0.2.3 PTR {name}\n{name} A {address}")
    };
    is("pass", V4, &zone("mail.Example.com", V4));
    is("pass", V4, &zone("example.com", V4));
    is("fail", V4, &zone("mail.example.com", "192.0.2.4"));
    is("fail", V4, &zone("mail.badexample.com", V4));
    is(
        "pass",
        V4,
        "example.com TXT v=spf1 ptr:other.com\n192.0.2.3 PTR a.other.com\na.other.com A 192.0.2.3",
    );
    is("pass", V6, "example.com TXT v=spf1 ptr\n2001:db8::3 PTR example.com\nexample.com AAAA 2001:db8::3");
    // What a receiver would pass over is unknown to us.
    is("temperror", V4, "example.com TXT v=spf1 ptr +all\n192.0.2.3 FAIL PTR");
    is("temperror", V4, "example.com TXT v=spf1 ptr +all\n192.0.2.3 PTR a.example.com\na.example.com FAIL A");
    // 4.6.4: the eleventh name is not looked at.
    let mut many = "example.com TXT v=spf1 ptr -all\nexample.com A 192.0.2.3\n".to_owned();
    for number in 0..10 {
        writeln!(many, "192.0.2.3 PTR n{number}.other.com").unwrap();
    }
    is("fail", V4, &(many + "192.0.2.3 PTR example.com"));
}

#[test]
fn networks_of_the_other_family_never_match() {
    // 5.6
    is("pass", V4, "example.com TXT v=spf1 ip4:192.0.2.0/24 -all");
    is("fail", V4, "example.com TXT v=spf1 ip4:192.0.2.4 -all");
    is("fail", V4, "example.com TXT v=spf1 ip6:2001:db8::/32 -all");
    is("pass", V6, "example.com TXT v=spf1 ip4:192.0.2.0/24 ip6:2001:DB8::/32 -all");
    is("fail", V6, "example.com TXT v=spf1 ip4:0.0.0.0/0 -all");
    // 5: an IPv4 address in the form of IPv6 is an IPv4 address.
    is("pass", "::ffff:192.0.2.3", "example.com TXT v=spf1 ip4:192.0.2.3 -all");
}

#[test]
fn exists_asks_for_ipv4_whoever_connects() {
    // 5.7
    let zone = "example.com TXT v=spf1 exists:%{ir}.%{l1r+-}._spf.%{d} -all\n3.2.0.192.strong._spf.example.com A 127.0.0.2";
    is("pass", V4, zone);
    is("fail", "192.0.2.4", zone);
    let v6 = "example.com TXT v=spf1 exists:%{v}.x.com -all\nip6.x.com A 127.0.0.2\nin-addr.x.com AAAA 2001:db8::1";
    is("pass", V6, v6);
    is("fail", V4, v6);
    is("temperror", V4, "example.com TXT v=spf1 exists:x.com +all\nx.com FAIL A");
}

#[test]
fn the_name_of_the_address_as_a_macro() {
    // 7.3: the domain itself before a name below it before any; "unknown" where none is confirmed.
    let ask = |names: &str, wanted: &str| {
        format!("example.com TXT v=spf1 exists:%{{p}}.x.com -all\n{names}\n{wanted}.x.com A 127.0.0.2")
    };
    is("pass", V4, &ask("192.0.2.3 PTR other.com\nother.com A 192.0.2.3", "other.com"));
    let both = "192.0.2.3 PTR other.com\n192.0.2.3 PTR a.example.com\nother.com A 192.0.2.3\na.example.com A 192.0.2.3";
    is("pass", V4, &ask(both, "a.example.com"));
    let all = format!("{both}\n192.0.2.3 PTR example.com\nexample.com A 192.0.2.3");
    is("pass", V4, &ask(&all, "example.com"));
    is("pass", V4, &ask("192.0.2.3 PTR other.com\nother.com A 192.0.2.4", "unknown"));
    is("pass", V4, &ask("", "unknown"));
    is("temperror", V4, &ask("192.0.2.3 FAIL PTR", "unknown"));
    is("temperror", V4, &ask("192.0.2.3 PTR other.com\nother.com FAIL A", "unknown"));
    // Its lookups are no terms: none is void.
    let free = "example.com TXT v=spf1 exists:%{p}.a.com exists:%{p}.b.com -all\n192.0.2.3 PTR n1.com\n192.0.2.3 PTR n2.com\n192.0.2.3 PTR n3.com";
    is("fail", V4, free);
}

#[test]
fn the_eleventh_lookup_is_one_too_many() {
    // 4.6.4
    let chain = |length: u32| {
        let mut zone = "example.com TXT v=spf1 include:i1.com -all\n".to_owned();
        for number in 1..length {
            writeln!(zone, "i{number}.com TXT v=spf1 include:i{}.com -all", number + 1).unwrap();
        }
        writeln!(zone, "i{length}.com TXT v=spf1 +all").unwrap();
        zone
    };
    is("pass", V4, &chain(10));
    is("permerror", V4, &chain(11));
    assert!(why(&chain(11)).contains("more than 10 lookups"));
    let row = |count: usize| {
        let terms: String = (0..count).map(|number| format!(" a:a{number}.com")).collect();
        let hosts: String = (0..count).map(|number| format!("a{number}.com A 198.51.100.1\n")).collect();
        format!("example.com TXT v=spf1{terms} -all\n{hosts}")
    };
    is("fail", V4, &row(10));
    is("permerror", V4, &row(11));
    // Terms that ask nothing are not counted; nor are those after the match.
    let networks: String = (0..30).map(|number| format!(" ip4:198.51.100.{number}")).collect();
    is("fail", V4, &format!("example.com TXT v=spf1{networks} exp=why.com -all"));
    is("pass", V4, &row(11).replace("v=spf1", "v=spf1 ip4:192.0.2.3"));
    // A redirect counts too, and so does what it leads to.
    is("permerror", V4, &row(10).replace("-all", "redirect=o.com").replace("o.com", "a1.com"));
}

#[test]
fn loops_end() {
    is("permerror", V4, "example.com TXT v=spf1 include:example.com -all");
    is("permerror", V4, "example.com TXT v=spf1 redirect=example.com");
    is("permerror", V4, "example.com TXT v=spf1 include:a.com\na.com TXT v=spf1 include:example.com");
    is(
        "permerror",
        V4,
        "example.com TXT v=spf1 include:%{d}.x.com\nexample.com.x.com TXT v=spf1 redirect=example.com",
    );
}

#[test]
fn the_third_void_lookup_is_one_too_many() {
    // 4.6.4
    is("fail", V4, "example.com TXT v=spf1 a:n1.com mx:n2.com -all");
    is("permerror", V4, "example.com TXT v=spf1 a:n1.com mx:n2.com exists:n3.com -all");
    is("permerror", V4, "example.com TXT v=spf1 a:n1.com ptr include:o.com -all\no.com TXT v=spf1 a:n2.com");
    // An address of the other family alone is nothing for this one.
    is(
        "permerror",
        V6,
        "example.com TXT v=spf1 a a:b.com a:c.com -all\nexample.com A 1.1.1.1\nb.com A 1.1.1.1\nc.com A 1.1.1.1",
    );
    assert!(why("example.com TXT v=spf1 a:n1.com a:n2.com a:n3.com -all").contains("a:n3.com"));
    // A failed lookup is none of them.
    is("temperror", V4, "example.com TXT v=spf1 a:n1.com a:n2.com a:n3.com -all\nn3.com FAIL A");
}

#[test]
fn no_more_is_asked_than_is_needed() {
    let mut zone =
        Zone::of("example.com TXT v=spf1 ip4:192.0.2.3 include:other.com exp=why.example.com -all");
    let ruling = rule(&mut zone, V4, "example.com").unwrap();
    assert_eq!((ruling.verdict, ruling.lookups), (Verdict::Pass, 0));
    assert_eq!(ruling.by, Some(("ip4:192.0.2.3".into(), "example.com".into())));
    assert_eq!(zone.asked.len(), 1);
}

fn term() -> impl Strategy<Value = String> {
    let domain = prop_oneof![
        Just("a.com"),
        Just("b.com"),
        Just("example.com"),
        Just("%{d}"),
        Just("%{p}"),
        Just("%{ir}.a.com")
    ];
    let name = prop_oneof![
        Just("include:"),
        Just("a:"),
        Just("mx:"),
        Just("ptr:"),
        Just("exists:"),
        Just("redirect="),
        Just("exp="),
        Just("foo:")
    ];
    prop_oneof![
        4 => (name, domain).prop_map(|(name, domain)| format!("{name}{domain}")),
        1 => Just("ip4:192.0.2.0/24".to_owned()),
        1 => Just("-all".to_owned()),
    ]
}

proptest! {
    /// A stranger's record, whatever it holds.
    #[test]
    fn no_record_is_too_strange(text in "[ -~é]{0,80}", terms in "[-+~?a-z0-9:/=%{}. _]{0,120}") {
        for record in [text, format!("v=spf1 {terms}")] {
            let mut zone = Zone::of("192.0.2.3 PTR a.com\na.com A 192.0.2.3");
            zone.publish("example.com", &record);
            let _any = rule(&mut zone, V4, "example.com");
            prop_assert!(zone.asked.len() < 200);
        }
    }

    /// Whatever records there are, an evaluation ends, after few questions, and a failed lookup is never a verdict.
    #[test]
    fn every_evaluation_ends_and_a_failure_is_no_verdict(
        records in prop::collection::vec((0_usize..3, prop::collection::vec(term(), 0..6)), 1..5),
        failing in prop::option::of(0_usize..3),
    ) {
        let names = ["example.com", "a.com", "b.com"];
        let mut text = "192.0.2.3 PTR a.com\n192.0.2.3 PTR b.com\na.com A 192.0.2.3\na.com MX b.com\n".to_owned();
        for (name, terms) in &records {
            writeln!(text, "{} TXT v=spf1 {}", names[*name], terms.join(" ")).unwrap();
        }
        if let Some(name) = failing {
            writeln!(text, "{} FAIL TXT", names[name]).unwrap();
        }
        let mut zone = Zone::of(&text);
        let ruled = rule(&mut zone, V4, "example.com");
        prop_assert!(zone.asked.len() < 200);
        if failing == Some(0) {
            prop_assert!(ruled.is_err());
        }
    }
}
