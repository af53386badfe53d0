//! One pass: look, decide, plan, act, until nothing is left to do.
//!
//! Owns: the rounds, and what of them failed. Must not: answer anybody; what a pass came to is published at its end.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use mailsteer_core::decide::{self, EventKind, Observation};
use mailsteer_core::model::{Address, Host, WantedKind};
use mailsteer_core::plan::{self, Action, AddressAt, Observed};
use tracing::{debug, info, warn};

use super::Reconciler;
use crate::act::ActError;
use crate::observe::Look;
use crate::observe::nft::TableChange;

/// How many times a pass looks again before it leaves the rest to the retry: one to add addresses, one to use
/// them, one to find nothing left, and one for what happened meanwhile.
const ROUNDS: usize = 4;

impl Reconciler {
    /// One pass.
    pub(super) async fn reconcile(&mut self) {
        self.faults.clear();
        let mut acted = 0;
        for _round in 0..ROUNDS {
            match self.round().await {
                Ok(0) => {
                    self.settled = Some(Instant::now());
                    self.meddled = None;
                    self.retire_earlier();
                    break;
                }
                Ok(count) => acted += count,
                Err(error) => {
                    warn!("{error:#}");
                    self.faults.push(format!("{error:#}"));
                    break;
                }
            }
        }
        debug!(acted, left = self.pending.len(), "reconciled");
        drop(self.keep_word());
        self.keep_beliefs();
        self.noted.keep();
        self.make_probes();
        self.publish();
    }

    /// All of ours stands: what another version left is of no more use.
    fn retire_earlier(&mut self) {
        match self.executor.retire_earlier() {
            Ok(retired) => {
                for abi in retired {
                    info!(abi, "took over from another version of mailsteer, its counts included");
                }
            }
            Err(error) => self.faults.push(format!("what another version left stays: {}", chain(&error))),
        }
    }

    /// Observes, decides, plans and acts once; says how many steps it took.
    async fn round(&mut self) -> Result<usize> {
        let look = self.looker.look(self.unread).await.context("cannot read the network or the table")?;
        if std::mem::take(&mut self.unread) {
            self.compare(&look);
        }
        let now = self.now();
        let events = self.world.apply(Observation::Host(look.host.clone()), now);
        self.tell(&events);
        let decision = decide::desired(&self.world, now);
        let before = std::mem::replace(&mut self.decision, decision);
        self.pending = plan::plan(&self.decision.desired, &self.observed(look));
        let count = self.pending.len();
        let mut failed = Vec::new();
        for action in std::mem::take(&mut self.pending) {
            // Healed while the rules could not be written, connections would miss them again, and stay so for good; and by
            // which slots one should go is not known then.
            if action.is_about_connections() && self.executor.written().is_none() {
                continue;
            }
            if let Err(error) = self.act(&action).await {
                failed.push((action, error));
            }
        }
        // Told when it is done: with many sources that takes as long as deciding does.
        self.tell_flips(&before);
        if failed.is_empty() {
            self.failing.clear();
            return Ok(count);
        }
        Err(self.failures(failed))
    }

    /// Says each failure once, as long as it stays the same, and keeps what is to be tried again.
    fn failures(&mut self, failed: Vec<(Action, ActError)>) -> anyhow::Error {
        let mut failing = BTreeMap::new();
        let mut sentences = Vec::new();
        for (action, error) in &failed {
            let text = chain(error);
            let name = action.to_string();
            sentences.push(format!("{name} failed: {text}"));
            if self.failing.get(&name) != Some(&text) {
                self.tell_now(EventKind::ActionFailed { action: name.clone(), error: text.clone() });
            }
            failing.insert(name, text);
        }
        self.failing = failing;
        self.pending = failed.into_iter().map(|(action, _)| action).collect();
        anyhow::anyhow!("{}", sentences.join("; "))
    }

    /// A table that is not as it was written, by rule or by element, is written anew.
    fn compare(&mut self, look: &Look) {
        let stood = self.executor.written().is_some();
        let table = look.table.as_ref();
        self.executor.found(table.map(|table| (table.fingerprint, &table.contents)));
        if stood && self.executor.written().is_none() && self.meddled.is_none() {
            // Seen before it was told.
            let what = "the table was changed".to_owned();
            self.meddled = Some((TableChange { pid: None, program: None, what }, Instant::now()));
        }
    }

    fn observed(&self, look: Look) -> Observed {
        let (written, told) = (self.executor.written(), self.executor.told());
        Observed {
            addresses: addresses(&look.host),
            routes: look.routes,
            rules: look.rules,
            table: written.map(|written| written.spec.clone()),
            slots: written.map(|written| written.slots.clone()).unwrap_or_default(),
            translations: written.map(|written| written.translations.clone()).unwrap_or_default(),
            receivers: written.map(|written| written.receivers.clone()).unwrap_or_default(),
            guard_sources: told.sources.clone(),
            guard: told.spec.clone(),
            attached: self.executor.attached(),
            unhealed: self.executor.unhealed(),
            unmoved: self.executor.unmoved(),
            unended: self.executor.unended(),
        }
    }

    async fn act(&mut self, action: &Action) -> Result<(), ActError> {
        debug!(%action, "acting");
        let behind = self.guard_behind(action);
        let carried = self.executor.carry_out(action).await?;
        if let Some(interface) = behind {
            self.shared.tally(|tallies| tallies.guard_repairs += 1);
            self.tell_now(EventKind::GuardFirstAgain { interface });
        }
        self.tell_carried_over(carried);
        self.tell_repair(action, carried);
        Ok(())
    }

    /// The interface whose guard this action brings to the front again.
    fn guard_behind(&self, action: &Action) -> Option<String> {
        let Action::Attach { ifindex } = action else { return None };
        let uplinks = &self.decision.desired.uplinks;
        let uplink = uplinks.iter().find(|uplink| uplink.ifindex == Some(*ifindex));
        self.executor
            .guard_is_behind(*ifindex)
            .then(|| uplink.map_or_else(|| format!("interface {ifindex}"), |uplink| uplink.interface.clone()))
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let mut texts = vec![error.to_string()];
    texts.extend(causes.map(ToString::to_string));
    texts.join(": ")
}

/// Every address of the host, as a plan sees them.
pub(in super::super) fn addresses(host: &Host) -> Vec<AddressAt> {
    let entry = |entry: &Address| {
        let link = host.links.iter().find(|link| link.index == entry.ifindex)?;
        Some(AddressAt {
            address: entry.address,
            interface: link.name.clone(),
            kind: if link.loopback { WantedKind::Tag } else { WantedKind::Source },
            ours: entry.ours,
        })
    };
    host.addresses.iter().filter_map(entry).collect()
}
