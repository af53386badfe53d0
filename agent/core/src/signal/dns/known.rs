//! What was asked of the DNS, and what it said.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::name::tidy;

/// What is asked of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Who takes its mail.
    Mx,
    /// Names of an address.
    Ptr,
    /// Texts.
    Txt,
    /// Not a record: whether the resolver validated what there is (the AD bit, RFC 6840 section 5.7).
    Validated,
}

impl Kind {
    /// The kind of record that holds such an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::A } else { Self::Aaaa }
    }

    /// Its name in zone files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Ptr => "PTR",
            Self::Txt => "TXT",
            Self::Validated => "DNSSEC",
        }
    }
}

/// A question.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Question {
    /// The name: lower case, without the last dot; empty is the root.
    pub name: String,
    /// What is asked of it.
    pub kind: Kind,
}

impl Question {
    /// Asks so of this name, however it is written.
    #[must_use]
    pub fn new(name: &str, kind: Kind) -> Self {
        Self { name: tidy(name), kind }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.kind.as_str(), if self.name.is_empty() { "." } else { &self.name })
    }
}

/// What the resolver said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Who takes mail, preferred ones first.
    Exchanges(Vec<String>),
    /// Names.
    Names(Vec<String>),
    /// Texts, the strings of each put together without a space.
    Texts(Vec<String>),
    /// Whether it was validated.
    Validated(bool),
    /// There is no such name, or it has nothing of this kind.
    Nothing,
    /// Nothing that says anything, with the cause in words: SERVFAIL (which is what a validating resolver makes of forged
    /// records too), REFUSED, a time-out.
    Failed(String),
}

/// Why an evaluation stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It needs an answer, and is to be run again with it.
    Need(Question),
    /// A lookup failed: nothing can be said.
    Failed(String),
}

/// Everything that is known so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known(BTreeMap<Question, Reply>);

impl Known {
    /// One more answer.
    pub fn learn(&mut self, question: Question, reply: Reply) {
        self.0.insert(question, reply);
    }

    /// How many answers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn ask(&self, name: &str, kind: Kind) -> Result<&Reply, Stop> {
        let question = Question::new(name, kind);
        match self.0.get(&question) {
            None => Err(Stop::Need(question)),
            Some(Reply::Failed(why)) => Err(Stop::Failed(format!("{question}: {why}"))),
            Some(reply) => Ok(reply),
        }
    }

    /// Addresses of a name, of the family of `like`; none where it has none.
    ///
    /// # Errors
    /// That it is not known yet, or that the lookup failed; so do the others.
    pub fn addresses(&self, name: &str, like: IpAddr) -> Result<&[IpAddr], Stop> {
        self.addresses_of(name, Kind::of(like))
    }

    /// Addresses of a name, of one kind.
    ///
    /// # Errors
    /// As [`Known::addresses`].
    pub fn addresses_of(&self, name: &str, kind: Kind) -> Result<&[IpAddr], Stop> {
        let reply = self.ask(name, kind)?;
        Ok(if let Reply::Addresses(addresses) = reply { addresses } else { &[] })
    }

    /// Who takes the mail of a name.
    ///
    /// # Errors
    /// As [`Known::addresses`].
    pub fn exchanges(&self, name: &str) -> Result<&[String], Stop> {
        let reply = self.ask(name, Kind::Mx)?;
        Ok(if let Reply::Exchanges(names) = reply { names } else { &[] })
    }

    /// The names that a reverse name points to.
    ///
    /// # Errors
    /// As [`Known::addresses`].
    pub fn names(&self, name: &str) -> Result<&[String], Stop> {
        let reply = self.ask(name, Kind::Ptr)?;
        Ok(if let Reply::Names(names) = reply { names } else { &[] })
    }

    /// The texts of a name.
    ///
    /// # Errors
    /// As [`Known::addresses`].
    pub fn texts(&self, name: &str) -> Result<&[String], Stop> {
        let reply = self.ask(name, Kind::Txt)?;
        Ok(if let Reply::Texts(texts) = reply { texts } else { &[] })
    }

    /// Whether the resolver validated what it has of a name.
    ///
    /// # Errors
    /// As [`Known::addresses`].
    pub fn validated(&self, name: &str) -> Result<bool, Stop> {
        Ok(matches!(self.ask(name, Kind::Validated)?, Reply::Validated(true)))
    }
}
