//! What receivers' replies to mail say of a source.
//!
//! Owns: how many replies of which class make a verdict. Must not: judge a reply, or count bounces (`fuse` does). What is not about
//! the address does nothing here (invariant 5).
//!
//! One reply is one receiver's mood. Three about the address within ten minutes, and at least half of all there, isolate it at
//! that provider; three that name a list which many use, from as many receivers, isolate it everywhere. Three that ask to
//! slow down take nine tenths of its share there; three more while it is slowed isolate it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::{EVERYWHERE, Failure, Pair, State, Traffic, Verdict, changed};
use crate::config::Config;
use crate::decide::EventKind;
use crate::decide::world::moved;
use crate::model::Delivered;
use crate::signal::reply::Class;

/// How far back replies are looked at.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Replies that are kept of a source at a provider.
const KEPT: usize = 256;

#[derive(Clone, PartialEq, Debug)]
struct Said {
    at: Timestamp,
    destination: IpAddr,
    class: Class,
    words: String,
    rule: String,
}

/// Replies of the last minutes.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Replies(BTreeMap<Pair, VecDeque<Said>>);

impl Replies {
    fn take(&mut self, pair: &Pair, one: &Delivered, now: Timestamp) {
        let said = self.0.entry(pair.clone()).or_default();
        said.retain(|other| now.duration_since(other.at) < WINDOW);
        if said.len() >= KEPT {
            said.pop_front();
        }
        said.push_back(Said {
            at: now,
            destination: one.destination,
            class: one.judgement.class,
            words: one.reply.clone(),
            rule: one.judgement.rule.clone(),
        });
    }

    fn of(&self, pair: &Pair, is_it: impl Fn(Class) -> bool) -> Vec<&Said> {
        self.0.get(pair).into_iter().flatten().filter(|said| is_it(said.class)).collect()
    }

    /// A verdict was drawn from them.
    pub(super) fn forget(&mut self, pair: &Pair) {
        if pair.1 == EVERYWHERE {
            self.0.retain(|(source, _), _| *source != pair.0);
        } else {
            self.0.remove(pair);
        }
    }

    pub(super) fn pass_time(&mut self, now: Timestamp) {
        self.0.retain(|_, said| {
            said.retain(|other| now.duration_since(other.at) < WINDOW);
            !said.is_empty()
        });
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        self.0.values_mut().flatten().for_each(|said| said.at = moved(said.at, by));
    }
}

impl Said {
    fn failure(&self) -> Failure {
        Failure::Replied {
            words: self.words.clone(),
            rule: self.rule.clone(),
            slow: self.class == Class::SlowDown,
        }
    }
}

const fn is_block(class: Class) -> bool {
    matches!(class, Class::IsolateHere | Class::IsolateEverywhere | Class::EnrolFirst)
}

impl Traffic {
    /// Takes in what a receiver said to a message.
    pub(in crate::decide) fn replied(
        &mut self,
        one: &Delivered,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        // Out of a log of another day: what was true then is no evidence now.
        if now.duration_since(one.at) >= WINDOW {
            return;
        }
        let pair = (one.source, one.provider.clone());
        self.replies.take(&pair, one, now);
        match one.judgement.class {
            class if is_block(class) => self.blocked(&pair, config, now, events),
            Class::SlowDown => self.slowed(&pair, config, now, events),
            _ => {}
        }
    }

    fn blocked(&mut self, pair: &Pair, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        let enough = config.safety.failures as usize;
        let everywhere = (pair.0, EVERYWHERE.to_owned());
        let named: Vec<&Said> = self
            .replies
            .0
            .iter()
            .filter(|((source, _), _)| *source == pair.0)
            .flat_map(|(_, said)| said)
            .filter(|said| said.class == Class::IsolateEverywhere)
            .collect();
        let receivers: BTreeSet<IpAddr> = named.iter().map(|said| said.destination).collect();
        if receivers.len() >= enough
            && let Some(cause) = named.last().map(|said| said.failure())
        {
            return self.isolate_replied(&everywhere, cause, config, now, events);
        }
        let (about, all) = (self.replies.of(pair, is_block), self.replies.of(pair, |_| true).len());
        if about.len() >= enough
            && about.len() * 2 >= all
            && let Some(cause) = about.last().map(|said| said.failure())
        {
            self.isolate_replied(pair, cause, config, now, events);
        }
    }

    fn slowed(&mut self, pair: &Pair, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        let slow = self.replies.of(pair, |class| class == Class::SlowDown);
        let Some(cause) = slow.last().map(|said| said.failure()) else { return };
        if slow.len() < config.safety.failures as usize {
            return;
        }
        let known = self.verdicts.get(pair).map(|known| &known.state);
        match known {
            Some(State::Isolated { .. }) => {}
            Some(State::Probation { .. }) => self.isolate_replied(pair, cause, config, now, events),
            _ => {
                let verdict = self.verdicts.entry(pair.clone()).or_insert_with(|| Verdict::healthy(now));
                let from = verdict.state.name().to_owned();
                verdict.slow_down(cause, now);
                let state = verdict.state.clone();
                self.replies.forget(pair);
                events.push(changed(config, pair, from, state, None));
            }
        }
    }

    fn isolate_replied(
        &mut self,
        pair: &Pair,
        cause: Failure,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        let isolated = |pair: &Pair| {
            self.verdicts.get(pair).is_some_and(|known| matches!(known.state, State::Isolated { .. }))
        };
        if isolated(pair) || isolated(&(pair.0, EVERYWHERE.to_owned())) {
            return;
        }
        self.isolate(pair, cause, None, config, now, events);
        self.isolate_network(pair, config, now, events);
    }
}
