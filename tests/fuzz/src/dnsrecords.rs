//! SPF, DKIM and DMARC records: any text at all, read, and evaluated in a world whose every answer is made of it.

use std::net::IpAddr;

use mailsteer_core::signal::dns::dkim::{self, Key};
use mailsteer_core::signal::dns::spf::Record;
use mailsteer_core::signal::dns::{
    DomainPlan, Kind, Known, Plan, Question, Reply, SourcePlan, dmarc, survey,
};

/// No world takes more: ten terms, each with ten names, for a source and its domains, and the walks up their trees.
const MOST: usize = 500;

/// Records as they are read, and the checks of a source and a domain where every TXT is the first or the second half of the
/// input.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    if let Ok(record) = Record::parse(&text) {
        assert!(Record::is_meant(&text));
        assert!(record.directives.len() <= text.split(' ').count());
    }
    if let Ok(sound) = dkim::read(&text) {
        assert!(!matches!(sound.key, Key::Rsa(..1024)), "{text}");
    }
    if dmarc::read(&text).is_ok() {
        assert!(dmarc::is_meant(&text));
    }
    let halves: Vec<String> = text.split('\n').map(str::to_owned).take(3).collect();
    evaluated(&halves);
}

fn evaluated(texts: &[String]) {
    let plan = Plan {
        sources: vec![source("192.0.2.3"), source("2001:db8::3")],
        domains: vec![DomainPlan {
            name: "example.com".into(),
            envelope: "bounce.example.net".into(),
            keys: vec!["s1._domainkey.example.com".into()],
        }],
    };
    let mut known = Known::default();
    loop {
        let needs = match survey(&plan, &known) {
            Err(needs) => needs,
            Ok(report) => {
                let of_sources = report.sources.iter().flat_map(|row| &row.checks);
                for checked in of_sources.chain(report.domains.iter().flat_map(|row| &row.checks)) {
                    let shown = format!("{}{}", checked.what, checked.advice);
                    assert!(!shown.contains(char::is_control), "{shown:?}");
                }
                return;
            }
        };
        let before = known.len();
        for question in needs {
            let reply = answer(&question, texts);
            known.learn(question, reply);
        }
        assert!(known.len() > before, "it asks what it knows");
        assert!(known.len() < MOST, "it asks for ever");
    }
}

fn source(address: &str) -> SourcePlan {
    let address: IpAddr = address.parse().unwrap_or(IpAddr::from([192, 0, 2, 3]));
    SourcePlan {
        name: "main-1".into(),
        address,
        ehlo: Some("mail.example.com".into()),
        envelopes: vec!["example.com".into()],
    }
}

/// The world: names of one kind have nothing, of another fail, by their length.
fn answer(question: &Question, texts: &[String]) -> Reply {
    match (question.name.len() % 7, question.kind) {
        (0, _) => Reply::Nothing,
        (1, Kind::A | Kind::Aaaa | Kind::Mx) => Reply::Failed("SERVFAIL".into()),
        (_, Kind::A) => Reply::Addresses(vec![IpAddr::from([192, 0, 2, 3])]),
        (_, Kind::Aaaa) => Reply::Addresses(vec![]),
        (_, Kind::Mx) => Reply::Exchanges(vec!["mx.example.com".into(), "mx2.example.com".into()]),
        (_, Kind::Ptr) => Reply::Names(vec!["mail.example.com".into(), "other.example.net".into()]),
        (_, Kind::Txt) => Reply::Texts(texts.to_vec()),
        (_, Kind::Validated) => Reply::Validated(true),
    }
}
