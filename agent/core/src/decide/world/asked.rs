//! What others ask of the world, and what is kept of it over a restart.
//!
//! Owns: answers. Must not: change it but for what is taken over at the start; everything else comes in by [`World::apply`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::World;
use crate::config::{Config, PoolSource};
use crate::decide::fuse::{Blown, FuseWindows};
use crate::decide::operator::Operator;
use crate::decide::preflight::WantedPreflight;
use crate::decide::receivers::Whose;
use crate::decide::traffic::{Beliefs, Rails, Verdict, WantedProbe};
use crate::decide::{Bypass, Hold, Ids, Reason, Suspension, sources, uplinks};
use crate::model::{Family, Host, UplinkId};
use crate::signal::dns::Check;
use crate::signal::feeds::{Opinion, Reading};

impl World {
    /// Every source of every pool.
    pub fn pool_sources(&self) -> impl Iterator<Item = &PoolSource> + '_ {
        self.config.pools.values().flat_map(|pool| &pool.sources)
    }

    /// Whether there is an eBPF guard, the second lock.
    #[must_use]
    pub const fn has_guard(&self) -> bool {
        self.guard
    }

    /// The config in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// By what a receiver is whose.
    #[must_use]
    pub fn whose(&self, receiver: IpAddr) -> Whose<'_> {
        self.receivers.whose(&self.config, receiver)
    }

    /// Whose receiver an address is.
    #[must_use]
    pub fn provider_of(&self, receiver: IpAddr) -> &str {
        self.whose(receiver).provider()
    }

    /// The host as last observed.
    #[must_use]
    pub const fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// The numbers given out.
    #[must_use]
    pub const fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Why a source cannot serve; `None` where it can, or is unknown.
    #[must_use]
    pub fn ineligible(&self, local: IpAddr) -> Option<&Reason> {
        self.standings.get(&local).and_then(Option::as_ref)
    }

    /// Sources that the operator set aside, by public address.
    #[must_use]
    pub const fn suspensions(&self) -> &BTreeMap<IpAddr, Suspension> {
        &self.operator.suspended
    }

    /// Streams that the operator leaves alone for a time.
    #[must_use]
    pub const fn bypasses(&self) -> &BTreeMap<String, Bypass> {
        &self.operator.bypassed
    }

    /// Whether nothing changes by itself.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        self.operator.hold.as_ref()
    }

    /// What is believed of sources at providers, where it is not that all is well.
    pub fn verdicts(&self) -> impl Iterator<Item = (IpAddr, &str, &Verdict)> + '_ {
        self.traffic
            .verdicts()
            .iter()
            .map(|((source, provider), verdict)| (*source, provider.as_str(), verdict))
    }

    /// Sources, by their address on this host, that are known to fail a DNS check, with what is wrong.
    pub fn dns_faults(&self) -> impl Iterator<Item = (IpAddr, Check, &str)> + '_ {
        self.traffic.faults()
    }

    /// Domains that are known to fail a DNS check, with what is wrong.
    pub fn dns_domain_faults(&self) -> impl Iterator<Item = (&str, Check, &str)> + '_ {
        self.traffic.domain_faults()
    }

    /// Pools and families of which every source fails a required DNS check, so that none is barred for it.
    #[must_use]
    pub fn whole_pool_faults(&self) -> BTreeSet<(&str, Family)> {
        self.traffic.whole_pools(&self.config)
    }

    /// The worst that is believed of a source, and where; `None` where all is well.
    #[must_use]
    pub fn belief(&self, local: IpAddr) -> Option<(&str, &Verdict)> {
        let own = self.verdicts().filter(|(source, ..)| *source == local);
        own.map(|(_, provider, verdict)| (provider, verdict)).min_by_key(|(_, verdict)| verdict.portion())
    }

    /// Fuses that are blown: stream, source and why.
    pub fn fuses(&self) -> impl Iterator<Item = (&str, IpAddr, &Blown)> {
        self.fuses.all().iter().map(|((stream, source), blown)| (stream.as_str(), *source, blown))
    }

    /// Bad words of feeds that still count: the feed, the source's name and what was said.
    pub fn bad_words(&self) -> impl Iterator<Item = (&str, &str, &Reading)> {
        let bad = self.traffic.feed_readings().filter(|(_, reading)| reading.opinion == Opinion::Bad);
        bad.filter_map(|(feed, reading)| {
            let source = self.pool_sources().find(|source| source.public == reading.address)?;
            Some((feed, source.name.as_str(), reading))
        })
    }

    /// The guard rails of beliefs.
    #[must_use]
    pub const fn rails(&self) -> &Rails {
        self.traffic.rails()
    }

    /// Probes that should be made.
    #[must_use]
    pub fn probes(&self, now: Timestamp) -> Vec<WantedProbe> {
        let wanted = self.traffic.wanted_probes(&self.serving(), now);
        wanted.into_iter().filter(|probe| self.ineligible(probe.source).is_none()).collect()
    }

    /// Rounds of tries of port 25 that should be made.
    #[must_use]
    pub fn preflights(&self, now: Timestamp) -> Vec<WantedPreflight> {
        self.preflight.wanted(|source| self.can_be_tried(source), now)
    }

    /// When the next round is due, or a source is tired of waiting for one.
    #[must_use]
    pub fn next_preflight(&self) -> Option<Timestamp> {
        self.preflight.next_deadline(|source| self.can_be_tried(source))
    }

    fn can_be_tried(&self, local: IpAddr) -> bool {
        let standing = self.standings.get(&local);
        standing.is_some_and(|standing| {
            matches!(standing, None | Some(Reason::Untried | Reason::PortBlocked { .. }))
        })
    }

    /// The uplink that a source leaves by, as far as it is known.
    #[must_use]
    pub fn uplink_of(&self, local: IpAddr) -> Option<UplinkId> {
        let host = self.host.as_ref()?;
        let ways = uplinks::plans(&self.config, host, &self.ids);
        let source = self.pool_sources().find(|source| source.local == local)?;
        sources::by_facts(self, host, &ways, source).ok()
    }

    /// When the next probe is due, if time alone decides.
    #[must_use]
    pub fn next_probe(&self) -> Option<Timestamp> {
        self.traffic.next_probe(&self.serving())
    }

    /// What is to be kept of beliefs over a restart.
    #[must_use]
    pub fn beliefs(&self) -> Beliefs {
        Beliefs { blown: self.fuses.kept(), passed: self.preflight.kept(), ..self.traffic.beliefs() }
    }

    /// Takes over what an earlier agent of this host believed.
    pub fn restore_beliefs(&mut self, beliefs: Beliefs) {
        self.fuses.restore(beliefs.blown.clone());
        self.preflight.restore(beliefs.passed.clone());
        self.traffic.restore(beliefs);
    }

    /// What fuses have counted, to be kept over a restart: their windows are longer than the time between two.
    #[must_use]
    pub const fn fuse_windows(&self) -> &FuseWindows {
        self.fuses.windows()
    }

    /// Takes over what an earlier agent's fuses have counted.
    pub fn restore_fuse_windows(&mut self, windows: FuseWindows) {
        self.fuses.restore_windows(windows);
    }

    /// Takes over what the operator said, as an earlier agent of this host kept it.
    pub fn restore_operator(
        &mut self,
        suspended: BTreeMap<IpAddr, Suspension>,
        bypassed: BTreeMap<String, Bypass>,
        hold: Option<Hold>,
    ) {
        self.operator = Operator { suspended, bypassed, hold };
    }
}
