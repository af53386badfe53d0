//! DMARC records: finding, reading, and alignment (RFC 9989).
//!
//! Owns: the tree walk and what a record says. Must not: judge. Everything is as the successor of RFC 7489 has it; where a
//! receiver of RFC 7489 would see it otherwise (it finds the organisation by a list of public suffixes), both agree for all
//! but domains with records in unusual places.

use super::known::{Known, Stop};
use super::name::{parent, same};
use super::tags::{tags, value};

/// From so many labels on the walk skips to fewer (RFC 9989 section 4.10).
const LABELS: usize = 8;

/// What receivers shall do with mail that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nothing.
    None,
    /// Keep it apart.
    Quarantine,
    /// Refuse it.
    Reject,
}

impl Policy {
    fn read(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Some(Self::None),
            "quarantine" => Some(Self::Quarantine),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

/// Whether a domain is a public suffix, below which others register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suffix {
    /// `psd=y`
    Yes,
    /// `psd=n`
    No,
    /// `psd=u`, or nothing.
    Unsaid,
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `p=`, or why it cannot be used.
    pub policy: Result<Policy, String>,
    /// `sp=`, which counts for domains below; else `p=`.
    pub below: Option<Policy>,
    /// `psd=`
    pub suffix: Suffix,
    /// `adkim=s`: DKIM's domain has to be the same.
    pub strict_dkim: bool,
    /// `aspf=s`: SPF's has to be.
    pub strict_spf: bool,
    /// `rua=`, where reports go, if anywhere.
    pub reports: Option<String>,
}

/// Whether a text is meant to be a DMARC record: `v=DMARC1` stands first, in these letters.
#[must_use]
pub fn is_meant(text: &str) -> bool {
    let Some(first) = text.split(';').next() else { return false };
    first
        .split_once('=')
        .is_some_and(|(name, value)| name.trim().eq_ignore_ascii_case("v") && value.trim() == "DMARC1")
}

/// Reads a record. What is unknown, or wrong beside `p=`, counts as if it were not there.
///
/// # Errors
/// What makes it no record, in words.
pub fn read(text: &str) -> Result<Record, String> {
    if !is_meant(text) {
        return Err("it does not begin with `v=DMARC1`".to_owned());
    }
    let tags = tags(text)?;
    let strict = |name: &str| value(&tags, name).is_some_and(|value| value.eq_ignore_ascii_case("s"));
    let policy = match value(&tags, "p") {
        None => Err("`p=` is missing".to_owned()),
        Some(word) => {
            Policy::read(word).ok_or_else(|| format!("`p={}` is no policy", super::tags::shortened(word)))
        }
    };
    Ok(Record {
        policy,
        below: value(&tags, "sp").and_then(Policy::read),
        suffix: match value(&tags, "psd") {
            Some("y" | "Y") => Suffix::Yes,
            Some("n" | "N") => Suffix::No,
            _ => Suffix::Unsaid,
        },
        strict_dkim: strict("adkim"),
        strict_spf: strict("aspf"),
        reports: value(&tags, "rua").filter(|value| !value.is_empty()).map(str::to_owned),
    })
}

/// What stands at `_dmarc.` of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum There {
    /// Nothing that is meant as a record; with a text that looks like one.
    Nothing(Option<String>),
    /// One record.
    One(Record),
    /// More than one, which is as none.
    Many(usize),
    /// One that cannot be read, which is as none.
    Broken(String),
}

/// What stands at a domain.
///
/// # Errors
/// That an answer is missing, or that a lookup failed.
pub fn at(known: &Known, domain: &str) -> Result<There, Stop> {
    let texts = known.texts(&format!("_dmarc.{domain}"))?;
    let meant: Vec<&String> = texts.iter().filter(|text| is_meant(text)).collect();
    Ok(match meant.as_slice() {
        [] => There::Nothing(texts.iter().find(|text| looks_like(text)).cloned()),
        [one] => read(one).map_or_else(There::Broken, There::One),
        many => There::Many(many.len()),
    })
}

fn looks_like(text: &str) -> bool {
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    plain.to_ascii_lowercase().contains("dmarc")
}

/// What a walk up the tree found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Records, from the domain upwards.
    pub found: Vec<(String, Record)>,
    /// The domain of the organisation.
    pub organisation: String,
}

impl Walk {
    /// The record that counts for the domain, and where it stands: its own, else its organisation's, else its suffix's.
    #[must_use]
    pub fn record(&self, domain: &str) -> Option<&(String, Record)> {
        let at = |wanted: &str| self.found.iter().find(|(there, _)| same(there, wanted));
        let suffix = || self.found.iter().rev().find(|(_, record)| record.suffix == Suffix::Yes);
        at(domain).or_else(|| at(&self.organisation)).or_else(suffix)
    }
}

/// The domains that are asked, from the domain upwards.
fn steps(domain: &str) -> Vec<&str> {
    let mut steps = vec![domain];
    let mut next = parent(domain);
    while let Some(one) = next {
        if one.split('.').count() < LABELS {
            steps.push(one);
        }
        next = parent(one);
    }
    steps
}

/// The domain one label below another one, on the way to `domain`; that itself, where the walk began there.
fn one_below<'d>(domain: &'d str, above: &str) -> &'d str {
    let mut below = domain;
    while let Some(next) = parent(below).filter(|next| !same(next, above) && next.len() > above.len()) {
        below = next;
    }
    below
}

/// Walks up the tree (RFC 9989 section 4.10).
///
/// # Errors
/// That an answer is missing, or that a lookup failed.
pub fn walk(known: &Known, domain: &str) -> Result<Walk, Stop> {
    let mut found: Vec<(String, Record)> = vec![];
    for step in steps(domain) {
        if let There::One(record) = at(known, step)? {
            let suffix = record.suffix;
            found.push((step.to_owned(), record));
            if suffix == Suffix::No {
                return Ok(Walk { found, organisation: step.to_owned() });
            }
            if suffix == Suffix::Yes {
                let organisation = one_below(domain, step).to_owned();
                return Ok(Walk { found, organisation });
            }
        }
    }
    let organisation = found.last().map_or_else(|| domain.to_owned(), |(there, _)| there.clone());
    Ok(Walk { found, organisation })
}

/// Whether two domains belong together: the same, or, where not `strict`, of one organisation.
///
/// # Errors
/// That an answer is missing, or that a lookup failed.
pub fn aligned(known: &Known, from: &str, other: &str, strict: bool) -> Result<bool, Stop> {
    if same(from, other) {
        return Ok(true);
    }
    Ok(!strict && same(&walk(known, from)?.organisation, &walk(known, other)?.organisation))
}
