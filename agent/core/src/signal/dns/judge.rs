//! The checks: what is wrong, where, and what to do.
//!
//! Owns: one function for each check, from what is known to a sentence. Must not: know when it is run or what follows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::dmarc::{self, Policy, There};
use super::known::{Known, Stop};
use super::name::same;
use super::reverse::{Named, names_of, reverse_name};
use super::spf::{Asked, Verdict, check_host};
use super::{dkim, survey::DomainPlan, survey::SourcePlan};

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A source: its address has a name.
    Ptr,
    /// A source: the name has the address.
    Forward,
    /// A source: the name is the one that its pool's MTA says.
    Ehlo,
    /// A source: the domains that send from it let it.
    Spf,
    /// A domain: its keys are there, and sound.
    Dkim,
    /// A domain: there is one DMARC record, and it can be used.
    Dmarc,
    /// A domain: what SPF or DKIM prove is the domain that people see.
    Alignment,
}

impl Check {
    /// Those of a source. The others are of a domain, and no source is better than another by them.
    pub const OF_SOURCE: [Self; 4] = [Self::Ptr, Self::Forward, Self::Ehlo, Self::Spf];
    /// Those of a domain.
    pub const OF_DOMAIN: [Self; 3] = [Self::Dkim, Self::Dmarc, Self::Alignment];

    /// The word for it in the config, metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ptr => "ptr",
            Self::Forward => "forward",
            Self::Ehlo => "ehlo",
            Self::Spf => "spf",
            Self::Dkim => "dkim",
            Self::Dmarc => "dmarc",
            Self::Alignment => "alignment",
        }
    }
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be; where something should still be mended, the advice says it.
    Ok,
    /// Receivers can see that it is wrong.
    Failed,
    /// A lookup failed: that says nothing, and changes nothing.
    Unknown,
}

/// What came of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Checked {
    /// The check.
    pub check: Check,
    /// How it is.
    pub outcome: Outcome,
    /// What is so.
    pub what: String,
    /// What to do; empty where nothing.
    pub advice: String,
}

impl Checked {
    pub(super) fn ok(check: Check, what: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, what: plain(what), advice: String::new() }
    }

    pub(super) fn failed(check: Check, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Failed, what: plain(what), advice: plain(advice) }
    }

    pub(super) fn unknown(check: Check, what: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Unknown, what: plain(what), advice: String::new() }
    }

    fn advised(self, advice: impl Into<String>) -> Self {
        Self { advice: plain(advice), ..self }
    }
}

/// A sentence may quote what strangers published; it commands no terminal.
fn plain(sentence: impl Into<String>) -> String {
    let mut sentence = sentence.into();
    sentence.retain(|c| !c.is_control());
    sentence
}

type Judged = Result<Checked, Stop>;

fn listed(names: &[Named]) -> String {
    names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn nameless(source: &SourcePlan, check: Check) -> Checked {
    let at = reverse_name(source.address);
    let name = source.ehlo.as_deref().unwrap_or("the name that your MTA says in EHLO");
    Checked::failed(
        check,
        format!("{} has no name: there is no PTR record at {at}", source.address),
        format!(
            "Whoever gave you the address sets its PTR, in most clouds by their console: to {name}. Large receivers refuse \
             mail from addresses without."
        ),
    )
}

/// PTR is there.
pub(super) fn ptr(known: &Known, source: &SourcePlan) -> Judged {
    let names = known.names(&reverse_name(source.address))?;
    let (address, check) = (source.address, Check::Ptr);
    Ok(match names {
        [] => nameless(source, check),
        [one] => Checked::ok(check, format!("{address} is called {one}")),
        many => Checked::ok(check, format!("{address} is called {}", many.join(", ")))
            .advised("Leave one PTR: receivers look at any one of them, or at none."),
    })
}

/// The name of the address has the address.
pub(super) fn forward(known: &Known, source: &SourcePlan) -> Judged {
    let (address, check) = (source.address, Check::Forward);
    let names = names_of(known, address)?;
    if names.is_empty() {
        return Ok(nameless(source, check));
    }
    if let Some(one) = names.iter().find(|one| one.confirmed) {
        return Ok(Checked::ok(check, format!("{} has the address {address}", one.name)));
    }
    let has = |one: &Named| {
        let addresses = one.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let addresses = if addresses.is_empty() { "no address of its family".to_owned() } else { addresses };
        format!("{} has {addresses}", one.name)
    };
    let has = names.iter().map(has).collect::<Vec<_>>().join("; ");
    let kind = super::Kind::of(address).as_str();
    Ok(Checked::failed(
        check,
        format!("{address} is called {}, but {has}", listed(&names)),
        format!("Publish at {}: {kind} {address}. Or have the PTR set to a name that has it.", names[0].name),
    ))
}

/// The name of the address is what the MTA says.
pub(super) fn ehlo(known: &Known, source: &SourcePlan, name: &str) -> Judged {
    let (address, check) = (source.address, Check::Ehlo);
    let names = names_of(known, address)?;
    if names.is_empty() {
        return Ok(nameless(source, check));
    }
    if names.iter().any(|one| same(&one.name, name)) {
        return Ok(Checked::ok(check, format!("{address} is called {name}, as its pool says in EHLO")));
    }
    Ok(Checked::failed(
        check,
        format!("{address} is called {}, but its pool says EHLO {name}", listed(&names)),
        format!(
            "mailsteer changes the address of a connection and nothing that the MTA says. Have the PTR set to {name} and \
             {name} list {address}; or put the address into a pool of its own, with an MTA transport that says its name \
             (docs/mta-recipes.md, EHLO)."
        ),
    ))
}

/// Every domain that sends from it lets it.
pub(super) fn spf(known: &Known, source: &SourcePlan) -> Judged {
    let (mut good, mut unknown) = (vec![], None);
    let mut advice = vec![];
    for domain in &source.envelopes {
        match spf_of(known, source, domain) {
            Ok(checked) if checked.outcome == Outcome::Failed => return Ok(checked),
            Ok(checked) => {
                good.push(checked.what);
                advice.push(checked.advice);
            }
            Err(Stop::Failed(why)) => unknown = Some(why),
            Err(need) => return Err(need),
        }
    }
    if let Some(why) = unknown {
        return Err(Stop::Failed(why));
    }
    advice.retain(|one| !one.is_empty());
    Ok(Checked::ok(Check::Spf, good.join("; ")).advised(advice.join(" ")))
}

fn spf_of(known: &Known, source: &SourcePlan, domain: &str) -> Judged {
    let (address, check) = (source.address, Check::Spf);
    let helo = source.ehlo.as_deref().unwrap_or(domain);
    let sender = format!("postmaster@{domain}");
    let ruling = check_host(known, Asked { address, sender: &sender, helo }, domain)?;
    let by = ruling.by.as_ref().map_or_else(String::new, |(term, of)| format!(" (`{term}` of {of})"));
    let family = if address.is_ipv4() { "ip4" } else { "ip6" };
    let add =
        format!("Put {family}:{address}, or its network, into the SPF record of {domain}, before `all`.");
    Ok(match ruling.verdict {
        Verdict::Pass => {
            let what = format!("{domain} lets {address} send{by}");
            match &ruling.by {
                Some((term, of)) if term.trim_start_matches('+').eq_ignore_ascii_case("all") => {
                    Checked::ok(check, what).advised(format!(
                        "`+all` of {of} lets anybody send as {domain}, and receivers make light of such a record: name the \
                         addresses."
                    ))
                }
                _ => Checked::ok(check, what),
            }
        }
        Verdict::None => Checked::failed(
            check,
            format!("{domain} has no SPF record, and {address} sends for it"),
            format!(
                "Publish at {domain} the TXT record \"v=spf1 {family}:{address} -all\", with every other address that sends."
            ),
        ),
        Verdict::PermError(why) => Checked::failed(
            check,
            format!("SPF of {domain} gives a permanent error for {address}: {why}"),
            format!("Receivers take it for no leave. Mend the record of {domain}."),
        ),
        Verdict::Fail => Checked::failed(check, format!("SPF of {domain} forbids {address}{by}"), add),
        Verdict::SoftFail => {
            Checked::failed(check, format!("SPF of {domain} suspects {address} (softfail){by}"), add)
        }
        Verdict::Neutral => {
            Checked::failed(check, format!("SPF of {domain} says nothing of {address}{by}"), add)
        }
    })
}

/// Every key that the domain signs with is there, and sound.
pub(super) fn dkim(known: &Known, domain: &DomainPlan) -> Judged {
    let check = Check::Dkim;
    let (mut good, mut advice, mut unknown) = (vec![], vec![], None);
    for key in &domain.keys {
        let texts = match known.texts(key) {
            Ok(texts) => texts,
            Err(Stop::Failed(why)) => {
                unknown = Some(why);
                continue;
            }
            Err(need) => return Err(need),
        };
        let found = match texts {
            [] => Err("there is no key".to_owned()),
            [one] => dkim::read(one),
            many => Err(format!("there are {} TXT records, and receivers take any one of them", many.len())),
        };
        match found {
            Ok(sound) => {
                good.push(format!("{key} ({})", sound.key));
                advice.extend(sound.warnings.iter().map(|warning| format!("{key}: {warning}.")));
            }
            Err(why) => {
                return Ok(Checked::failed(
                    check,
                    format!("the DKIM key at {key} cannot be used: {why}"),
                    "Publish the public half of the key that your MTA signs with, as one TXT record; or take the selector out of the config and out of the MTA.",
                ));
            }
        }
    }
    if let Some(why) = unknown {
        return Err(Stop::Failed(why));
    }
    Ok(Checked::ok(check, format!("keys: {}", good.join(", "))).advised(advice.join(" ")))
}

/// One DMARC record counts, and can be used.
pub(super) fn dmarc(known: &Known, domain: &DomainPlan) -> Judged {
    let (check, name) = (Check::Dmarc, domain.name.as_str());
    let publish = format!("Publish one TXT record at _dmarc.{name}: \"v=DMARC1; p=none; rua=mailto:...\".");
    match dmarc::at(known, name)? {
        There::Many(count) => {
            let what = format!("_dmarc.{name} has {count} DMARC records, which is as none");
            return Ok(Checked::failed(check, what, "Leave one of them."));
        }
        There::Broken(why) => {
            let what = format!("the DMARC record at _dmarc.{name} cannot be read: {why}");
            return Ok(Checked::failed(check, what, publish));
        }
        There::Nothing(Some(text)) => {
            let text = super::tags::shortened(&text);
            let what = format!("what stands at _dmarc.{name} is no DMARC record: \"{text}\"");
            let advice = format!("It has to begin with `v=DMARC1;`, in these letters. {publish}");
            return Ok(Checked::failed(check, what, advice));
        }
        There::Nothing(None) | There::One(_) => {}
    }
    let walk = dmarc::walk(known, name)?;
    let Some((at, record)) = walk.record(name) else {
        return Ok(Checked::failed(
            check,
            format!("{name} has no DMARC record, and no domain above it has one that counts"),
            format!("Gmail and Yahoo ask for one of whoever sends in bulk (2024-02). {publish}"),
        ));
    };
    let policy = match &record.policy {
        Ok(policy) => record.below.filter(|_| !same(at, name)).unwrap_or(*policy),
        Err(why) => {
            let what = format!("the DMARC record at _dmarc.{at} has no policy: {why}");
            let advice = "Write p=none, p=quarantine or p=reject right after `v=DMARC1;`.";
            return Ok(Checked::failed(check, what, advice));
        }
    };
    let what = format!("{name}: policy {} (_dmarc.{at})", policy.as_str());
    Ok(match (policy, &record.reports) {
        (Policy::None, None) => Checked::ok(check, what).advised(format!(
            "p=none without rua= does nothing at all: have reports sent, then tighten {at}."
        )),
        _ => Checked::ok(check, what),
    })
}

/// What SPF or DKIM prove is the domain that people see.
pub(super) fn alignment(known: &Known, domain: &DomainPlan) -> Judged {
    let (check, name) = (Check::Alignment, domain.name.as_str());
    let walk = dmarc::walk(known, name)?;
    let record = walk.record(name).map(|(_, record)| record);
    let strict_spf = record.is_some_and(|record| record.strict_spf);
    let strict_dkim = record.is_some_and(|record| record.strict_dkim);
    let spf = dmarc::aligned(known, name, &domain.envelope, strict_spf)?;
    let mut by_key = None;
    for key in &domain.keys {
        let signer = signer(key);
        if by_key.is_none() && dmarc::aligned(known, name, signer, strict_dkim)? {
            by_key = Some(signer);
        }
    }
    Ok(match (spf, by_key) {
        (true, Some(signer)) => {
            let what = format!("{name}: aligned by SPF ({}) and DKIM ({signer})", domain.envelope);
            Checked::ok(check, what)
        }
        (false, Some(signer)) => Checked::ok(
            check,
            format!("{name}: aligned by DKIM ({signer}) alone, not by SPF ({})", domain.envelope),
        ),
        (true, None) => Checked::ok(check, format!("{name}: aligned by SPF ({}) alone", domain.envelope))
            .advised(format!(
                "What is forwarded fails DMARC without DKIM: sign as {name} too, and list its selectors."
            )),
        (false, None) => Checked::failed(
            check,
            format!("neither SPF ({}) nor DKIM prove {name}: DMARC fails for its mail", domain.envelope),
            format!("Sign with d={name}, or have the envelope's domain be {name} or one below it."),
        ),
    })
}

/// `d=` of a key's place.
fn signer(key: &str) -> &str {
    key.split_once("._domainkey.").map_or(key, |(_, signer)| signer)
}

/// The address that a sentence is about, for those that could not be looked up.
pub(super) fn about(address: IpAddr, why: &str) -> String {
    format!("nothing is known of {address}: {why}")
}
