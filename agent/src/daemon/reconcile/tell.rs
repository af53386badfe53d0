//! What others hear of a pass: events, tallies, the published picture.
//!
//! Owns: putting it together. Must not: change the world, or act.

use jiff::Timestamp;
use mailsteer_core::decide::{self, Decision, Event, EventKind};
use mailsteer_core::plan::Action;

use super::super::compliance::Wanted as DnsWanted;
use super::super::feeder::Wanted as FeedsWanted;
use super::super::lister::Wanted as ListsWanted;
use super::super::shared::Published;
use super::super::signals::Known;
use super::super::status;
use super::Reconciler;
use crate::act::Carried;
use crate::api::view::{Level, Locks};
use crate::observe::nft::TableChange;

impl Reconciler {
    /// What a stranger did is put right when the connections are healed, or with the rules while nothing is steered.
    pub(super) fn tell_repair(&mut self, action: &Action, carried: Carried) {
        let right = match action {
            Action::Heal { .. } => true,
            Action::Table { .. } => !self.decision.desired.armed,
            _ => false,
        };
        if !right {
            return;
        }
        let Some((TableChange { what, program, pid, .. }, since)) = self.meddled.take() else { return };
        let desired = &self.decision.desired;
        let unguarded = (desired.armed && !desired.guard).then(|| since.elapsed());
        self.shared.tally(|tallies| {
            tallies.repairs += 1;
            tallies.unguarded += unguarded.unwrap_or_default();
        });
        let unguarded_ms = unguarded.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.tell_now(EventKind::TableRepaired { what, program, pid, healed: carried.healed, unguarded_ms });
    }

    /// What became of connections that began before a flip.
    pub(super) fn tell_carried_over(&self, Carried { moved, ended, .. }: Carried) {
        if (moved, ended) == (0, 0) {
            return;
        }
        self.shared.tally(|tallies| {
            tallies.moved += moved;
            tallies.ended += ended;
        });
        self.tell_now(EventKind::CarriedOver { moved, ended });
    }

    /// Which shares the last decision moved.
    pub(super) fn tell_flips(&self, before: &Decision) {
        let (flips, exhausted) = decide::flips(&before.desired, &self.decision.desired);
        for flip in flips {
            if let Some(reason) = &flip.reason {
                let key = (flip.stream.clone(), reason.name().to_owned());
                self.shared.tally(|tallies| *tallies.flips.entry(key).or_default() += 1);
            }
            self.tell_now(flip.into());
        }
        exhausted.into_iter().for_each(|kind| self.tell_now(kind));
    }

    pub(super) fn tell(&self, events: &[Event]) {
        for event in events {
            if let EventKind::FlipWithheld { why, .. } = &event.kind {
                self.shared.tally(|tallies| *tallies.withheld.entry(why.as_str()).or_default() += 1);
            }
            self.shared.happened(event);
        }
    }

    pub(super) fn tell_now(&self, kind: EventKind) {
        self.shared.happened(&Event { at: Timestamp::now(), kind });
    }

    pub(super) fn publish(&mut self) {
        if let Some(lists) = &self.outside.lists {
            let wanted = ListsWanted::of(&self.world);
            lists.send_if_modified(|last| {
                let differs = last.differs(&wanted);
                if differs {
                    *last = wanted;
                }
                differs
            });
        }
        if let Some(dns) = &self.outside.dns {
            let wanted = DnsWanted::of(&self.world);
            dns.send_if_modified(|last| {
                let differs = last.differs(&wanted);
                if differs {
                    *last = wanted;
                }
                differs
            });
        }
        if let Some(learning) = &self.outside.learning {
            let wanted = &self.world.config().learning;
            learning.send_if_modified(|last| {
                let differs = last != wanted;
                if differs {
                    last.clone_from(wanted);
                }
                differs
            });
        }
        if let Some(feeds) = &self.outside.feeds {
            let wanted = FeedsWanted::of(&self.world);
            feeds.send_if_modified(|last| {
                let differs = *last != wanted;
                if differs {
                    *last = wanted;
                }
                differs
            });
        }
        if let Some(logs) = &self.outside.logs {
            logs.send_if_modified(|last| {
                let differs = *last != self.world.config().logs;
                last.clone_from(&self.world.config().logs);
                differs
            });
        }
        let desired = &self.decision.desired;
        let attached = self.executor.attached();
        let ways = desired.uplinks.iter().filter_map(|uplink| uplink.ifindex);
        let locks = Locks {
            table: self.executor.written().is_some(),
            table_owned: self.executor.table_is_owned(),
            guard: ways.clone().count() > 0 && ways.clone().all(|ifindex| attached.contains(&ifindex)),
            guard_armed: self.executor.told().spec.as_ref().is_some_and(|spec| spec.armed),
            guard_error: self.no_guard().map(str::to_owned),
        };
        self.shared.publish(Published {
            known: Known::of(&self.world),
            world: self.world.clone(),
            decision: self.decision.clone(),
            pending: self.pending.clone(),
            locks,
            config_error: self.config_error.clone(),
            config_loaded: self.config_loaded,
            faults: self.faults.clone(),
            settled: self.settled,
        });
        if let Some(published) = self.shared.published() {
            let headline = status::status(&self.shared, &published).headline;
            self.outside.manager.status(&headline.sentence);
            self.outside.steering.send_replace(headline.level != Level::Broken);
        }
    }
}
