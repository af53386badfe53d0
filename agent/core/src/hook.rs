//! Hooks: which of them is told of which event.
//!
//! Owns: that choice, and that the same is not told again and again. Must not: tell anybody, or know the time, which is a
//! parameter: one that nobody can set.
//!
//! A source that fails and comes back all night must not fill somebody's telephone. So of one kind about one subject a hook is
//! told one event, and then none for a time; the next one after that says how many were left out. Kinds are not mixed: that a
//! source is listed is told although it was told a minute ago that it is isolated.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::config::Hook;
use crate::decide::EventKind;

/// How many things that were told are remembered. Beyond, an event may be told twice, and none is kept back.
const REMEMBERED: usize = 4_096;

/// What was told of one kind about one subject.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Timestamp,
    left_out: u64,
}

/// Where an event goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routed {
    /// Places of hooks that are told, each with how many alike were left out before.
    pub to: Vec<(usize, u64)>,
    /// Places of hooks that were told the same a moment ago.
    pub left_out: Vec<usize>,
}

/// The hooks, and what each was told.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    hooks: Vec<Hook>,
    told: BTreeMap<(String, &'static str, String), Told>,
}

impl Hooks {
    /// From now on these; what was told to one that stays is still known.
    pub fn set(&mut self, hooks: &[Hook]) {
        self.hooks = hooks.to_vec();
        self.told.retain(|(name, ..), _| hooks.iter().any(|hook| hook.name == *name));
    }

    /// Who is told of this now.
    pub fn route(&mut self, event: &EventKind, now: Timestamp) -> Routed {
        let mut routed = Routed::default();
        for (place, hook) in self.hooks.iter().enumerate().filter(|(_, hook)| wants(hook, event)) {
            let key = (hook.name.clone(), event.name(), event.subject().to_owned());
            if let Some(told) = self.told.get_mut(&key)
                && is_fresh(told.at, hook.repeat, now)
            {
                told.left_out += 1;
                routed.left_out.push(place);
                continue;
            }
            let before = self.told.remove(&key).map_or(0, |told| told.left_out);
            routed.to.push((place, before));
            if hook.repeat > SignedDuration::ZERO {
                if self.told.len() >= REMEMBERED {
                    forget(&mut self.told, &self.hooks, now);
                }
                if self.told.len() < REMEMBERED {
                    self.told.insert(key, Told { at: now, left_out: 0 });
                }
            }
        }
        routed
    }
}

fn wants(hook: &Hook, event: &EventKind) -> bool {
    hook.events.as_ref().map_or_else(|| event.is_alarm(), |kinds| kinds.contains(event.name()))
}

fn is_fresh(at: Timestamp, repeat: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(at) < repeat
}

fn forget(told: &mut BTreeMap<(String, &'static str, String), Told>, hooks: &[Hook], now: Timestamp) {
    told.retain(|(name, ..), told| {
        hooks.iter().any(|hook| hook.name == *name && is_fresh(told.at, hook.repeat, now))
    });
}
