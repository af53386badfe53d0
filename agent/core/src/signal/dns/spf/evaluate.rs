//! `check_host()` (RFC 7208 section 4).

use std::net::IpAddr;

use super::macros::{Spec, Values};
use super::record::{Cidr, Directive, Mechanism, Qualifier, Record};
use crate::signal::dns::known::{Known, Stop};
use crate::signal::dns::name::{is_below, is_domain, same};
use crate::signal::dns::reverse::reverse_name;
use crate::signal::dns::tags::shortened;

/// Terms that ask the DNS (section 4.6.4).
const LOOKUPS: u32 = 10;
/// Of those, how many may come back with nothing (section 4.6.4).
const VOIDS: u32 = 2;
/// Names of `mx` and of `ptr` that are asked for their addresses (section 4.6.4).
const NAMES: usize = 10;

/// Who asks to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The address that connects.
    pub address: IpAddr,
    /// `local@domain` of MAIL FROM.
    pub sender: &'a str,
    /// The name of EHLO.
    pub helo: &'a str,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The address may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// Nothing is said.
    Neutral,
    /// There is no record.
    None,
    /// The record cannot be used, and why; a receiver takes it for no leave.
    PermError(String),
}

/// What came of an evaluation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// What the record says.
    pub verdict: Verdict,
    /// The term that said so, and in whose record, where one did.
    pub by: Option<(String, String)>,
    /// Terms that asked the DNS; [`Verdict::PermError`] from the eleventh on.
    pub lookups: u32,
    /// Of those, how many came back with nothing.
    pub voids: u32,
}

/// Whether a domain lets an address send for it.
///
/// # Errors
/// That an answer is missing, or that a lookup failed (`temperror`).
pub fn check_host(known: &Known, asked: Asked<'_>, domain: &str) -> Result<Ruling, Stop> {
    let address = asked.address.to_canonical();
    let mut walk = Walk { known, asked: Asked { address, ..asked }, lookups: 0, voids: 0, by: None };
    let verdict = match walk.record_of(domain) {
        Ok(verdict) => verdict,
        Err(Halt::Permanent(why)) => Verdict::PermError(why),
        Err(Halt::Stop(stop)) => return Err(stop),
    };
    Ok(Ruling { verdict, by: walk.by, lookups: walk.lookups, voids: walk.voids })
}

/// What ends an evaluation before its time.
enum Halt {
    Stop(Stop),
    Permanent(String),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

struct Walk<'a> {
    known: &'a Known,
    asked: Asked<'a>,
    lookups: u32,
    voids: u32,
    by: Option<(String, String)>,
}

impl<'a> Walk<'a> {
    /// Evaluates a domain's record.
    fn record_of(&mut self, domain: &str) -> Result<Verdict, Halt> {
        if !is_domain(domain) {
            return Ok(Verdict::None);
        }
        let texts = self.known.texts(domain)?;
        let mut meant = texts.iter().filter(|text| Record::is_meant(text));
        let Some(text) = meant.next() else { return Ok(Verdict::None) };
        if meant.next().is_some() {
            return Err(Halt::Permanent(format!("{domain} has more than one SPF record")));
        }
        let wrong = |why| Halt::Permanent(format!("the SPF record of {domain} cannot be read: {why}"));
        let record = Record::parse(text).map_err(wrong)?;
        for directive in &record.directives {
            if self.matches(directive, domain)? {
                self.by = Some((directive.text.clone(), domain.to_owned()));
                return Ok(match directive.qualifier {
                    Qualifier::Pass => Verdict::Pass,
                    Qualifier::Fail => Verdict::Fail,
                    Qualifier::SoftFail => Verdict::SoftFail,
                    Qualifier::Neutral => Verdict::Neutral,
                });
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(Verdict::Neutral) };
        self.count("redirect=")?;
        let target = self.expand(redirect, domain)?;
        match self.record_of(&target)? {
            Verdict::None => Err(no_record(&target, "redirect=", domain)),
            verdict => Ok(verdict),
        }
    }

    fn matches(&mut self, directive: &Directive, domain: &str) -> Result<bool, Halt> {
        let address = self.asked.address;
        match &directive.mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip(network) => Ok(network.contains(&address)),
            Mechanism::Include(spec) => {
                self.count(&directive.text)?;
                let target = self.expand(spec, domain)?;
                match self.record_of(&target)? {
                    Verdict::Pass => Ok(true),
                    Verdict::None => Err(no_record(&target, "include", domain)),
                    _ => Ok(false),
                }
            }
            Mechanism::A(spec, cidr) => {
                self.count(&directive.text)?;
                let target = self.target(spec.as_ref(), domain)?;
                let addresses = self.addresses(&target, address)?;
                self.void(addresses.is_empty(), &directive.text)?;
                Ok(addresses.iter().any(|one| cidr.covers(*one, address)))
            }
            Mechanism::Mx(spec, cidr) => {
                self.count(&directive.text)?;
                let target = self.target(spec.as_ref(), domain)?;
                self.is_exchange(&target, *cidr, &directive.text)
            }
            Mechanism::Ptr(spec) => {
                self.count(&directive.text)?;
                let target = self.target(spec.as_ref(), domain)?;
                self.is_named(&target, &directive.text)
            }
            Mechanism::Exists(spec) => {
                self.count(&directive.text)?;
                let target = self.expand(spec, domain)?;
                // An A record is asked for, whatever the address that connects (section 5.7).
                let found = !self.addresses(&target, IpAddr::from([127, 0, 0, 1]))?.is_empty();
                self.void(!found, &directive.text)?;
                Ok(found)
            }
        }
    }

    fn is_exchange(&mut self, target: &str, cidr: Cidr, term: &str) -> Result<bool, Halt> {
        let (known, address) = (self.known, self.asked.address);
        let exchanges = if is_domain(target) { known.exchanges(target)? } else { &[] };
        self.void(exchanges.is_empty(), term)?;
        for (number, exchange) in exchanges.iter().enumerate() {
            if number == NAMES {
                return Err(Halt::Permanent(format!("{target} has more than {NAMES} MX records")));
            }
            if self.addresses(exchange, address)?.iter().any(|one| cidr.covers(*one, address)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_named(&mut self, target: &str, term: &str) -> Result<bool, Halt> {
        let (known, address) = (self.known, self.asked.address);
        let names = known.names(&reverse_name(address))?;
        self.void(names.is_empty(), term)?;
        for name in names.iter().take(NAMES).filter(|name| is_below(name, target)) {
            if self.addresses(name, address)?.contains(&address) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What cannot be a name has no address, and nobody is asked.
    fn addresses(&self, name: &str, like: IpAddr) -> Result<&'a [IpAddr], Halt> {
        if name.is_empty()
            || !name.is_ascii()
            || name.split('.').any(|label| label.is_empty() || label.len() > 63)
        {
            return Ok(&[]);
        }
        Ok(self.known.addresses(name, like)?)
    }

    fn target(&self, spec: Option<&Spec>, domain: &str) -> Result<String, Halt> {
        spec.map_or_else(|| Ok(domain.to_owned()), |spec| self.expand(spec, domain))
    }

    fn expand(&self, spec: &Spec, domain: &str) -> Result<String, Halt> {
        let name = if spec.wants_name() { self.validated_name(domain)? } else { String::new() };
        let Asked { address, sender, helo } = self.asked;
        Ok(spec.expand(Values { address, sender, helo, domain, name: &name }))
    }

    /// `%{p}`: the domain itself before a name below it before any (section 7.3). Its lookups are no terms: none is void.
    fn validated_name(&self, domain: &str) -> Result<String, Halt> {
        let address = self.asked.address;
        let mut validated: Vec<&String> = vec![];
        for name in self.known.names(&reverse_name(address))?.iter().take(NAMES) {
            if self.addresses(name, address)?.contains(&address) {
                validated.push(name);
            }
        }
        let itself = validated.iter().find(|name| same(name, domain));
        let below = || validated.iter().find(|name| is_below(name, domain));
        let found = itself.or_else(below).or_else(|| validated.first());
        Ok(found.map_or_else(|| "unknown".to_owned(), |name| (*name).clone()))
    }

    fn count(&mut self, term: &str) -> Result<(), Halt> {
        self.lookups += 1;
        if self.lookups > LOOKUPS {
            let term = shortened(term);
            return Err(Halt::Permanent(format!(
                "it takes more than {LOOKUPS} lookups (RFC 7208 section 4.6.4): `{term}` is one too many"
            )));
        }
        Ok(())
    }

    fn void(&mut self, void: bool, term: &str) -> Result<(), Halt> {
        self.voids += u32::from(void);
        if self.voids > VOIDS {
            let term = shortened(term);
            return Err(Halt::Permanent(format!(
                "more than {VOIDS} of its lookups find nothing (RFC 7208 section 4.6.4): `{term}` is one too many"
            )));
        }
        Ok(())
    }
}

fn no_record(target: &str, term: &str, domain: &str) -> Halt {
    let target = shortened(target);
    Halt::Permanent(format!("{target}, which {domain} names by `{term}`, has no SPF record"))
}
