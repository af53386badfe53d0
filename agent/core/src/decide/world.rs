//! The world as it is believed to be: the config, the facts, what the operator said, and the numbers given out.
//!
//! Owns: [`World::apply`], the only way in which it changes. Must not: decide what follows; that is
//! [`desired`](super::desired).

mod asked;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::flaps::Flaps;
use super::fuse::Fuses;
use super::operator::Operator;
use super::preflight::Preflight;
use super::receivers::Receivers;
use super::traffic::Traffic;
use super::{
    Bypass, Command, Event, EventKind, Hold, Ids, OperatorError, Reason, Suspension, sources, uplinks,
};
use crate::config::{Config, Ebpf, PoolSource};
use crate::model::{Delivered, Host, LaneId, Sign, Signal, SourceId};
use crate::signal::dns::DnsEvent;
use crate::signal::feeds::FeedEvent;
use crate::signal::lists::ListEvent;
use crate::signal::port25::Try;
use crate::signal::providers::Learned;

/// How long connections of a pool wait for an address that is on its way, before they are refused: duplicate address
/// detection takes 1 to 2 s (RFC 4862 section 5.4), and a SYN sent again by 7 s still finds a patient client.
const PATIENCE: SignedDuration = SignedDuration::from_secs(8);

/// Something that was learned.
#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// The host's links, addresses and routes.
    Host(Host),
    /// A config that passed its checks.
    Config(Box<Config>),
    /// The kernel has no place for the eBPF guard, until the agent ends.
    NoGuard,
    /// What an earlier agent left: in the pinned maps, or in the table where there is no guard.
    Restored {
        /// Source ids.
        sources: BTreeMap<SourceId, IpAddr>,
        /// Lane ids.
        lanes: BTreeMap<LaneId, (String, String)>,
    },
    /// The clock was set while time went on: ahead by this, or back where it is negative.
    ClockJumped {
        /// By how much.
        by: SignedDuration,
    },
    /// What connections met, in the order in which it was seen.
    Traffic(Vec<Signal>),
    /// A probe that was wanted is being made.
    Probing {
        /// From which source: its address on this host.
        source: IpAddr,
        /// At which provider.
        provider: String,
    },
    /// What became of messages.
    Delivered(Vec<Delivered>),
    /// What DNS lists said of public addresses.
    Lists(Vec<ListEvent>),
    /// A round of tries that was wanted is being made.
    Trying {
        /// From which source: its address on this host.
        source: IpAddr,
    },
    /// What a round of tries met.
    Tried {
        /// From which source: its address on this host.
        source: IpAddr,
        /// Each receiver that was tried.
        tries: Vec<Try>,
    },
    /// What the DNS says of public addresses and domains, where that changed.
    Dns(Vec<DnsEvent>),
    /// Whose addresses are by name, all that is known of it.
    Receivers(Arc<Learned>),
    /// What feeds said of public addresses.
    Feeds(Vec<FeedEvent>),
    /// Time has passed.
    Tick,
}

/// The world as it is believed to be.
#[derive(Clone, PartialEq, Debug)]
pub struct World {
    pub(super) config: Config,
    /// Whether there is an eBPF guard.
    pub(super) guard: bool,
    pub(super) host: Option<Host>,
    pub(super) operator: Operator,
    pub(super) traffic: Traffic,
    pub(super) flaps: Flaps,
    pub(super) preflight: Preflight,
    pub(super) fuses: Fuses,
    pub(super) receivers: Receivers,
    pub(super) ids: Ids,
    /// Since when a wanted address has been on its way.
    pub(super) awaited: BTreeMap<IpAddr, Timestamp>,
    standings: BTreeMap<IpAddr, Option<Reason>>,
}

impl World {
    /// A world of which nothing is known but the config.
    #[must_use]
    pub fn new(config: Config, now: Timestamp) -> Self {
        let mut world = Self {
            guard: config.ebpf != Ebpf::Off,
            config,
            host: None,
            operator: Operator::default(),
            traffic: Traffic::default(),
            flaps: Flaps::default(),
            preflight: Preflight::default(),
            fuses: Fuses::default(),
            receivers: Receivers::default(),
            ids: Ids::default(),
            awaited: BTreeMap::new(),
            standings: BTreeMap::new(),
        };
        world.receivers.follow(&world.config);
        world.assign_ids(now);
        world
    }

    /// Takes an observation in and says what it changed.
    pub fn apply(&mut self, observation: Observation, now: Timestamp) -> Vec<Event> {
        if let Observation::ClockJumped { by } = observation {
            self.follow_clock(by);
        }
        // It comes many times a second, and touches nothing that standings rest on.
        if let Observation::Traffic(signals) = observation {
            self.note_worked(&signals);
            return stamped(self.traffic.take(&signals, &self.config, now), now);
        }
        // The same, where an MTA's hook reports each message.
        if let Observation::Delivered(all) = observation {
            return stamped(self.delivered(&all, now), now);
        }
        let mut kinds = self.operator.expire(now, &self.names());
        match observation {
            Observation::Host(host) => self.host = Some(host),
            Observation::Config(config) => {
                let before = self.local_addresses();
                self.config = *config;
                self.receivers.follow(&self.config);
                // A source that the operator adds is to serve, also while nothing changes by itself.
                let added: Vec<IpAddr> = self.local_addresses().difference(&before).copied().collect();
                if let Some(hold) = &mut self.operator.hold {
                    hold.serving.extend(added);
                }
                kinds.push(EventKind::ConfigLoaded {
                    streams: self.config.streams.len(),
                    sources: self.local_addresses().len(),
                });
            }
            Observation::Restored { sources, lanes } => self.ids.restore(&sources, &lanes, now),
            Observation::ClockJumped { by } => kinds.push(EventKind::ClockJumped { by }),
            Observation::NoGuard => self.guard = false,
            Observation::Probing { source, provider } => self.traffic.probing(source, &provider, now),
            Observation::Trying { source } => self.preflight.begin(source, now),
            Observation::Tried { source, tries } => kinds.extend(self.tried(source, &tries, now)),
            Observation::Receivers(learned) => self.receivers.tell(learned, &self.config),
            Observation::Lists(said) => kinds.extend(self.traffic.lists_say(&said, &self.config, now)),
            Observation::Dns(said) => kinds.extend(self.traffic.dns_says(said, &self.config)),
            Observation::Feeds(said) => kinds.extend(self.traffic.feeds_say(&said, &self.config, now)),
            Observation::Tick | Observation::Traffic(_) | Observation::Delivered(_) => {}
        }
        self.settle(now, &mut kinds);
        stamped(kinds, now)
    }

    /// Every time that is waited for lies as far ahead by the new clock as it did by the old one.
    fn follow_clock(&mut self, by: SignedDuration) {
        self.operator.follow_clock(by);
        self.traffic.follow_clock(by);
        self.flaps.follow_clock(by);
        self.preflight.follow_clock(by);
        self.fuses.follow_clock(by);
        self.ids.follow_clock(by);
        self.awaited.values_mut().for_each(|since| *since = moved(*since, by));
    }

    /// A connection that stood shows more than any try.
    fn note_worked(&mut self, signals: &[Signal]) {
        let stood = signals.iter().filter(|signal| signal.sign == Sign::Established);
        stood.for_each(|signal| self.preflight.worked(signal.source));
    }

    fn tried(&mut self, local: IpAddr, tries: &[Try], now: Timestamp) -> Option<EventKind> {
        let source = self.pool_sources().find(|source| source.local == local)?.clone();
        self.preflight.shown(&source, tries, now)
    }

    /// Why a source that could serve by the facts waits.
    pub(super) fn waits(&self, local: IpAddr) -> Option<Reason> {
        self.flaps.holds(local).or_else(|| self.preflight.holds(local))
    }

    /// What became of messages: streams and sources that the config has.
    fn delivered(&mut self, all: &[Delivered], now: Timestamp) -> Vec<EventKind> {
        let mut kinds = vec![];
        for one in all {
            kinds.extend(self.fuses.count(one, &self.config, now));
            if !one.complaint {
                self.traffic.replied(one, &self.config, now, &mut kinds);
            }
        }
        kinds
    }

    /// Carries out what the operator said, or says why not.
    ///
    /// # Errors
    /// [`OperatorError`] where the name is unknown or there is nothing to undo; nothing has changed then.
    pub fn command(&mut self, command: Command, now: Timestamp) -> Result<Vec<Event>, OperatorError> {
        let mut kinds = self.operator.expire(now, &self.names());
        kinds.push(self.obey(command, now)?);
        self.settle(now, &mut kinds);
        Ok(stamped(kinds, now))
    }

    fn obey(&mut self, command: Command, now: Timestamp) -> Result<EventKind, OperatorError> {
        match command {
            Command::Suspend { source, until, reason } => {
                let (name, address) = self.find_source(&source)?;
                if until.is_some_and(|until| until <= now) {
                    return Err(OperatorError::Past);
                }
                let suspension = Suspension { reason: reason.clone(), since: now, until };
                self.operator.suspended.insert(address, suspension);
                Ok(EventKind::Suspended { source: name, address, why: reason, until })
            }
            Command::Resume { source, reason } => {
                let (name, address) = self.find_source(&source)?;
                let removed = self.operator.suspended.remove(&address);
                let locals: Vec<IpAddr> =
                    self.pool_sources().filter(|source| source.public == address).map(|s| s.local).collect();
                let released = locals.iter().filter(|local| self.traffic.release(**local)).count();
                let tried = locals.iter().filter(|local| self.preflight.release(**local, now)).count();
                let mended = locals.iter().filter(|local| self.fuses.mend(**local)).count();
                if removed.is_none() && released + mended + tried == 0 {
                    return Err(OperatorError::NotSuspended { source_name: name });
                }
                if let Some(hold) = &mut self.operator.hold {
                    hold.serving.extend(locals);
                }
                Ok(EventKind::Resumed { source: name, address, why: reason })
            }
            Command::Hold { until, reason } => {
                if until.is_some_and(|until| until <= now) {
                    return Err(OperatorError::Past);
                }
                // Said again it changes the words and the end, and not who serves.
                let serving = match self.operator.hold.take() {
                    Some(hold) => hold.serving,
                    None => self.serving(),
                };
                self.operator.hold = Some(Hold { reason: reason.clone(), since: now, until, serving });
                Ok(EventKind::HoldStarted { why: reason, until })
            }
            Command::EndHold { reason } => {
                self.operator.hold.take().ok_or(OperatorError::NotHeld)?;
                Ok(EventKind::HoldEnded { why: reason })
            }
            Command::Bypass { stream, until, reason } => {
                self.find_stream(&stream)?;
                if until <= now {
                    return Err(OperatorError::Past);
                }
                let bypass = Bypass { reason: reason.clone(), since: now, until };
                self.operator.bypassed.insert(stream.clone(), bypass);
                Ok(EventKind::BypassStarted { stream, why: reason, until })
            }
            Command::EndBypass { stream, reason } => {
                self.find_stream(&stream)?;
                let removed = self.operator.bypassed.remove(&stream);
                removed.ok_or_else(|| OperatorError::NotBypassed { stream: stream.clone() })?;
                Ok(EventKind::BypassEnded { stream, why: reason })
            }
        }
    }

    /// Local addresses that can serve now.
    fn serving(&self) -> BTreeSet<IpAddr> {
        let well = self.standings.iter().filter(|(_, standing)| standing.is_none());
        well.map(|(address, _)| *address).collect()
    }

    fn find_source(&self, asked: &str) -> Result<(String, IpAddr), OperatorError> {
        let address = asked.parse::<IpAddr>().ok();
        let is_it = |source: &&PoolSource| {
            source.name == asked || address.is_some_and(|it| source.public == it || source.local == it)
        };
        let found = self.pool_sources().find(is_it);
        found
            .map(|source| (source.name.clone(), source.public))
            .ok_or_else(|| OperatorError::UnknownSource { name: asked.to_owned() })
    }

    fn find_stream(&self, name: &str) -> Result<(), OperatorError> {
        let known = self.config.streams.iter().any(|stream| stream.name == name);
        if known { Ok(()) } else { Err(OperatorError::UnknownStream { name: name.to_owned() }) }
    }

    /// Brings what follows from the observations up to date.
    fn settle(&mut self, now: Timestamp, kinds: &mut Vec<EventKind>) {
        self.assign_ids(now);
        kinds.extend(self.traffic.pass_time(&self.config, now));
        self.fuses.pass_time(&self.config, now);
        self.preflight.know(&self.config, now);
        self.preflight.pass_time(now);
        let Some(host) = self.host.clone() else { return };
        let ways = uplinks::plans(&self.config, &host, &self.ids);
        let (mut standings, mut flaps) = (BTreeMap::new(), std::mem::take(&mut self.flaps));
        for source in self.pool_sources() {
            let before = self.standings.get(&source.local);
            let lost = sources::by_facts(self, &host, &ways, source).err();
            // The operator's own doing is no flap.
            if !matches!(lost, Some(Reason::Suspended { .. } | Reason::WeightZero)) {
                flaps.look(source.local, before.is_some_and(Option::is_none), lost.is_none(), now);
            }
            let held = || flaps.holds(source.local).or_else(|| self.preflight.holds(source.local));
            let standing = lost.or_else(held);
            if before != Some(&standing) && !standings.contains_key(&source.local) {
                kinds.extend(standing_event(source, before, standing.as_ref()));
            }
            standings.insert(source.local, standing);
        }
        flaps.retain(|local| standings.contains_key(local));
        self.flaps = flaps;
        self.await_addresses(&standings, now);
        self.standings = standings;
    }

    /// What a fact keeps away may be on its way: an address that is being put on the host, a link that boots or comes up
    /// again, a line that is dialled anew. Where no source is left, that is a gap for a while, and a decision then.
    fn await_addresses(&mut self, standings: &BTreeMap<IpAddr, Option<Reason>>, now: Timestamp) {
        let on_its_way = |standing: &Option<Reason>| match standing {
            Some(
                Reason::AddressTentative
                | Reason::AddressMissing
                | Reason::NoInterface { .. }
                | Reason::LinkDown { .. }
                | Reason::NoRoute { .. },
            ) => true,
            Some(
                Reason::DadFailed
                | Reason::Suspended { .. }
                | Reason::WeightZero
                | Reason::Spare
                | Reason::Flapping { .. }
                | Reason::Untried
                | Reason::PortBlocked { .. }
                | Reason::FuseBlown { .. }
                | Reason::Isolated { .. },
            )
            | None => false,
        };
        self.awaited.retain(|address, _| standings.get(address).is_some_and(on_its_way));
        for (address, _) in standings.iter().filter(|(_, standing)| on_its_way(standing)) {
            self.awaited.entry(*address).or_insert(now);
        }
    }

    /// Until when connections wait for this address; `None` where it is not on its way, or has been for too long.
    pub(super) fn awaited_until(&self, address: IpAddr, now: Timestamp) -> Option<Timestamp> {
        let since = self.awaited.get(&address)?;
        since.checked_add(PATIENCE).ok().filter(|&until| until > now)
    }

    fn assign_ids(&mut self, now: Timestamp) {
        let of = |stream: &crate::config::Stream| -> Vec<(String, String)> {
            let providers = self.config.providers_of(stream);
            providers.map(|(provider, _)| (stream.name.clone(), provider.to_owned())).collect()
        };
        let lanes: Vec<_> = self.config.streams.iter().flat_map(of).collect();
        let nowhere = Host::default();
        let found = uplinks::find(&self.config, self.host.as_ref().unwrap_or(&nowhere));
        let names: Vec<String> = found.into_iter().map(|uplink| uplink.name).collect();
        let addresses = self.local_addresses();
        self.ids.assign(&addresses, &lanes, &names, now);
    }

    fn local_addresses(&self) -> BTreeSet<IpAddr> {
        self.pool_sources().map(|source| source.local).collect()
    }

    fn names(&self) -> BTreeMap<IpAddr, String> {
        self.pool_sources().map(|source| (source.public, source.name.clone())).collect()
    }
}

fn standing_event(
    source: &PoolSource,
    before: Option<&Option<Reason>>,
    now: Option<&Reason>,
) -> Option<EventKind> {
    let (name, address) = (source.name.clone(), source.local);
    match (before, now) {
        // The operator's own doing has its own event.
        (_, Some(Reason::Suspended { .. } | Reason::WeightZero)) => None,
        (Some(Some(Reason::Suspended { .. } | Reason::WeightZero)) | None, None) => None,
        (_, None) => Some(EventKind::SourceEligible { source: name, address }),
        (_, Some(reason)) => {
            Some(EventKind::SourceIneligible { source: name, address, reason: reason.clone() })
        }
    }
}

/// A time by a clock that was set.
pub(super) fn moved(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(time)
}

fn stamped(kinds: Vec<EventKind>, now: Timestamp) -> Vec<Event> {
    kinds.into_iter().map(|kind| Event { at: now, kind }).collect()
}
