//! What is believed of a source at a provider, and how that changes with time.
//!
//! Owns: the states and their order: healthy, suspect, isolated, then probation in steps, and healthy again. Must not: know
//! why a source was found guilty, or whether its share may be moved.
//!
//! The way back is half-open: a few probes first, where a receiver is known that can be asked; then 1 %, 10 % and all of its share, each for
//! as long as it takes to see it do well. Who fails on the way is isolated again, for twice as long.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::evidence::Failure;
use crate::config::Safety;
use crate::decide::world::moved;

/// The whole of a share, in thousandths.
pub(super) const WHOLE: u16 = 1000;
/// Longest isolation, however often a source relapses.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// Good probes before any mail.
const PROBES: u8 = 2;
/// Where as many could not be made or told nothing for as long, a little mail has to do: one a minute, with time for some to
/// come to nothing.
const PROBING: SignedDuration = SignedDuration::from_mins(10);
/// Connections that do well before the next step.
const WELL: u32 = 5;
/// Shortest step of probation.
const STEP: SignedDuration = SignedDuration::from_secs(60);
/// A step ends after this also where little was sent, as long as nothing failed.
const QUIET_STEP: SignedDuration = SignedDuration::from_hours(1);
/// Relapses are forgotten after as long in health.
const FORGIVEN: SignedDuration = SignedDuration::from_hours(24);
/// Shares of the steps, in thousandths.
const STEPS: [u16; 3] = [10, 100, WHOLE];

/// What is believed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// Nothing against it.
    Healthy,
    /// Something may be wrong; nothing is done.
    Suspect {
        /// What.
        cause: Failure,
    },
    /// It serves this provider no more.
    Isolated {
        /// Why.
        cause: Failure,
        /// Until when at least.
        until: Timestamp,
    },
    /// On its way back.
    Probation {
        /// Why it was isolated.
        cause: Failure,
        /// Good probes so far; mail comes after some.
        probes: u8,
        /// Which step; 0 is the smallest share.
        step: u8,
        /// Since when it is at this.
        since: Timestamp,
        /// What did well at this.
        well: u32,
    },
}

impl State {
    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect { .. } => "suspect",
            Self::Isolated { .. } => "isolated",
            Self::Probation { .. } => "probation",
        }
    }

    /// Which share it may hold on probation, in thousandths; `None` while probes come first.
    #[must_use]
    pub fn step(&self) -> Option<u16> {
        match self {
            Self::Probation { probes, step, .. } if *probes >= PROBES => {
                Some(STEPS.get(usize::from(*step)).copied().unwrap_or(WHOLE))
            }
            _ => None,
        }
    }
}

/// What is believed of a source at a provider.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// The belief.
    pub state: State,
    /// How often it was isolated without a day of health between.
    pub relapses: u32,
    /// Since when it is healthy, suspect, isolated or on probation.
    pub since: Timestamp,
}

impl Verdict {
    pub(super) const fn healthy(now: Timestamp) -> Self {
        Self { state: State::Healthy, relapses: 0, since: now }
    }

    /// How much of its share it may hold, in thousandths.
    #[must_use]
    pub fn portion(&self) -> u16 {
        match self.state {
            State::Healthy | State::Suspect { .. } => WHOLE,
            State::Isolated { .. } => 0,
            State::Probation { .. } => self.state.step().unwrap_or(0),
        }
    }

    /// In words, with the provider that it is about.
    #[must_use]
    pub const fn at<'a>(&'a self, provider: &'a str) -> impl std::fmt::Display + 'a {
        Told { verdict: self, provider }
    }

    /// Why it was isolated, while it is or is on its way back.
    #[must_use]
    pub const fn cause(&self) -> Option<&Failure> {
        match &self.state {
            State::Isolated { cause, .. } | State::Probation { cause, .. } => Some(cause),
            State::Healthy | State::Suspect { .. } => None,
        }
    }

    /// Isolates, for longer the more often that happened.
    pub(super) fn isolate(&mut self, cause: Failure, safety: &Safety, now: Timestamp) {
        let minutes = if cause.is_explicit() { safety.refused_minutes } else { safety.silent_minutes };
        let base = SignedDuration::from_mins(i64::from(minutes));
        let doubled = base.checked_mul(1 << self.relapses.min(10)).unwrap_or(LONGEST);
        let until = now.checked_add(doubled.min(LONGEST)).unwrap_or(now);
        self.relapses = self.relapses.saturating_add(1);
        self.become_(State::Isolated { cause, until }, now);
    }

    /// Receivers ask for less: a tenth of its share, and the rest of the way back as anybody's.
    pub(super) fn slow_down(&mut self, cause: Failure, now: Timestamp) {
        self.become_(State::Probation { cause, probes: PROBES, step: 1, since: now, well: 0 }, now);
    }

    pub(super) fn suspect(&mut self, cause: Option<Failure>, now: Timestamp) {
        let state = cause.map_or(State::Healthy, |cause| State::Suspect { cause });
        if self.state.name() != state.name() {
            self.become_(state, now);
        }
    }

    fn become_(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.since = now;
    }

    /// Whether a single failure sends it back.
    pub(super) const fn is_on_probation(&self) -> bool {
        matches!(self.state, State::Probation { .. })
    }

    /// One of its connections did well.
    pub(super) fn did_well(&mut self) {
        if let State::Probation { well, .. } = &mut self.state {
            *well = well.saturating_add(1);
        }
    }

    /// A probe came as far as the greeting.
    pub(super) fn probed_well(&mut self, now: Timestamp) {
        if let State::Probation { probes, since, .. } = &mut self.state
            && *probes < PROBES
        {
            *probes += 1;
            *since = now;
        }
    }

    /// Whether a probe is to tell whether mail may come back.
    pub(super) fn wants_probes(&self) -> bool {
        matches!(&self.state, State::Probation { probes, .. } if *probes < PROBES)
    }

    /// What time alone changes. `can_probe`: some receiver is known that can be asked.
    pub(super) fn pass_time(&mut self, now: Timestamp, can_probe: bool) {
        match &mut self.state {
            State::Isolated { cause, until } if *until <= now => {
                let (cause, probes) = (cause.clone(), if can_probe { 0 } else { PROBES });
                self.become_(State::Probation { cause, probes, step: 0, since: now, well: 0 }, now);
            }
            State::Probation { since, probes, .. }
                if *probes < PROBES && now.duration_since(*since) >= PROBING =>
            {
                (*probes, *since) = (PROBES, now);
            }
            State::Probation { step, since, well, probes, .. } if *probes >= PROBES => {
                let lasted = now.duration_since(*since);
                if lasted < STEP || (*well < WELL && lasted < QUIET_STEP) {
                    return;
                }
                if usize::from(*step) + 1 < STEPS.len() {
                    (*step, *since, *well) = (*step + 1, now, 0);
                } else {
                    self.become_(State::Healthy, now);
                }
            }
            State::Healthy if self.relapses > 0 && now.duration_since(self.since) >= FORGIVEN => {
                self.relapses = 0;
            }
            _ => {}
        }
    }

    /// When time alone may change it.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        match &self.state {
            State::Isolated { until, .. } => Some(*until),
            State::Probation { since, well, probes, .. } => {
                let lasts = match (*probes < PROBES, *well < WELL) {
                    (true, _) => PROBING,
                    (false, true) => QUIET_STEP,
                    (false, false) => STEP,
                };
                since.checked_add(lasts).ok()
            }
            State::Healthy if self.relapses > 0 => self.since.checked_add(FORGIVEN).ok(),
            _ => None,
        }
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        self.since = moved(self.since, by);
        match &mut self.state {
            State::Isolated { until, .. } => *until = moved(*until, by),
            State::Probation { since, .. } => *since = moved(*since, by),
            State::Healthy | State::Suspect { .. } => {}
        }
    }
}

struct Told<'a> {
    verdict: &'a Verdict,
    provider: &'a str,
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = if self.provider == super::EVERYWHERE { "every provider" } else { self.provider };
        match &self.verdict.state {
            State::Healthy => Ok(()),
            State::Suspect { cause } => write!(f, "suspect at {at}: {cause}"),
            State::Isolated { cause, until } => match cause.lasts() {
                Some(lasts) => write!(f, "isolated at {at} {lasts}: {cause}"),
                None => write!(f, "isolated at {at} until {until:.0} at least: {cause}"),
            },
            State::Probation { cause: cause @ Failure::Replied { slow: true, .. }, .. } => {
                let share = self.verdict.state.step().unwrap_or(0) / 10;
                write!(f, "slowed down at {at} to {share} % of its share: {cause}")
            }
            State::Probation { cause, .. } => {
                write!(f, "on its way back at {at}, ")?;
                match self.verdict.state.step() {
                    None => f.write_str("probes first")?,
                    Some(share) => write!(f, "{} % of its share", share / 10)?,
                }
                write!(f, "; isolated before: {cause}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn until(verdict: &Verdict) -> Timestamp {
        let State::Isolated { until, .. } = verdict.state else { panic!("{verdict:?}") };
        until
    }

    #[test]
    fn the_way_back_is_in_steps() {
        let mut verdict = Verdict::healthy(at(0));
        verdict.isolate(Failure::Silent, &Safety::default(), at(0));
        assert_eq!((until(&verdict), verdict.portion()), (at(300), 0));
        verdict.pass_time(at(299), true);
        assert_eq!(verdict.state.name(), "isolated");
        verdict.pass_time(at(300), true);
        assert_eq!((verdict.portion(), verdict.wants_probes()), (0, true));
        assert_eq!(verdict.next_deadline(), Some(at(900)));
        let mut alone = verdict.clone();
        alone.pass_time(at(900), true);
        assert_eq!((alone.portion(), alone.wants_probes()), (STEPS[0], false), "nothing came of any probe");
        verdict.probed_well(at(310));
        verdict.probed_well(at(370));
        let mut now = 370;
        for portion in STEPS {
            assert_eq!(verdict.portion(), portion);
            (0..WELL).for_each(|_| verdict.did_well());
            assert_eq!(verdict.next_deadline(), Some(at(now + 60)));
            now += 60;
            verdict.pass_time(at(now), true);
        }
        assert_eq!((verdict.state.clone(), verdict.portion()), (State::Healthy, WHOLE));
    }

    #[test]
    fn without_mail_a_step_takes_an_hour_and_without_receivers_there_are_no_probes() {
        let mut verdict = Verdict::healthy(at(0));
        verdict.isolate(Failure::Silent, &Safety::default(), at(0));
        verdict.pass_time(at(300), false);
        assert_eq!(verdict.portion(), STEPS[0]);
        verdict.pass_time(at(3_899), false);
        assert_eq!(verdict.portion(), STEPS[0]);
        verdict.pass_time(at(3_900), false);
        assert_eq!(verdict.portion(), STEPS[1]);
    }

    #[test]
    fn each_relapse_doubles_the_time_up_to_a_day() {
        let mut verdict = Verdict::healthy(at(0));
        let mut lasts = Vec::new();
        for _ in 0..12 {
            verdict.isolate(Failure::Refused, &Safety::default(), at(0));
            lasts.push(until(&verdict).duration_since(at(0)).as_mins());
        }
        assert_eq!(lasts[..6], [30, 60, 120, 240, 480, 960]);
        assert!(lasts[6..].iter().all(|&minutes| minutes == 1440));
    }

    #[test]
    fn a_day_of_health_forgives() {
        let mut verdict = Verdict::healthy(at(0));
        verdict.isolate(Failure::Silent, &Safety::default(), at(0));
        verdict.suspect(None, at(10));
        assert_eq!(verdict.next_deadline(), Some(at(10 + 86_400)));
        verdict.pass_time(at(10 + 86_400), true);
        assert_eq!(verdict.relapses, 0);
    }
}
