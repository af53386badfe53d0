//! The agent on its host: the real decide and plan, and what the plan does carried out on paper.
//!
//! Owns: the step from what is heard to slots that stand, and what every step is checked for. Must not: know what is
//! wrong with the internet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::decide::{Event, EventKind, Observation, WantedProbe, World, desired};
use mailsteer_core::model::{
    Address, AddressState, Desired, Family, Host, LaneId, Link, Route, Signal, SlotTarget, Slots,
};
use mailsteer_core::plan::{Action, AddressAt, Observed, carried_out, flaws, plan};

use super::spec::Spec;
use super::{checks, shares};

/// Where the world begins.
const BEGIN: i64 = 1_800_000_000;

/// The agent and what stands.
pub(crate) struct Agent {
    pub(crate) world: World,
    pub(crate) desired: Desired,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) events: Vec<(i64, Event)>,
    observed: Observed,
    /// Slots as they stood in the beginning.
    first: BTreeMap<(LaneId, Family), Slots>,
    host: Host,
    /// The host as the agent saw it last.
    seen: Host,
    /// By how much the clock was set.
    ahead: SignedDuration,
    /// The same as the agent knows it.
    told: SignedDuration,
}

impl Agent {
    pub(crate) fn new(spec: &Spec) -> Result<Self, String> {
        let host = host(spec);
        let mut agent = Self {
            world: World::new(spec.config(), at(0, SignedDuration::ZERO)),
            desired: Desired::default(),
            deadline: None,
            events: Vec::new(),
            observed: Observed::default(),
            first: BTreeMap::new(),
            host,
            seen: Host::default(),
            ahead: SignedDuration::ZERO,
            told: SignedDuration::ZERO,
        };
        agent.look(spec, 0)?;
        agent.first.clone_from(&agent.observed.slots);
        Ok(agent)
    }

    /// What its clock says.
    pub(crate) fn clock(&self, now: i64) -> Timestamp {
        at(now, self.ahead)
    }

    /// When that is by the world's time.
    pub(crate) fn when(&self, time: Timestamp) -> i64 {
        let since = time.duration_since(at(0, self.ahead));
        i64::try_from(since.as_millis()).expect("within the age of the world") + 1
    }

    /// The clock is set: all that it told before is by another clock. The agent is told when it looks.
    pub(crate) fn set_clock(&mut self, by: i64) {
        self.ahead += SignedDuration::from_secs(by);
    }

    /// A link goes down or comes up.
    pub(crate) fn link(&mut self, uplink: usize, up: bool) {
        self.host.links[uplink + 1].up = up;
    }

    /// An address goes or comes.
    pub(crate) fn address(&mut self, spec: &Spec, source: usize, there: bool) {
        let address = spec.source(source);
        self.host.addresses.retain(|entry| entry.address != address);
        if there {
            self.host.addresses.push(entry(spec, source));
        }
    }

    /// Looks at the clock: whatever else is told comes after that.
    pub(crate) fn look_at_clock(&mut self, spec: &Spec, now: i64) -> Result<(), String> {
        let by = self.ahead - self.told;
        self.told = self.ahead;
        if by.is_zero() { Ok(()) } else { self.apply(spec, Observation::ClockJumped { by }, now) }
    }

    pub(crate) fn look(&mut self, spec: &Spec, now: i64) -> Result<(), String> {
        self.seen.clone_from(&self.host);
        self.apply(spec, Observation::Host(self.host.clone()), now)
    }

    pub(crate) fn hear(&mut self, spec: &Spec, signals: Vec<Signal>, now: i64) -> Result<(), String> {
        let events = self.world.apply(Observation::Traffic(signals), self.clock(now));
        if events.is_empty() { Ok(()) } else { self.after(spec, events, now) }
    }

    pub(crate) fn apply(&mut self, spec: &Spec, observation: Observation, now: i64) -> Result<(), String> {
        let events = self.world.apply(observation, self.clock(now));
        self.after(spec, events, now)
    }

    /// Probes that are due, begun.
    pub(crate) fn probes(&mut self, spec: &Spec, now: i64) -> Result<Vec<WantedProbe>, String> {
        let wanted = self.world.probes(self.clock(now));
        for probe in &wanted {
            let (source, provider) = (probe.source, probe.provider.clone());
            self.apply(spec, Observation::Probing { source, provider }, now)?;
        }
        Ok(wanted)
    }

    /// Decides, plans and acts, and checks every step.
    fn after(&mut self, spec: &Spec, events: Vec<Event>, now: i64) -> Result<(), String> {
        let new = events.len();
        self.events.extend(events.into_iter().map(|event| (now, event)));
        checks::events(spec, self, new)?;
        for _round in 0..4 {
            self.observed.addresses = self.addresses();
            let decision = desired(&self.world, self.clock(now));
            let actions = plan(&decision.desired, &self.observed);
            (self.desired, self.deadline) = (decision.desired, decision.next_deadline);
            if actions.is_empty() {
                return shares::check(spec, self);
            }
            self.act(&actions)?;
        }
        Err("the plan does not converge".into())
    }

    fn act(&mut self, actions: &[Action]) -> Result<(), String> {
        let policy_routing = !self.world.config().uplinks.is_empty();
        let mut before = flaws(&self.observed, policy_routing);
        for action in actions {
            self.observed = carried_out(std::mem::take(&mut self.observed), action);
            let after = flaws(&self.observed, policy_routing);
            if let Some(flaw) = after.iter().find(|flaw| !before.contains(flaw)) {
                return Err(format!("{action} opened {flaw:?}"));
            }
            before = after;
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<AddressAt> {
        let name = |ifindex: u32| {
            let link = self.host.links.iter().find(|link| link.index == ifindex);
            link.expect("a link").name.clone()
        };
        let at = |entry: &Address| AddressAt {
            address: entry.address,
            interface: name(entry.ifindex),
            kind: mailsteer_core::model::WantedKind::Source,
            ours: entry.ours,
        };
        self.host.addresses.iter().map(at).collect()
    }

    /// Slots as they stand.
    pub(crate) fn slots(&self) -> &BTreeMap<(LaneId, Family), Slots> {
        &self.observed.slots
    }

    /// The same in the beginning, when all was well.
    pub(crate) const fn first_slots(&self) -> &BTreeMap<(LaneId, Family), Slots> {
        &self.first
    }

    /// Whose slots these are.
    pub(crate) fn lane(&self, spec: &Spec, stream: usize, provider: usize) -> Option<LaneId> {
        self.world.ids().lane(&format!("m{stream}"), &spec.provider(provider))
    }

    /// The source that a slot leads to.
    pub(crate) fn source(&self, spec: &Spec, target: SlotTarget) -> Option<usize> {
        let SlotTarget::Source(id, _) = target else { return None };
        let (_, address, _) = self.world.ids().sources().find(|(known, ..)| *known == id)?;
        Some(spec.source_of(address))
    }

    /// Whether the host itself lets a source send, as far as the agent could see.
    pub(crate) fn can_send(&self, spec: &Spec, source: usize) -> bool {
        let there = self.seen.addresses.iter().any(|entry| entry.address == spec.source(source));
        there && self.seen.links[spec.sources[source].uplink + 1].up
    }

    /// Verdicts that tell of a source, by name of their states.
    pub(crate) fn told(&self, source: usize) -> Vec<&'static str> {
        let name = format!("s{source}");
        let of = |(_, event): &(i64, Event)| match &event.kind {
            EventKind::Verdict { source, to, .. } if *source == name => Some(to.name()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    /// Every event of this kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|(_, event)| event.kind.name() == kind).count()
    }

    /// Isolations, whoever's; the last is whether other sources had traffic there.
    pub(crate) fn isolations(&self) -> Vec<(i64, IpAddr, String, bool)> {
        let isolated = |(at, event): &(i64, Event)| match &event.kind {
            EventKind::Verdict { address, provider, to, evidence, .. } if to.name() == "isolated" => {
                let among_others = evidence.as_ref().is_some_and(|evidence| evidence.siblings.any);
                Some((*at, *address, provider.clone(), among_others))
            }
            _ => None,
        };
        self.events.iter().filter_map(isolated).collect()
    }
}

fn at(now: i64, ahead: SignedDuration) -> Timestamp {
    Timestamp::from_millisecond(BEGIN * 1_000 + now).expect("a time") + ahead
}

fn entry(spec: &Spec, source: usize) -> Address {
    let ifindex = 2 + u32::try_from(spec.sources[source].uplink).expect("few");
    let prefix_len = if spec.ipv6 { 128 } else { 32 };
    Address { ifindex, address: spec.source(source), prefix_len, state: AddressState::Ready, ours: false }
}

fn host(spec: &Spec) -> Host {
    let link = |n: usize| Link {
        index: 2 + u32::try_from(n).expect("few"),
        name: format!("eth{n}"),
        up: true,
        loopback: false,
        point_to_point: false,
    };
    let lo = Link { index: 1, name: "lo".into(), up: true, loopback: true, point_to_point: false };
    let route = |destination: &str, gateway: &str| Route {
        destination: destination.parse().expect("a network"),
        gateway: Some(gateway.parse().expect("an address")),
        ifindex: 2,
        metric: 0,
    };
    Host {
        links: std::iter::once(lo).chain((0..spec.uplinks).map(link)).collect(),
        addresses: (0..spec.sources.len()).map(|n| entry(spec, n)).collect(),
        routes: vec![route("0.0.0.0/0", "198.18.0.1"), route("::/0", "2001:db8:ff0::1")],
    }
}
