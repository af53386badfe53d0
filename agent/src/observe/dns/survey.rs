//! What the core's checks of DNS compliance need to know, asked of the resolver.
//!
//! Owns: the round trips. Must not: judge an answer; the checks say what they need until they need nothing.

use futures_util::{StreamExt as _, stream};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::proto::rr::{RData, RecordType};
use mailsteer_core::signal::dns::{self, Kind, Known, Plan, Question, Reply, Report};

use super::{Resolver, absolute, why};

/// Questions that are under way at a time.
const AT_A_TIME: usize = 16;

/// Runs every check of a plan. It ends: each round asks what was not asked before, and the checks have their limits.
pub async fn survey(resolver: &Resolver, plan: &Plan) -> Report {
    let mut known = Known::default();
    loop {
        let needs = match dns::survey(plan, &known) {
            Ok(report) => return report,
            Err(needs) => needs,
        };
        let asked = needs.into_iter().map(|question| async move {
            let reply = resolver.reply(&question).await;
            (question, reply)
        });
        let replies: Vec<(Question, Reply)> = stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await;
        replies.into_iter().for_each(|(question, reply)| known.learn(question, reply));
    }
}

impl Resolver {
    /// Asks one question.
    async fn reply(&self, question: &Question) -> Reply {
        let kind = match question.kind {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Mx => RecordType::MX,
            Kind::Ptr => RecordType::PTR,
            Kind::Txt => RecordType::TXT,
            Kind::Validated => return self.validated(&question.name).await,
        };
        let name = match absolute(&question.name) {
            Ok(name) => name,
            // Nobody can have published what is no name.
            Err(_) => return Reply::Nothing,
        };
        match self.library.lookup(name, kind).await {
            Ok(found) => read(question.kind, &found),
            Err(error) => why(&error).map_or(Reply::Nothing, Reply::Failed),
        }
    }
}

fn read(kind: Kind, found: &Lookup) -> Reply {
    let records = || found.answers().iter().map(|record| &record.data);
    match kind {
        Kind::A | Kind::Aaaa => Reply::Addresses(
            records()
                .filter_map(|data| match data {
                    RData::A(address) => Some(address.0.into()),
                    RData::AAAA(address) => Some(address.0.into()),
                    _ => None,
                })
                .collect(),
        ),
        Kind::Mx => {
            let exchange = |data: &RData| match data {
                RData::MX(mx) => Some((mx.preference, plain(&mx.exchange.to_ascii()))),
                _ => None,
            };
            let mut all: Vec<(u16, String)> = records().filter_map(exchange).collect();
            all.sort();
            Reply::Exchanges(all.into_iter().map(|(_, name)| name).collect())
        }
        Kind::Ptr => {
            let name = |data: &RData| match data {
                RData::PTR(name) => Some(plain(&name.to_ascii())),
                _ => None,
            };
            Reply::Names(records().filter_map(name).collect())
        }
        Kind::Txt => {
            let text = |data: &RData| match data {
                RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
                _ => None,
            };
            Reply::Texts(records().filter_map(text).collect())
        }
        Kind::Validated => Reply::Nothing,
    }
}

/// Without the last dot.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_owned()
}
