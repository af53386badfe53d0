//! The fuse: a stream's mail from a source stops where too much of it comes back.
//!
//! Owns: what was delivered of each stream from each source in a sliding window, and which fuses are blown. Must not: isolate
//! a source (replies that are about the address do, `traffic::replied`), or move anything: a bad list of recipients must not
//! be poured through the next address, so what a blown fuse held is refused until somebody has looked.
//!
//! Three shares are looked at: bounces (permanent failures that are not about the address), blocks (replies that are), and
//! complaints. Each only with enough attempts: five bounces of ten say nothing. Too few attempts with enough failures are said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::EventKind;
use super::world::moved;
use crate::config::{Config, Fuse};
use crate::model::Delivered;
use crate::signal::reply::Class;

/// The window slides by as much.
const BUCKET: SignedDuration = SignedDuration::from_mins(10);

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Permanent failures.
    Bounces,
    /// Replies that the address is refused.
    Blocks,
    /// Complaints of recipients.
    Complaints,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bounces => "bounces",
            Self::Blocks => "blocks",
            Self::Complaints => "complaints",
        })
    }
}

/// Why a fuse is blown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blown {
    /// Of what there was too much.
    pub share: Share,
    /// How many.
    pub failed: u64,
    /// Of how many attempts.
    pub attempts: u64,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Blown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share, failed, attempts, .. } = self;
        let percent = Thousandths::of(*failed, *attempts);
        write!(f, "{failed} {share} of {attempts} attempts ({percent})")
    }
}

struct Thousandths(u64);

impl Thousandths {
    fn of(part: u64, all: u64) -> Self {
        Self(part.saturating_mul(1000).checked_div(all).unwrap_or(0))
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}

/// A stream, and a source by its address on this host.
type Pair = (String, IpAddr);

/// What became of a stream's messages from a source within a part of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages whose delivery was tried.
    pub attempts: u64,
    /// Those that came back, but for blocks.
    pub bounces: u64,
    /// Those that were refused for the address.
    pub blocks: u64,
    /// Complaints of recipients.
    pub complaints: u64,
}

/// The parts of the window in their order, and when each began, by stream and source (its address on this host). Cheap to clone.
pub type FuseWindows = BTreeMap<Pair, Arc<Vec<(Timestamp, Counts)>>>;

impl Counts {
    const fn of(&self, share: Share) -> u64 {
        match share {
            Share::Bounces => self.bounces,
            Share::Blocks => self.blocks,
            Share::Complaints => self.complaints,
        }
    }

    fn add(&mut self, one: &Delivered) {
        if one.complaint {
            self.complaints += 1;
            return;
        }
        self.attempts += 1;
        let about_it =
            matches!(one.judgement.class, Class::IsolateHere | Class::IsolateEverywhere | Class::EnrolFirst);
        self.blocks += u64::from(about_it);
        self.bounces += u64::from(one.permanent && !about_it);
    }
}

/// Every fuse.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fuses {
    windows: FuseWindows,
    blown: BTreeMap<Pair, Blown>,
    /// Said to be hot, until the window is cool again.
    said: BTreeMap<Pair, Share>,
}

impl Fuses {
    /// Counts what became of a message, and says what follows.
    pub(super) fn count(&mut self, one: &Delivered, config: &Config, now: Timestamp) -> Option<EventKind> {
        let pair = (one.stream.clone(), one.source);
        let fuse = &config.fuse;
        // Out of a log of another day.
        if now.duration_since(one.at) >= fuse.window {
            return None;
        }
        let window = Arc::make_mut(self.windows.entry(pair.clone()).or_default());
        window.retain(|(began, _)| counts_at(*began, fuse, now));
        match window.last_mut() {
            Some((began, counts)) if now.duration_since(*began) < BUCKET => counts.add(one),
            _ => {
                let mut counts = Counts::default();
                counts.add(one);
                window.push((now, counts));
            }
        }
        // What was kept on a disk may be anything.
        let sum = |part: fn(&Counts) -> u64| {
            window.iter().map(|(_, counts)| part(counts)).fold(0, u64::saturating_add)
        };
        let all = Counts {
            attempts: sum(|counts| counts.attempts),
            bounces: sum(|counts| counts.bounces),
            blocks: sum(|counts| counts.blocks),
            complaints: sum(|counts| counts.complaints),
        };
        self.look(pair, all, fuse, config, now)
    }

    fn look(
        &mut self,
        pair: Pair,
        all: Counts,
        fuse: &Fuse,
        config: &Config,
        now: Timestamp,
    ) -> Option<EventKind> {
        if self.blown.contains_key(&pair) {
            return None;
        }
        let limits = [
            (Share::Bounces, fuse.bounces),
            (Share::Blocks, fuse.blocks),
            (Share::Complaints, fuse.complaints),
        ];
        let source = name_of(config, pair.1);
        for (share, limit) in limits {
            let failed = all.of(share);
            let enough = all.attempts >= fuse.attempts;
            let millionths = failed.saturating_mul(1_000_000);
            if enough && millionths >= all.attempts.saturating_mul(u64::from(limit)) && failed > 0 {
                let blown = Blown { share, failed, attempts: all.attempts, since: now };
                let (stream, address) = pair.clone();
                self.said.remove(&pair);
                self.blown.insert(pair, blown.clone());
                return Some(EventKind::FuseBlown { stream, source, address, blown });
            }
            // As many as blow it at the least number of attempts.
            let hot = failed > 0 && millionths >= fuse.attempts.saturating_mul(u64::from(limit));
            if !enough && hot && !self.said.contains_key(&pair) {
                self.said.insert(pair.clone(), share);
                let (stream, address) = pair;
                let hot = Blown { share, failed, attempts: all.attempts, since: now };
                return Some(EventKind::FuseHot { stream, source, address, hot, least: fuse.attempts });
            }
        }
        None
    }

    /// Why a stream's mail from a source is refused.
    pub(super) fn blown(&self, stream: &str, source: IpAddr) -> Option<&Blown> {
        self.blown.get(&(stream.to_owned(), source))
    }

    /// Whether any fuse of a stream is blown.
    pub(super) fn any(&self, stream: &str) -> bool {
        self.blown.keys().any(|(of, _)| of == stream)
    }

    /// All that are blown.
    pub(super) const fn all(&self) -> &BTreeMap<Pair, Blown> {
        &self.blown
    }

    /// Somebody has looked: the source serves again, and is measured anew. False where no fuse of it was blown.
    pub(super) fn mend(&mut self, source: IpAddr) -> bool {
        let before = self.blown.len();
        self.blown.retain(|(_, of), _| *of != source);
        let mended = self.blown.len() < before;
        if mended {
            self.windows.retain(|(_, of), _| *of != source);
            self.said.retain(|(_, of), _| *of != source);
        }
        mended
    }

    /// Forgets what is no more.
    pub(super) fn pass_time(&mut self, config: &Config, now: Timestamp) {
        let is_source = |local: IpAddr| {
            config.pools.values().flat_map(|pool| &pool.sources).any(|source| source.local == local)
        };
        let known = |(stream, local): &Pair| {
            config.streams.iter().any(|one| one.name == *stream) && is_source(*local)
        };
        let counts = |(began, _): &(Timestamp, Counts)| counts_at(*began, &config.fuse, now);
        self.windows.retain(|pair, window| {
            if !window.iter().all(counts) {
                Arc::make_mut(window).retain(counts);
            }
            !window.is_empty() && known(pair)
        });
        self.said.retain(|pair, _| self.windows.contains_key(pair));
        self.blown.retain(|pair, _| known(pair));
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        let windows = self.windows.values_mut().flat_map(Arc::make_mut);
        windows.for_each(|(began, _)| *began = moved(*began, by));
        self.blown.values_mut().for_each(|blown| blown.since = moved(blown.since, by));
    }

    pub(super) const fn windows(&self) -> &FuseWindows {
        &self.windows
    }

    pub(super) fn restore_windows(&mut self, windows: FuseWindows) {
        self.windows = windows;
    }

    pub(super) fn kept(&self) -> Vec<(String, IpAddr, Blown)> {
        self.blown.iter().map(|((stream, source), blown)| (stream.clone(), *source, blown.clone())).collect()
    }

    pub(super) fn restore(&mut self, kept: Vec<(String, IpAddr, Blown)>) {
        self.blown = kept.into_iter().map(|(stream, source, blown)| ((stream, source), blown)).collect();
    }
}

/// Whether a part of a window counts. What lies ahead was kept by a clock that was wrong, and would count for ever.
fn counts_at(began: Timestamp, fuse: &Fuse, now: Timestamp) -> bool {
    let age = now.duration_since(began);
    age < fuse.window && age > -BUCKET
}

fn name_of(config: &Config, local: IpAddr) -> String {
    let mut sources = config.pools.values().flat_map(|pool| &pool.sources);
    sources
        .find(|source| source.local == local)
        .map_or_else(|| local.to_string(), |source| source.name.clone())
}
