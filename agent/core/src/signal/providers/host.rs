//! What is known of one mail server.
//!
//! Owns: its addresses, each with the time at which the name led there last, and when it is asked for again. Must not: know of
//! others. Only an answer takes an address away; silence of the resolver does not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::model::Family;

/// How long an address stays that the newest answers leave out: names of large providers lead to a few of many addresses at a time,
/// and which they are changes within minutes.
pub(super) const KEEP: SignedDuration = SignedDuration::from_hours(48);
/// Claims that wait for an answer, of one name.
const SOUGHT: usize = 64;

/// A mail server.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Host {
    pub(super) group: String,
    /// An MX record that was asked for names it, as of then.
    pub(super) listed: Option<Timestamp>,
    /// When anybody named it last.
    pub(super) named: Timestamp,
    pub(super) due: Timestamp,
    pub(super) asked: Option<Timestamp>,
    /// When the name led there last.
    pub(super) addresses: BTreeMap<IpAddr, Timestamp>,
    /// Addresses beside which it stands in a log, and of which nothing was heard yet.
    pub(super) sought: BTreeSet<IpAddr>,
}

/// What an answer did to claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Judged {
    pub(super) confirmed: u64,
    pub(super) refused: u64,
    pub(super) left_out: u64,
    /// The addresses are others now.
    pub(super) changed: bool,
}

impl Host {
    pub(super) fn new(group: &str, now: Timestamp) -> Self {
        Self {
            group: group.to_owned(),
            listed: None,
            named: now,
            due: now,
            asked: None,
            addresses: BTreeMap::new(),
            sought: BTreeSet::new(),
        }
    }

    /// A log has it beside this address.
    pub(super) fn claimed(&mut self, address: IpAddr, again: SignedDuration, now: Timestamp) {
        self.named = now;
        if self.addresses.contains_key(&address) || self.sought.len() >= SOUGHT {
            return;
        }
        self.sought.insert(address);
        let earliest = self.asked.map_or(now, |asked| later(asked, again));
        self.due = self.due.min(earliest.max(now));
    }

    /// Its addresses of a family, as the resolver has them now; `room`: for so many more.
    pub(super) fn heard(&mut self, family: Family, found: &[IpAddr], room: usize, now: Timestamp) -> Judged {
        let mut judged = Judged::default();
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        let mut room = room;
        for address in found.iter().copied().filter(|address| of_family(address) && may_receive(*address)) {
            let is_new = !self.addresses.contains_key(&address);
            if is_new && room == 0 {
                judged.left_out += 1;
                continue;
            }
            room -= usize::from(is_new);
            judged.changed |= is_new;
            self.addresses.insert(address, now);
        }
        let before = self.addresses.len();
        self.addresses.retain(|address, seen| !of_family(address) || later(*seen, KEEP) >= now);
        judged.changed |= self.addresses.len() != before;
        let answered: Vec<IpAddr> = self.sought.iter().copied().filter(of_family).collect();
        for address in answered {
            self.sought.remove(&address);
            if found.contains(&address) { judged.confirmed += 1 } else { judged.refused += 1 }
        }
        judged
    }
}

/// Nobody's mail server is there, whatever a name says.
fn may_receive(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
