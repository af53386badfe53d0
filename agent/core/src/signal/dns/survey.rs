//! All checks of all sources and domains, at once.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use super::judge::{self, Check, Checked};
use super::known::{Known, Question, Stop};
use super::reverse::reverse_name;
use crate::config::{Config, DnsSettings, Domain};

/// What is checked of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePlan {
    /// Its label.
    pub name: String,
    /// Its public address.
    pub address: IpAddr,
    /// What its pool's MTA says in EHLO.
    pub ehlo: Option<String>,
    /// Domains of the envelopes that leave from it.
    pub envelopes: Vec<String>,
}

/// What is checked of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainPlan {
    /// The domain that people see.
    pub name: String,
    /// The domain of the envelope, which SPF is about.
    pub envelope: String,
    /// Where its DKIM keys are.
    pub keys: Vec<String>,
}

/// What is to be checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Sources.
    pub sources: Vec<SourcePlan>,
    /// Domains.
    pub domains: Vec<DomainPlan>,
}

impl Plan {
    /// Every source of every pool, and every domain, as the config has them.
    #[must_use]
    pub fn of(config: &Config, settings: &DnsSettings) -> Self {
        let mut plan = Self::default();
        for pool in config.pools.values() {
            let sends = |domain: &&Domain| domain.pools.is_empty() || domain.pools.contains(&pool.name);
            let mut envelopes: Vec<String> =
                settings.domains.iter().filter(sends).map(|domain| domain.envelope.clone()).collect();
            envelopes.sort_unstable();
            envelopes.dedup();
            for source in &pool.sources {
                if plan.sources.iter().any(|known| known.address == source.public) {
                    continue;
                }
                plan.sources.push(SourcePlan {
                    name: source.name.clone(),
                    address: source.public,
                    ehlo: pool.ehlo.clone(),
                    envelopes: envelopes.clone(),
                });
            }
        }
        let domain = |domain: &Domain| DomainPlan {
            name: domain.name.clone(),
            envelope: domain.envelope.clone(),
            keys: domain.keys.clone(),
        };
        plan.domains = settings.domains.iter().map(domain).collect();
        plan
    }
}

/// Whether the resolver proved what it answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "dnssec", content = "why")]
pub enum Dnssec {
    /// Signed, and validated by the resolver.
    Validated,
    /// Not signed.
    Unsigned,
    /// Nothing is known: the resolver does not validate, or the lookup failed.
    Unknown(String),
}

/// What was found of a source or a domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row<T> {
    /// Its name.
    pub name: String,
    /// The source's address; nothing of a domain.
    pub address: T,
    /// Its checks.
    pub checks: Vec<Checked>,
    /// Whether its names are signed.
    pub dnssec: Dnssec,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Sources.
    pub sources: Vec<Row<IpAddr>>,
    /// Domains.
    pub domains: Vec<Row<()>>,
}

/// Runs every check.
///
/// # Errors
/// Everything that has to be asked first. Ask it all, and run this again.
pub fn survey(plan: &Plan, known: &Known) -> Result<Report, BTreeSet<Question>> {
    let mut run = Run { known, needs: BTreeSet::new() };
    let sources = plan.sources.iter().map(|source| run.source(source)).collect();
    let domains = plan.domains.iter().map(|domain| run.domain(domain)).collect();
    if run.needs.is_empty() { Ok(Report { sources, domains }) } else { Err(run.needs) }
}

struct Run<'a> {
    known: &'a Known,
    needs: BTreeSet<Question>,
}

impl Run<'_> {
    fn source(&mut self, source: &SourcePlan) -> Row<IpAddr> {
        let (known, address) = (self.known, source.address);
        let mut judged =
            vec![(Check::Ptr, judge::ptr(known, source)), (Check::Forward, judge::forward(known, source))];
        if let Some(name) = &source.ehlo {
            judged.push((Check::Ehlo, judge::ehlo(known, source, name)));
        }
        if !source.envelopes.is_empty() {
            judged.push((Check::Spf, judge::spf(known, source)));
        }
        let checks = self.settle(judged, |why| judge::about(address, why));
        let dnssec = self.dnssec(&reverse_name(address));
        Row { name: source.name.clone(), address, checks, dnssec }
    }

    fn domain(&mut self, domain: &DomainPlan) -> Row<()> {
        let known = self.known;
        let mut judged = vec![];
        if !domain.keys.is_empty() {
            judged.push((Check::Dkim, judge::dkim(known, domain)));
        }
        judged.push((Check::Dmarc, judge::dmarc(known, domain)));
        judged.push((Check::Alignment, judge::alignment(known, domain)));
        let checks = self.settle(judged, |why| format!("nothing is known of {}: {why}", domain.name));
        Row { name: domain.name.clone(), address: (), checks, dnssec: self.dnssec(&domain.name) }
    }

    fn settle(
        &mut self,
        judged: Vec<(Check, Result<Checked, Stop>)>,
        words: impl Fn(&str) -> String,
    ) -> Vec<Checked> {
        let mut checks = vec![];
        for (check, result) in judged {
            match result {
                Ok(checked) => checks.push(checked),
                Err(Stop::Failed(why)) => checks.push(Checked::unknown(check, words(&why))),
                Err(Stop::Need(question)) => {
                    self.needs.insert(question);
                }
            }
        }
        checks
    }

    /// The root is signed: a resolver that did not validate it validates nothing, and its silence says nothing.
    fn dnssec(&mut self, name: &str) -> Dnssec {
        let both = self.known.validated("").and_then(|root| Ok((root, self.known.validated(name)?)));
        match both {
            Ok((true, true)) => Dnssec::Validated,
            Ok((true, false)) => Dnssec::Unsigned,
            Ok((false, _)) => Dnssec::Unknown("the resolver does not validate".to_owned()),
            Err(Stop::Failed(why)) => Dnssec::Unknown(why),
            Err(Stop::Need(question)) => {
                self.needs.insert(question);
                Dnssec::Unknown(String::new())
            }
        }
    }
}
