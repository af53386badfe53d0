//! What has to hold of the slots that stand, after every step of every world.
//!
//! Owns: who may hold how many slots. Must not: use the code that shares them out; it counts anew.

use std::collections::BTreeMap;

use mailsteer_core::decide::{EVERYWHERE, State};
use mailsteer_core::model::{Lane, RefuseReason, SlotTarget};

use super::host::Agent;
use super::spec::Spec;

/// A lane's slots, and what is known of the sources of its pool.
struct Hands<'a> {
    spec: &'a Spec,
    slots: &'a [SlotTarget],
    members: Vec<Member>,
}

/// A source of the lane's pool.
struct Member {
    source: usize,
    /// Whether it could serve, whatever is believed of it.
    serves: bool,
    /// How much of its share the beliefs leave it, in thousandths.
    portion: u16,
    /// How many slots are its own.
    own: u64,
    held: u64,
}

/// No slot leads to a source that is not of the pool, cannot send, or is isolated there; nobody holds more than it may; and
/// nothing is refused without cause.
pub(crate) fn check(spec: &Spec, agent: &Agent) -> Result<(), String> {
    for lane in &agent.desired.lanes {
        let slots = agent.slots().get(&(lane.id, spec.family())).ok_or("a lane without slots")?;
        let told = |error: String| format!("{} at {}: {error}", lane.stream, lane.provider);
        let hands = Hands::new(spec, agent, lane, &slots.0).map_err(told)?;
        hands.lead_nowhere_wrong(agent).map_err(told)?;
        hands.hold_no_more_than_they_may().map_err(told)?;
        hands.refuse_nothing_without_cause().map_err(told)?;
    }
    Ok(())
}

/// What beliefs leave a source of its share at a provider.
fn portion(spec: &Spec, agent: &Agent, source: usize, provider: &str) -> u16 {
    let address = spec.source(source);
    let here = agent
        .world
        .verdicts()
        .filter(|(of, there, _)| *of == address && (*there == provider || *there == EVERYWHERE));
    here.map(|(.., verdict)| leaves(&verdict.state)).min().unwrap_or(1_000)
}

/// What a belief leaves: nothing, and after two good probes a hundredth, a tenth, and all.
fn leaves(state: &State) -> u16 {
    match state {
        State::Healthy | State::Suspect { .. } => 1_000,
        State::Isolated { .. } | State::Probation { probes: 0..2, .. } => 0,
        State::Probation { step, .. } => [10, 100, 1_000][usize::from(*step)],
    }
}

impl<'a> Hands<'a> {
    fn new(spec: &'a Spec, agent: &Agent, lane: &Lane, slots: &'a [SlotTarget]) -> Result<Self, String> {
        let pool = spec.pool_of_stream(&lane.stream);
        let mut held: BTreeMap<usize, u64> = BTreeMap::new();
        for source in slots.iter().filter_map(|target| agent.source(spec, *target)) {
            *held.entry(source).or_default() += 1;
        }
        if let Some(stranger) = held.keys().find(|&&source| !spec.is_in(source, pool)) {
            return Err(format!("a slot leads to s{stranger}, which is not of its pool"));
        }
        let weight = |n: usize| if spec.sources[n].spare { 0 } else { u64::from(spec.sources[n].weight) };
        let weights: u64 = spec.members(pool).map(weight).sum();
        let member = |source: usize| Member {
            source,
            serves: agent.world.ineligible(spec.source(source)).is_none(),
            portion: portion(spec, agent, source, &lane.provider),
            own: slots.len() as u64 * weight(source) / weights,
            held: held.get(&source).copied().unwrap_or_default(),
        };
        Ok(Self { spec, slots, members: spec.members(pool).map(member).collect() })
    }

    fn lead_nowhere_wrong(&self, agent: &Agent) -> Result<(), String> {
        for Member { source, serves, portion, .. } in self.members.iter().filter(|one| one.held > 0) {
            if !serves || !agent.can_send(self.spec, *source) {
                return Err(format!("a slot leads to s{source}, which cannot send"));
            }
            if *portion == 0 {
                return Err(format!("a slot leads to s{source}, which is isolated"));
            }
        }
        Ok(())
    }

    /// Its own, its part of what others lost by facts, and so much of its own again as the surge limit says; on its way back
    /// its portion and nothing else.
    fn hold_no_more_than_they_may(&self) -> Result<(), String> {
        let weight = |one: &Member| u64::from(self.spec.sources[one.source].weight);
        let spare = |one: &Member| self.spec.sources[one.source].spare;
        let lost: u64 = self.members.iter().filter(|one| !one.serves).map(|one| one.own).sum();
        let heirs = self.members.iter().filter(|one| one.serves && one.portion == 1_000 && !spare(one));
        let all: u64 = heirs.map(weight).sum();
        for one in self.members.iter().filter(|one| !spare(one) && one.held > 0) {
            let most = if one.portion < 1_000 {
                (one.own * u64::from(one.portion)).div_ceil(1_000)
            } else {
                let by_facts = if lost == 0 { 0 } else { (lost * weight(one)).div_ceil(all) + 1 };
                one.own * u64::from(self.spec.safety.surge) / 1_000 + by_facts
            };
            if one.held > most {
                let (Member { source, held, own, .. }, all) = (one, self.slots.len());
                return Err(format!(
                    "s{source} holds {held} of {all}, and {own} are its own: {most} at most"
                ));
            }
        }
        Ok(())
    }

    /// Nothing is refused while every source can send and nothing is believed of any there, but for a stream that is stopped.
    fn refuse_nothing_without_cause(&self) -> Result<(), String> {
        let well = self.members.iter().all(|one| one.serves && one.portion == 1_000);
        let stopped = |target: &SlotTarget| *target == SlotTarget::Refuse(RefuseReason::Stopped);
        let refused =
            self.slots.iter().find(|target| !matches!(target, SlotTarget::Source(..)) && !stopped(target));
        match refused {
            Some(target) if well => Err(format!("{target:?}, and all is well")),
            _ => Ok(()),
        }
    }
}
