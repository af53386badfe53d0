//! A small internet's DNS, written as text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::signal::dns::reverse::reverse_name;
use mailsteer_core::signal::dns::{Kind, Known, Question, Reply, Stop};

/// What there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    replies: BTreeMap<Question, Reply>,
    /// What was asked for, in its order.
    pub(crate) asked: Vec<Question>,
}

impl Zone {
    /// `NAME KIND VALUE` a line; KIND is A, AAAA, MX, TXT, PTR (whose name is an address), or FAIL (VALUE is the kind that fails),
    /// or SIGNED. `.` is the root.
    pub(crate) fn of(text: &str) -> Self {
        let mut zone = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, rest) = line.split_once(' ').unwrap();
            let (kind, value) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
            zone.add(name.trim_end_matches('.'), kind, value.trim_start());
        }
        zone
    }

    fn add(&mut self, name: &str, kind: &str, value: &str) {
        let mut put = |name: &str, kind: Kind, reply: Reply| {
            let entry = self.replies.entry(Question::new(name, kind));
            let known = entry.or_insert_with(|| match &reply {
                Reply::Addresses(_) => Reply::Addresses(vec![]),
                Reply::Exchanges(_) => Reply::Exchanges(vec![]),
                Reply::Names(_) => Reply::Names(vec![]),
                Reply::Texts(_) => Reply::Texts(vec![]),
                other => other.clone(),
            });
            match (known, reply) {
                (Reply::Addresses(known), Reply::Addresses(more)) => known.extend(more),
                (Reply::Exchanges(known), Reply::Exchanges(more))
                | (Reply::Names(known), Reply::Names(more))
                | (Reply::Texts(known), Reply::Texts(more)) => known.extend(more),
                _ => {}
            }
        };
        match kind {
            "A" => put(name, Kind::A, Reply::Addresses(vec![value.parse().unwrap()])),
            "AAAA" => put(name, Kind::Aaaa, Reply::Addresses(vec![value.parse().unwrap()])),
            "MX" => put(name, Kind::Mx, Reply::Exchanges(vec![value.into()])),
            "TXT" => put(name, Kind::Txt, Reply::Texts(vec![value.into()])),
            "PTR" => put(&reverse(name), Kind::Ptr, Reply::Names(vec![value.into()])),
            "SIGNED" => put(&reverse(name), Kind::Validated, Reply::Validated(true)),
            "FAIL" => {
                let kind = match value {
                    "A" => Kind::A,
                    "AAAA" => Kind::Aaaa,
                    "MX" => Kind::Mx,
                    "TXT" => Kind::Txt,
                    "PTR" => Kind::Ptr,
                    "SIGNED" => Kind::Validated,
                    other => panic!("{other}"),
                };
                self.replies
                    .insert(Question::new(&reverse(name), kind), Reply::Failed("Server Failure".into()));
            }
            other => panic!("{other}"),
        }
    }

    /// One more text, whatever it holds.
    pub(crate) fn publish(&mut self, name: &str, text: &str) {
        self.replies.insert(Question::new(name, Kind::Txt), Reply::Texts(vec![text.to_owned()]));
    }

    fn answer(&mut self, question: &Question) -> Reply {
        self.asked.push(question.clone());
        let nothing = match question.kind {
            Kind::Validated => Reply::Validated(false),
            _ => Reply::Nothing,
        };
        self.replies.get(question).cloned().unwrap_or(nothing)
    }

    /// Evaluates, asks what is needed, and evaluates again. The error: which lookup failed.
    pub(crate) fn resolve<T>(&mut self, evaluate: impl Fn(&Known) -> Result<T, Stop>) -> Result<T, String> {
        let mut known = Known::default();
        loop {
            match evaluate(&known) {
                Ok(done) => return Ok(done),
                Err(Stop::Failed(why)) => return Err(why),
                Err(Stop::Need(question)) => {
                    assert!(!self.asked.contains(&question), "{question} is asked again");
                    let reply = self.answer(&question);
                    known.learn(question, reply);
                }
            }
        }
    }

    /// The same for what tells all its needs at once.
    pub(crate) fn resolve_all<T>(&mut self, evaluate: impl Fn(&Known) -> Result<T, BTreeSet<Question>>) -> T {
        let mut known = Known::default();
        loop {
            match evaluate(&known) {
                Ok(done) => return done,
                Err(needs) => {
                    for question in needs {
                        assert!(!self.asked.contains(&question), "{question} is asked again");
                        let reply = self.answer(&question);
                        known.learn(question, reply);
                    }
                }
            }
        }
    }
}

/// Names that are addresses are those of PTR records.
fn reverse(name: &str) -> String {
    name.parse::<IpAddr>().map_or_else(|_| name.to_owned(), reverse_name)
}
