//! Probes that are due are begun at the end of a pass.
//!
//! Owns: the step from what the core wants to what can be made. Must not: choose; and it makes none while nothing is steered, for
//! then no rule lets one pass.

use std::net::SocketAddr;

use mailsteer_core::decide::Observation;

use super::Reconciler;
use crate::observe::probe::Probe;

impl Reconciler {
    /// Begins what is due.
    pub(super) fn make_probes(&mut self) {
        if !self.decision.desired.armed || self.executor.written().is_none() {
            return;
        }
        let now = self.now();
        let mut begun = false;
        for wanted in self.world.probes(now) {
            let ids = self.world.ids().source(wanted.source).zip(self.world.uplink_of(wanted.source));
            let (Some((source, uplink)), Some(&port)) = (ids, self.decision.desired.ports.first()) else {
                continue;
            };
            let to = SocketAddr::new(wanted.destination, port);
            let probe = Probe { source, uplink, from: wanted.source, to };
            let provider = self.world.config().provider_of(wanted.destination).to_owned();
            if self.outside.prober.as_ref().is_none_or(|prober| !prober.begin(probe, provider)) {
                continue;
            }
            begun = true;
            let probing = Observation::Probing { source: wanted.source, provider: wanted.provider };
            let events = self.world.apply(probing, now);
            self.tell(&events);
        }
        if begun {
            // When the next ones are due was not known before.
            let known = self.decision.next_deadline.into_iter().chain(self.world.next_probe());
            self.decision.next_deadline = known.filter(|&due| due > now).min();
        }
    }
}
