//! Asking lists: rounds, test points, confirmation, clearing, and a budget of queries.
//!
//! Owns: what is asked when, and what is known of each list and each address on it. Must not: send anything, know a clock, or
//! isolate; time and seed are parameters, and what it finds are [`ListEvent`]s.
//!
//! A round asks one list: its test points first, and only when they are right the addresses. Every address's round comes once
//! an interval; a first listing has a round of its own 30 s later. So from a listing to its event it takes an interval and
//! 30 s, and what the answers take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::answer::{Answer, Reading};
use super::name::{query_name, test_name};
use super::query::{ListEvent, Pace, Query, Standing, What};
use super::table::{Action, List, Purpose};

/// A first listing is asked for again after this: a resolver's or a list's bad moment is over then.
const CONFIRM: SignedDuration = SignedDuration::from_secs(30);
/// Cycles without a listing that clear one.
const CLEAN: u32 = 3;
/// Rounds in which a list that was set aside has to pass its tests before it is believed again.
const GOOD: u32 = 2;
/// First rounds are spread over this, so that hosts which start together do not ask together.
const BEGIN: SignedDuration = SignedDuration::from_secs(5);
/// Queries that are under way at a time.
const AT_A_TIME: usize = 32;

#[derive(Clone, PartialEq, Debug)]
struct Round {
    list: String,
    confirms: bool,
    tests: BTreeMap<bool, Reading>,
    addresses: Vec<IpAddr>,
    left: usize,
    /// Some answer said nothing.
    unknown: bool,
}

/// What is known of an address that is on a list.
#[derive(Clone, Copy, PartialEq, Debug)]
struct OnList {
    action: Action,
    /// Cycles in a row in which it was not, or not for this any more.
    clean: u32,
}

#[derive(Clone, PartialEq, Debug)]
struct Asked {
    list: List,
    due: Timestamp,
    /// A round is under way.
    busy: bool,
    good: u32,
    said: Option<String>,
    standing: Standing,
}

/// The machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Lists {
    pace: Pace,
    asked: BTreeMap<String, Asked>,
    addresses: BTreeSet<IpAddr>,
    listed: BTreeMap<(String, IpAddr), OnList>,
    confirm: BTreeMap<(String, IpAddr), Timestamp>,
    rounds: BTreeMap<u64, Round>,
    last_round: u64,
    waiting: VecDeque<Query>,
    under_way: BTreeSet<Query>,
    /// When the next query may be sent.
    next: Timestamp,
    seed: u64,
}

impl Lists {
    /// `listed`: what is isolated because of which list, as far as is known from before. `seed`: so that hosts do not ask in step.
    #[must_use]
    pub fn new(
        lists: Vec<List>,
        addresses: BTreeSet<IpAddr>,
        listed: impl IntoIterator<Item = (String, IpAddr)>,
        pace: Pace,
        (seed, now): (u64, Timestamp),
    ) -> Self {
        let mut machine = Self {
            pace,
            asked: BTreeMap::new(),
            addresses,
            listed: listed
                .into_iter()
                .map(|pair| (pair, OnList { action: Action::Isolate, clean: 0 }))
                .collect(),
            confirm: BTreeMap::new(),
            rounds: BTreeMap::new(),
            last_round: 0,
            waiting: VecDeque::new(),
            under_way: BTreeSet::new(),
            next: now,
            seed,
        };
        for list in lists {
            let due = now.checked_add(machine.jitter(BEGIN)).unwrap_or(now);
            let state =
                Asked { due, busy: false, good: GOOD, said: None, standing: Standing::default(), list };
            machine.asked.insert(state.list.name.clone(), state);
        }
        machine
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

    /// Other addresses to look after.
    pub fn watch(&mut self, addresses: BTreeSet<IpAddr>) {
        self.listed.retain(|(_, address), _| addresses.contains(address));
        self.confirm.retain(|(_, address), _| addresses.contains(address));
        self.addresses = addresses;
    }

    /// What is known of each list.
    pub fn standings(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.asked.iter().map(|(name, asked)| (name.as_str(), &asked.standing))
    }

    /// Which addresses are on which list.
    pub fn listed(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.listed.keys().map(|(list, address)| (list.as_str(), *address))
    }

    /// Queries that are to be made now.
    pub fn due(&mut self, now: Timestamp) -> Vec<Query> {
        self.begin_rounds(now);
        let mut queries = vec![];
        let between =
            SignedDuration::from_secs(60) / i32::try_from(self.pace.per_minute.max(1)).unwrap_or(i32::MAX);
        while self.next <= now && self.under_way.len() < AT_A_TIME {
            let Some(query) = self.waiting.pop_front() else { break };
            // Unused budget of up to a second carries over; more would be a burst.
            let earliest = now.checked_sub(SignedDuration::from_secs(1)).unwrap_or(now);
            self.next = self.next.max(earliest).checked_add(between).unwrap_or(now);
            self.under_way.insert(query.clone());
            queries.push(query);
        }
        queries
    }

    fn begin_rounds(&mut self, now: Timestamp) {
        let due: Vec<String> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.due <= now && !asked.busy)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let addresses = self.addresses.iter().copied().collect();
            let jitter = self.jitter(self.pace.interval / 10);
            if let Some(asked) = self.asked.get_mut(&name) {
                asked.busy = true;
                // Earlier by up to a tenth, never later: so long a listing waits at most.
                asked.due = now.checked_add(self.pace.interval - jitter).unwrap_or(now);
            }
            self.begin(&name, addresses, false);
        }
        let confirm: Vec<(String, IpAddr)> =
            self.confirm.iter().filter(|(_, at)| **at <= now).map(|(pair, _)| pair.clone()).collect();
        for (name, address) in confirm {
            self.confirm.remove(&(name.clone(), address));
            self.begin(&name, vec![address], true);
        }
    }

    fn begin(&mut self, name: &str, addresses: Vec<IpAddr>, confirms: bool) {
        let Some(asked) = self.asked.get(name) else { return };
        let (list, tested) = (asked.list.clone(), asked.list.tested);
        self.last_round += 1;
        let number = self.last_round;
        let addresses: Vec<IpAddr> = addresses.into_iter().filter(|one| list.knows(*one)).collect();
        let round = Round {
            list: name.to_owned(),
            confirms,
            tests: BTreeMap::new(),
            addresses,
            left: 0,
            unknown: false,
        };
        self.rounds.insert(number, round);
        if !tested {
            return self.ask_addresses(number);
        }
        for listed in [true, false] {
            let name = test_name(listed, &list.zone);
            let query = Query {
                round: number,
                list: list.name.clone(),
                what: What::Test(listed),
                name,
                reason: false,
            };
            // A confirmation does not wait behind a round of a thousand.
            if confirms { self.waiting.push_front(query) } else { self.waiting.push_back(query) }
        }
    }

    fn ask_addresses(&mut self, number: u64) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        let Some(asked) = self.asked.get(&round.list) else { return };
        round.left = round.addresses.len();
        for address in &round.addresses {
            let name = query_name(*address, &asked.list.zone);
            let (list, what, reason) = (round.list.clone(), What::Address(*address), round.confirms);
            let query = Query { round: number, list, what, name, reason };
            if round.confirms { self.waiting.push_front(query) } else { self.waiting.push_back(query) }
        }
        if round.left == 0 {
            self.end(number);
        }
    }

    fn end(&mut self, number: u64) {
        let Some(round) = self.rounds.remove(&number) else { return };
        if let Some(asked) = self.asked.get_mut(&round.list)
            && !round.confirms
        {
            asked.busy = false;
            // Said again only after a round in which every answer said something.
            if !round.unknown {
                asked.said = None;
            }
        }
    }

    /// Takes an answer in, and says what it changed.
    pub fn answered(
        &mut self,
        query: &Query,
        answer: &Answer,
        reason: Option<String>,
        now: Timestamp,
    ) -> Vec<ListEvent> {
        if !self.under_way.remove(query) {
            return vec![];
        }
        let Some(asked) = self.asked.get_mut(&query.list) else { return vec![] };
        let reading = asked.list.read(answer);
        asked.standing.count(&reading);
        match query.what {
            What::Test(listed) => self.tested(query.round, listed, reading),
            What::Address(address) => {
                let events = self.read(query, address, reading, reason, now);
                if let Some(round) = self.rounds.get_mut(&query.round) {
                    round.left -= 1;
                    if round.left == 0 {
                        self.end(query.round);
                    }
                }
                events
            }
        }
    }

    fn tested(&mut self, number: u64, listed: bool, reading: Reading) -> Vec<ListEvent> {
        let Some(round) = self.rounds.get_mut(&number) else { return vec![] };
        round.tests.insert(listed, reading);
        let (Some(on), Some(off)) = (round.tests.get(&true), round.tests.get(&false)) else { return vec![] };
        let (name, wrong, confirms) = (round.list.clone(), wrong(on, off), round.confirms);
        let Some(asked) = self.asked.get_mut(&name) else { return vec![] };
        if let Some(why) = wrong {
            self.end(number);
            return self.set_aside(&name, why);
        }
        // Several confirmations within a minute are not several cycles.
        asked.good = asked.good.saturating_add(u32::from(!confirms));
        asked.standing.tested = true;
        let was_aside = asked.standing.aside.is_some();
        if was_aside && asked.good < GOOD {
            self.end(number);
            return vec![];
        }
        asked.standing.aside = None;
        self.ask_addresses(number);
        if was_aside { vec![ListEvent::Back { list: name }] } else { vec![] }
    }

    fn set_aside(&mut self, name: &str, why: String) -> Vec<ListEvent> {
        let Some(asked) = self.asked.get_mut(name) else { return vec![] };
        asked.good = 0;
        // One that fails now in this way and now in another is told once; `status` has the last one.
        if asked.standing.aside.replace(why.clone()).is_some() {
            return vec![];
        }
        vec![ListEvent::SetAside { list: name.to_owned(), why }]
    }

    fn read(
        &mut self,
        query: &Query,
        address: IpAddr,
        reading: Reading,
        reason: Option<String>,
        now: Timestamp,
    ) -> Vec<ListEvent> {
        let pair = (query.list.clone(), address);
        let Some(asked) = self.asked.get_mut(&query.list) else { return vec![] };
        // Taken out of the config while it was asked.
        if !self.addresses.contains(&address) {
            return vec![];
        }
        match reading {
            Reading::Unknown(why) => {
                if let Some(round) = self.rounds.get_mut(&query.round) {
                    round.unknown = true;
                }
                if asked.said.replace(why.clone()).as_ref() == Some(&why) {
                    return vec![];
                }
                vec![ListEvent::Unknown { list: query.list.clone(), why }]
            }
            Reading::Score(_) => vec![],
            Reading::Clean => self.clean(pair),
            // To be on an allow list is no reason for anything.
            Reading::Listed { .. } if asked.list.purpose != Purpose::Block => vec![],
            Reading::Listed { meaning, action } => {
                let known = self.listed.get_mut(&pair);
                match known {
                    Some(known) if known.action == action => {
                        known.clean = 0;
                        return vec![];
                    }
                    // What it was listed for before is gone, and something weaker is left.
                    Some(known) if known.action > action => {
                        let mut events = self.clean(pair.clone());
                        if !events.is_empty() {
                            events.push(self.put_on(pair, meaning, action, reason));
                        }
                        return events;
                    }
                    _ if !query.reason => {
                        self.confirm.entry(pair).or_insert_with(|| now.checked_add(CONFIRM).unwrap_or(now));
                        return vec![];
                    }
                    _ => {}
                }
                vec![self.put_on(pair, meaning, action, reason)]
            }
        }
    }

    fn put_on(
        &mut self,
        pair: (String, IpAddr),
        meaning: String,
        action: Action,
        reason: Option<String>,
    ) -> ListEvent {
        let (list, address) = pair.clone();
        self.listed.insert(pair, OnList { action, clean: 0 });
        ListEvent::Listed { list, address, meaning, action, reason }
    }

    /// A cycle in which an address was not on a list, or not for what it is known for.
    fn clean(&mut self, pair: (String, IpAddr)) -> Vec<ListEvent> {
        let Some(known) = self.listed.get_mut(&pair) else { return vec![] };
        known.clean += 1;
        if known.clean < CLEAN {
            return vec![];
        }
        self.listed.remove(&pair);
        let (list, address) = pair;
        vec![ListEvent::Cleared { list, address }]
    }

    /// When [`Lists::due`] has something to do next, as far as time alone decides.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let rounds = self.asked.values().filter(|asked| !asked.busy).map(|asked| asked.due);
        let room = self.under_way.len() < AT_A_TIME && !self.waiting.is_empty();
        rounds.chain(self.confirm.values().copied()).chain(room.then_some(self.next)).min()
    }
}

/// What is wrong with a list, by its test points.
fn wrong(on: &Reading, off: &Reading) -> Option<String> {
    match (on, off) {
        (Reading::Listed { .. } | Reading::Score(_), Reading::Clean) => None,
        // Where the list says why, that says more than the other.
        (Reading::Unknown(why), _) | (_, Reading::Unknown(why)) => Some(why.clone()),
        (Reading::Clean, _) => Some(
            "it does not list its test point 127.0.0.2: it is gone, or it does not answer this resolver"
                .to_owned(),
        ),
        (_, _) => Some("it lists everything, also its test point 127.0.0.1: it is probably gone".to_owned()),
    }
}
