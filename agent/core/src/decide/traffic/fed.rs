//! What feeds say of sources, and the returns that they hold.
//!
//! Owns: the last reading of each address, and that an isolated source does not begin its way back while a feed's word is bad and
//! fresh enough. Must not: isolate anybody: a feed is late by days, so its word is never a reason to move anything. What a feed
//! does not say, or what cannot be fetched, changes nothing: the last reading stands until it is too old.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::{Pair, State, Traffic, name_of};
use crate::config::{Config, Feed};
use crate::decide::EventKind;
use crate::signal::feeds::{FeedEvent, Opinion, Reading};

/// A return that is held is looked at again after this, should no feed say anything meanwhile.
const AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// The last readings, and whom they hold back.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fed {
    /// By feed and public address.
    readings: BTreeMap<(String, IpAddr), Reading>,
    /// Isolations whose time was over, and that a reading holds.
    held: BTreeSet<Pair>,
}

impl Fed {
    pub(super) fn restored(kept: Vec<(String, Reading)>) -> Self {
        let entry = |(feed, reading): (String, Reading)| ((feed, reading.address), reading);
        Self { readings: kept.into_iter().map(entry).collect(), held: BTreeSet::new() }
    }

    pub(super) fn kept(&self) -> Vec<(String, Reading)> {
        self.readings.iter().map(|((feed, _), reading)| (feed.clone(), reading.clone())).collect()
    }

    /// Feeds and addresses that the config has no more, and what is too old.
    fn forget(&mut self, config: &Config, now: Timestamp) {
        self.readings.retain(|(name, address), reading| {
            let feed = config.feeds.iter().find(|feed| feed.name == *name);
            feed.is_some_and(|feed| ends(feed, reading) > now) && locals(config, *address).next().is_some()
        });
    }

    /// Who says that a source should not come back yet, in which words, and until when that counts at the latest.
    fn gate(
        &self,
        config: &Config,
        (local, provider): &Pair,
        now: Timestamp,
    ) -> Option<(String, String, Timestamp)> {
        let mut sources = config.pools.values().flat_map(|pool| &pool.sources);
        let public = sources.find(|source| source.local == *local)?.public;
        config.feeds.iter().find_map(|feed| {
            let reading = self.readings.get(&(feed.name.clone(), public))?;
            let concerns = feed.provider.as_ref().is_none_or(|own| own == provider);
            let end = ends(feed, reading);
            let holds = concerns && reading.opinion == Opinion::Bad && end > now;
            holds.then(|| (feed.name.clone(), reading.words.clone(), end))
        })
    }
}

/// When a reading is too old to count.
fn ends(feed: &Feed, reading: &Reading) -> Timestamp {
    reading.at.checked_add(feed.max_age).unwrap_or(Timestamp::MAX)
}

fn locals(config: &Config, public: IpAddr) -> impl Iterator<Item = IpAddr> {
    let sources = config.pools.values().flat_map(|pool| &pool.sources);
    sources.filter(move |source| source.public == public).map(|source| source.local)
}

impl Traffic {
    /// Takes in what feeds said.
    pub(in crate::decide) fn feeds_say(
        &mut self,
        said: &[FeedEvent],
        config: &Config,
        now: Timestamp,
    ) -> Vec<EventKind> {
        let mut events = vec![];
        for one in said {
            match one {
                FeedEvent::Read { feed, readings } => {
                    let Some(feed) = config.feeds.iter().find(|known| known.name == *feed) else { continue };
                    for reading in readings {
                        self.feed_says(feed, reading, config, now, &mut events);
                    }
                }
                FeedEvent::Failed { feed, why } => {
                    events.push(EventKind::FeedFailed { feed: feed.clone(), why: why.clone() });
                }
                FeedEvent::Back { feed } => events.push(EventKind::FeedBack { feed: feed.clone() }),
            }
        }
        events
    }

    fn feed_says(
        &mut self,
        feed: &Feed,
        reading: &Reading,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        // Nothing tells of tomorrow, and what does would hold for ever.
        let reading = Reading { at: reading.at.min(now), ..reading.clone() };
        let Some(local) = locals(config, reading.address).next() else { return };
        if ends(feed, &reading) <= now {
            return;
        }
        let (source, address, name) = (name_of(config, local), reading.address, feed.name.clone());
        let before = self.fed.readings.insert((name.clone(), address), reading.clone());
        let was_bad = before.is_some_and(|before| before.opinion == Opinion::Bad);
        match (was_bad, reading.opinion == Opinion::Bad) {
            (false, true) => {
                let (words, of) = (reading.words, reading.at);
                events.push(EventKind::FeedBad { feed: name, source, address, words, of });
            }
            (true, false) => {
                let words = reading.words;
                events.push(EventKind::FeedBetter { feed: name, source, address, words });
                self.look_at_held(&locals(config, address).collect::<Vec<_>>(), now);
            }
            _ => {}
        }
    }

    /// Those whose return was held may come back now, unless another feed holds them.
    fn look_at_held(&mut self, locals: &[IpAddr], now: Timestamp) {
        for pair in self.fed.held.iter().filter(|(local, _)| locals.contains(local)) {
            if let Some(State::Isolated { until, .. }) =
                self.verdicts.get_mut(pair).map(|known| &mut known.state)
            {
                *until = (*until).min(now);
            }
        }
    }

    /// What nobody asks any more, and what is too old, holds nobody.
    pub(super) fn forget_feeds(&mut self, config: &Config, now: Timestamp) {
        self.fed.forget(config, now);
        let isolated = |pair: &Pair| {
            self.verdicts.get(pair).is_some_and(|known| matches!(known.state, State::Isolated { .. }))
        };
        self.fed.held.retain(isolated);
    }

    /// A source whose isolation is over stays isolated while a feed's word is bad.
    pub(super) fn hold_return(
        &mut self,
        pair: &Pair,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        let Some(State::Isolated { until, .. }) = self.verdicts.get_mut(pair).map(|known| &mut known.state)
        else {
            return;
        };
        if *until > now {
            return;
        }
        let Some((feed, words, end)) = self.fed.gate(config, pair, now) else { return };
        *until = now.checked_add(AGAIN).unwrap_or(end).min(end);
        let event = EventKind::ReturnHeld {
            source: name_of(config, pair.0),
            address: pair.0,
            provider: pair.1.clone(),
            feed,
            words,
            until: end,
        };
        if self.fed.held.insert(pair.clone()) {
            events.push(event);
        }
    }

    /// Every reading with its feed.
    pub(in crate::decide) fn feed_readings(&self) -> impl Iterator<Item = (&str, &Reading)> {
        self.fed.readings.iter().map(|((feed, _), reading)| (feed.as_str(), reading))
    }
}
