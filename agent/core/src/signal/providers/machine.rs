//! Learning whose an address is: mail servers of domains, names out of logs, and what both lead to.
//!
//! Owns: what is asked when, and which addresses are whose. Must not: send anything, or know a clock; time and seed are
//! parameters.
//!
//! A name becomes known in two ways: the MX record of a domain that the operator (or the table) lists names it, or an MTA's log has
//! it as the next hop of a connection. Neither makes an address anybody's. The name is asked for, and the addresses that its own zone
//! answers are those of the group whose pattern it fits: who forges a log line or an MX record does not rule that zone. An address
//! that names of two groups lead to is nobody's. What the resolver does not answer changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::host::{Host, Judged, KEEP, later};
use super::kept::KeptHost;
use super::pattern::plain;
use super::query::{Answer, Claim, Learned, Named, Query, Standing, Wanted};
use crate::model::Family;

/// Names at most: a hoster's mail goes to as many customers' domains of one provider that names each of them.
const HOSTS: usize = 4096;
/// Addresses at most, over all names.
const ADDRESSES: usize = 16_384;
/// Questions that wait at most.
const WAITING: usize = 2 * HOSTS;
/// Questions that are under way at a time.
const AT_A_TIME: usize = 16;
/// The same name, or one that got no answer, is asked for again no sooner.
const AGAIN: SignedDuration = SignedDuration::from_mins(5);
/// A name that nobody uses any more is forgotten after this.
const FORGET: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Learner {
    wanted: Wanted,
    domains: BTreeMap<String, Timestamp>,
    hosts: BTreeMap<String, Host>,
    learned: Learned,
    waiting: VecDeque<Query>,
    /// What waits or is under way.
    asked: BTreeSet<Query>,
    under_way: BTreeSet<Query>,
    /// When the next question may be sent.
    next: Timestamp,
    standing: Standing,
    /// Addresses are others' than when that was last asked.
    changed: bool,
    seed: u64,
}

impl Learner {
    /// `kept`: what an earlier agent knew. `seed`: so that hosts do not ask in step.
    #[must_use]
    pub fn new(wanted: Wanted, kept: Vec<KeptHost>, (seed, now): (u64, Timestamp)) -> Self {
        let mut machine = Self {
            domains: wanted.domains.iter().map(|domain| (domain.clone(), now)).collect(),
            hosts: BTreeMap::new(),
            learned: Learned::new(),
            waiting: VecDeque::new(),
            asked: BTreeSet::new(),
            under_way: BTreeSet::new(),
            next: now,
            standing: Standing::default(),
            changed: true,
            wanted,
            seed,
        };
        let mut room = ADDRESSES;
        for mut one in kept.into_iter().take(HOSTS) {
            let Some(name) = plain(&one.host) else { continue };
            let Some((group, _)) = machine.wanted.groups.of(&name) else { continue };
            one.addresses.truncate(room);
            room -= one.addresses.len();
            let host = one.into_host(group, now);
            machine.hosts.insert(name, host);
        }
        machine.sum_up();
        machine
    }

    /// Something else is wanted: what is known of names that still belong to somebody stays.
    #[must_use]
    pub fn follow(self, wanted: Wanted, now: Timestamp) -> Self {
        let (kept, seed, standing) = (self.kept(), self.seed, self.standing);
        let mut machine = Self::new(wanted, kept, (seed, now));
        machine.standing =
            Standing { hosts: machine.standing.hosts, conflicts: machine.standing.conflicts, ..standing };
        machine
    }

    /// What is to outlive a restart.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptHost> {
        let known = self.hosts.iter().filter(|(_, host)| !host.addresses.is_empty());
        known.map(|(name, host)| KeptHost::of(name, host)).collect()
    }

    /// Whose which address is.
    #[must_use]
    pub const fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Whether addresses are others' than when this was last asked.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// How it goes.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// An MTA's log says which name an address was called by. It is asked for; nothing else follows.
    pub fn claim(&mut self, claim: &Claim, now: Timestamp) {
        let Some(name) = plain(&claim.host) else { return };
        let Some((group, _)) = self.wanted.groups.of(&name) else { return };
        let group = group.to_owned();
        if !self.hosts.contains_key(&name) && !self.make_room() {
            self.standing.left_out += 1;
            return;
        }
        let host = self.hosts.entry(name).or_insert_with(|| Host::new(&group, now));
        host.claimed(claim.address, AGAIN, now);
        self.standing.hosts = self.hosts.len();
    }

    /// Room for one more name: the one that was named longest ago goes, unless an MX record that is asked for names it.
    fn make_room(&mut self) -> bool {
        if self.hosts.len() < HOSTS {
            return true;
        }
        let from_logs = self.hosts.iter().filter(|(_, host)| host.listed.is_none());
        let Some(oldest) = from_logs.min_by_key(|(_, host)| host.named).map(|(name, _)| name.clone()) else {
            return false;
        };
        self.hosts.remove(&oldest);
        self.sum_up();
        true
    }

    /// Questions that are to be asked now.
    pub fn due(&mut self, now: Timestamp) -> Vec<Query> {
        self.begin(now);
        let mut queries = vec![];
        let per_minute = i32::try_from(self.wanted.pace.per_minute.max(1)).unwrap_or(i32::MAX);
        let between = SignedDuration::from_secs(60) / per_minute;
        while self.next <= now && self.under_way.len() < AT_A_TIME {
            let Some(query) = self.waiting.pop_front() else { break };
            // Unused budget of up to a second carries over; more would be a burst.
            let earliest = now.checked_sub(SignedDuration::from_secs(1)).unwrap_or(now);
            self.next = later(self.next.max(earliest), between);
            self.under_way.insert(query.clone());
            queries.push(query);
        }
        queries
    }

    fn begin(&mut self, now: Timestamp) {
        let interval = self.wanted.pace.interval;
        let domains: Vec<String> = due(&self.domains, |at| *at, now);
        for domain in domains {
            let at = later(now, interval - self.jitter(interval / 10));
            self.ask(Query::Mx(domain.clone()));
            self.domains.insert(domain, at);
        }
        for name in due(&self.hosts, |host: &Host| host.due, now) {
            let jitter = self.jitter(interval / 10);
            let Some(host) = self.hosts.get_mut(&name) else { continue };
            host.listed = host.listed.filter(|at| later(*at, KEEP) >= now);
            if later(host.named, FORGET) < now && self.standing.failures == 0 {
                self.hosts.remove(&name);
                self.sum_up();
                continue;
            }
            // One that no record names is renewed only as often as its addresses last.
            let wait = if host.listed.is_some() { interval } else { interval.max(KEEP / 4) };
            (host.asked, host.due) = (Some(now), later(now, wait - jitter));
            for family in Family::BOTH {
                self.ask(Query::Addresses(name.clone(), family));
            }
        }
    }

    fn ask(&mut self, query: Query) {
        if self.asked.contains(&query) {
            return;
        }
        if self.waiting.len() >= WAITING {
            self.standing.left_out += 1;
            return;
        }
        self.asked.insert(query.clone());
        self.waiting.push_back(query);
    }

    /// Takes an answer in.
    pub fn answered(&mut self, query: &Query, answer: &Answer, now: Timestamp) {
        if !self.under_way.remove(query) {
            return;
        }
        self.asked.remove(query);
        if let Answer::Failed(why) = answer {
            return self.failed(query, why, now);
        }
        (self.standing.failures, self.standing.why) = (0, None);
        match (query, answer) {
            (Query::Mx(_), Answer::Hosts(names)) => names.iter().for_each(|name| self.listed(name, now)),
            (Query::Addresses(name, family), Answer::Addresses(found)) => {
                self.heard(name, *family, found, now);
            }
            (Query::Addresses(name, family), _) => self.heard(name, *family, &[], now),
            (Query::Mx(_), _) => {}
        }
    }

    fn failed(&mut self, query: &Query, why: &str, now: Timestamp) {
        self.standing.failures = self.standing.failures.saturating_add(1);
        self.standing.why = Some(why.to_owned());
        let due = match query {
            Query::Mx(domain) => self.domains.get_mut(domain),
            Query::Addresses(name, _) => self.hosts.get_mut(name).map(|host| &mut host.due),
        };
        if let Some(due) = due {
            *due = (*due).min(later(now, AGAIN));
        }
    }

    /// An MX record that was asked for has this name.
    fn listed(&mut self, name: &str, now: Timestamp) {
        let Some(name) = plain(name) else { return };
        let Some((group, _)) = self.wanted.groups.of(&name) else { return };
        let group = group.to_owned();
        if !self.hosts.contains_key(&name) && !self.make_room() {
            self.standing.left_out += 1;
            return;
        }
        let host = self.hosts.entry(name).or_insert_with(|| Host::new(&group, now));
        if host.listed.is_none() {
            host.due = host.asked.map_or(now, |asked| later(asked, AGAIN)).min(host.due);
        }
        (host.listed, host.named) = (Some(now), now);
        self.standing.hosts = self.hosts.len();
    }

    fn heard(&mut self, name: &str, family: Family, found: &[IpAddr], now: Timestamp) {
        let held: usize = self.hosts.values().map(|host| host.addresses.len()).sum();
        let Some(host) = self.hosts.get_mut(name) else { return };
        let Judged { confirmed, refused, left_out, changed } =
            host.heard(family, found, ADDRESSES.saturating_sub(held), now);
        let is_of_use = !host.addresses.is_empty() || host.listed.is_some() || !host.sought.is_empty();
        let mut pending = Family::BOTH.map(|family| Query::Addresses(name.to_owned(), family)).into_iter();
        let is_pending = pending.any(|query| self.asked.contains(&query));
        if !is_of_use && !is_pending {
            // A name that leads nowhere: whoever makes such up takes no room.
            self.hosts.remove(name);
        }
        self.standing.confirmed += confirmed;
        self.standing.refused += refused;
        self.standing.left_out += left_out;
        self.standing.hosts = self.hosts.len();
        if changed {
            self.sum_up();
        }
    }

    /// Whose which address is, out of what is known of names.
    fn sum_up(&mut self) {
        let (mut learned, mut disputed) = (Learned::new(), BTreeSet::new());
        for (name, host) in &self.hosts {
            for address in host.addresses.keys() {
                let named = Named { provider: host.group.clone(), host: name.clone() };
                let first = learned.entry(*address).or_insert(named);
                if first.provider != host.group {
                    disputed.insert(*address);
                }
            }
        }
        learned.retain(|address, _| !disputed.contains(address));
        (self.standing.hosts, self.standing.conflicts) = (self.hosts.len(), disputed.len());
        self.changed |= learned != self.learned;
        self.learned = learned;
    }

    /// When to ask [`Self::due`] again; `None`: not before something is heard.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.waiting.is_empty() {
            return (self.under_way.len() < AT_A_TIME).then_some(self.next);
        }
        let hosts = self.hosts.values().map(|host| host.due);
        self.domains.values().copied().chain(hosts).min()
    }

    /// From 0 to below this.
    fn jitter(&mut self, within: SignedDuration) -> SignedDuration {
        // SplitMix64: spreads; nothing here has to be hard to guess.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let millis = u64::try_from(within.as_millis()).unwrap_or(0).max(1);
        SignedDuration::from_millis(i64::try_from((mixed ^ (mixed >> 31)) % millis).unwrap_or(0))
    }
}

fn due<T>(all: &BTreeMap<String, T>, at: impl Fn(&T) -> Timestamp, now: Timestamp) -> Vec<String> {
    all.iter().filter(|(_, one)| at(one) <= now).map(|(name, _)| name.clone()).collect()
}
