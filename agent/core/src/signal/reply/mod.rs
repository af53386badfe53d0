//! What a receiver's reply says of the address that it was said to.
//!
//! Owns: the reading of a reply, its class, and the table of rules. Must not: know what follows from a class, or hold a
//! rule in code: they are data (`config/replies.toml`), each with its source, and the operator may replace them.
//!
//! A rule speaks first; where none fits, the enhanced status code does (RFC 3463), as far as it says anything of an address;
//! else the reply is unknown. What is said of content, domain, authentication or recipient is never the address's fault
//! (invariant 5), so those rules stand first in the table.

mod rfc3463;
mod table;
mod text;

use std::fmt;

use serde::Serialize;

pub use table::{DEFAULT, ReplyTable, TableChecked};
pub use text::{Enhanced, Phase, Reply};

/// What a reply asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The receiver took it.
    Accepted,
    /// The address is refused by this receiver's provider.
    IsolateHere,
    /// The address is on a list that many receivers use.
    IsolateEverywhere,
    /// Too much at once, in the receiver's eyes.
    SlowDown,
    /// The provider wants to know an address before it takes mail from it.
    EnrolFirst,
    /// It would have been said to any address.
    NotTheAddress,
    /// Nothing that says anything of the address.
    Unknown,
}

impl Class {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::IsolateHere,
        Self::IsolateEverywhere,
        Self::SlowDown,
        Self::EnrolFirst,
        Self::NotTheAddress,
        Self::Unknown,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::IsolateHere => "isolate-here",
            Self::IsolateEverywhere => "isolate-everywhere",
            Self::SlowDown => "slow-down",
            Self::EnrolFirst => "enrol-first",
            Self::NotTheAddress => "not-the-address",
            Self::Unknown => "unknown",
        })
    }
}

/// Whose fault it is where it is not the address's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The message: spam, size, form, links in it.
    Content,
    /// A domain: that of the sender, of EHLO, or one in the message.
    Domain,
    /// SPF, DKIM, DMARC, or a login that is wanted.
    Authentication,
    /// The recipient: unknown, full, closed, or not served there.
    Recipient,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "content",
            Self::Domain => "domain",
            Self::Authentication => "authentication",
            Self::Recipient => "recipient",
        })
    }
}

/// What was made of a reply, and by what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Judgement {
    /// What it asks for.
    pub class: Class,
    /// Whose fault it is; only with [`Class::NotTheAddress`].
    pub cause: Option<Cause>,
    /// The rule's name in the table; `rfc3463` or `rfc5321` where the code alone spoke; `none` where nothing did,
    /// and `no-reply` where there was no reply.
    pub rule: String,
    /// Whose replies the rule is for: a provider, or `any`.
    pub scope: String,
}

impl Judgement {
    /// Of a text that no receiver said.
    #[must_use]
    pub fn of_no_reply() -> Self {
        Self::by_code(Class::Unknown, None, "no-reply")
    }

    /// By the code alone.
    fn by_code(class: Class, cause: Option<Cause>, rule: &str) -> Self {
        Self { class, cause, rule: rule.to_owned(), scope: "any".to_owned() }
    }
}
