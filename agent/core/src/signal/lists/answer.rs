//! What a resolver's answer says of an address.

use std::net::{IpAddr, Ipv4Addr};

use super::table::{Action, List, Purpose};

/// What the resolver said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// There is no such name, or it has no address.
    NoSuchName,
    /// Nothing that says anything: SERVFAIL, REFUSED, a time-out, with the cause in words.
    Failed(String),
}

/// What it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Not on the list.
    Clean,
    /// On the list.
    Listed {
        /// The meanings of its codes, in one line.
        meaning: String,
        /// The strongest action of its codes.
        action: Action,
    },
    /// A score list's number.
    Score(u8),
    /// It says nothing, and why.
    Unknown(String),
}

impl List {
    /// What an answer of this list means.
    #[must_use]
    pub fn read(&self, answer: &Answer) -> Reading {
        let addresses = match answer {
            Answer::NoSuchName => return Reading::Clean,
            Answer::Failed(why) => return Reading::Unknown(format!("no answer: {why}")),
            Answer::Addresses(addresses) if addresses.is_empty() => return Reading::Clean,
            Answer::Addresses(addresses) => addresses,
        };
        let (mut meanings, mut strongest, mut score) = (vec![], None, None);
        for address in addresses {
            let IpAddr::V4(code) = address else {
                return Reading::Unknown(format!("{address} is no code of a list"));
            };
            if let Err(why) = is_code(*code) {
                return Reading::Unknown(why);
            }
            let Some((meaning, action)) = self.code(*code) else {
                return Reading::Unknown(format!("{code} is not in the table"));
            };
            if action == Action::Error {
                return Reading::Unknown(format!("{code}: {meaning}"));
            }
            if self.purpose == Purpose::Score {
                score = Some(code.octets()[3]);
            }
            meanings.push(meaning);
            strongest = strongest.max(Some(action));
        }
        if let Some(score) = score {
            return match score {
                0..=100 => Reading::Score(score),
                _ => Reading::Unknown(format!("{score} is no score: they end at 100")),
            };
        }
        meanings.sort_unstable();
        meanings.dedup();
        match strongest {
            None | Some(Action::Ignore | Action::Error) => Reading::Clean,
            Some(action) => Reading::Listed { meaning: meanings.join(", "), action },
        }
    }
}

/// RFC 5782 section 2.1: codes lie in 127.0.0.0/8, and 127.0.0.1 is none.
fn is_code(code: Ipv4Addr) -> Result<(), String> {
    if code.octets()[0] != 127 {
        return Err(format!(
            "{code} is no code of a list: the resolver, or a zone gone dead, answers anything"
        ));
    }
    if code == Ipv4Addr::LOCALHOST {
        return Err("127.0.0.1 is never a listing: the list refuses to answer this resolver".to_owned());
    }
    Ok(())
}
