//! Probes, and rounds of the preflight, that are due are begun at the end of a pass.
//!
//! Owns: the step from what the core wants to what can be made. Must not: choose; and it makes none while nothing is steered, for
//! then no rule lets one pass.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use mailsteer_core::decide::{Observation, WantedPreflight};

use super::Prober;
use super::Reconciler;
use crate::observe::probe::Probe;

impl Reconciler {
    /// Begins what is due.
    pub(super) fn make_probes(&mut self) {
        if !self.decision.desired.armed || self.executor.written().is_none() {
            return;
        }
        let now = self.now();
        let begun = self.begin_probes(now) | self.begin_rounds(now);
        if begun {
            // When the next ones are due was not known before.
            let known = self.decision.next_deadline.into_iter().chain(self.world.next_probe());
            let known = known.chain(self.world.next_preflight());
            self.decision.next_deadline = known.filter(|&due| due > now).min();
        }
    }

    fn begin_probes(&mut self, now: Timestamp) -> bool {
        let mut begun = false;
        for wanted in self.world.probes(now) {
            let Some(probe) = self.probe(wanted.source, wanted.destination) else { continue };
            let provider = self.world.provider_of(wanted.destination).to_owned();
            if self.outside.prober.as_ref().is_none_or(|prober| !prober.begin(probe, provider)) {
                continue;
            }
            begun = true;
            let probing = Observation::Probing { source: wanted.source, provider: wanted.provider };
            let events = self.world.apply(probing, now);
            self.tell(&events);
        }
        begun
    }

    fn begin_rounds(&mut self, now: Timestamp) -> bool {
        let Some(settings) = self.world.config().preflight.clone() else { return false };
        let mut begun = false;
        for WantedPreflight { source } in self.world.preflights(now) {
            let Some(way) = self.probe(source, source) else { continue };
            let begins = |prober: &Prober| prober.begin_round(way, settings.receivers.clone());
            if self.outside.prober.as_ref().is_some_and(begins) {
                begun = true;
                let events = self.world.apply(Observation::Trying { source }, now);
                self.tell(&events);
            }
        }
        begun
    }

    fn probe(&self, from: IpAddr, to: IpAddr) -> Option<Probe> {
        let source = self.world.ids().source(from)?;
        let uplink = self.world.uplink_of(from)?;
        let port = *self.decision.desired.ports.first()?;
        Some(Probe { slot: Some((source, uplink)), from, to: SocketAddr::new(to, port) })
    }
}
