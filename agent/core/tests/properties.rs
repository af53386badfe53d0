//! Properties that hold for every world: plans converge, and no step of a plan opens a gap.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use mailsteer_core::config::{
    Balance, Config, ControlAccess, Ebpf, Fuse, Ipv6, Mode, OnExhausted, OnFlip, OnRelapse, OwnTable,
    Plumbing, Pool, PoolSource, Retention, Safety, Stream, Tier, Uplink,
};
use mailsteer_core::decide::{Command, Observation, World, desired};
use mailsteer_core::model::{
    Address, AddressState, Family, Host, LaneId, LaneMatch, Link, Route, SlotTarget, WantedKind,
};
use mailsteer_core::plan::{Action, AddressAt, Flaw, Observed, carried_out, flaws, plan};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Address `n` of uplink `way`; even ones are IPv4, odd ones IPv6.
fn address(way: usize, n: usize) -> IpAddr {
    let text = if n.is_multiple_of(2) {
        format!("192.0.{way}.{}", n + 10)
    } else {
        format!("2001:db8:{way}::{:x}", n + 16)
    };
    text.parse().unwrap()
}

#[derive(Clone, Debug)]
struct Shape {
    uplinks: usize,
    pools: Vec<Vec<(u32, bool)>>,
    plumb: bool,
    pass: bool,
    modes: Vec<u16>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let source = (0_u32..5, any::<bool>());
    let pool = prop::collection::vec(source, 1..6);
    let pools = prop::collection::vec(pool, 1..4);
    (1_usize..3, pools, any::<bool>(), any::<bool>(), prop::collection::vec(0_u16..1200, 3))
        .prop_map(|(uplinks, pools, plumb, pass, modes)| Shape { uplinks, pools, plumb, pass, modes })
}

fn config(shape: &Shape) -> Config {
    let two = shape.uplinks > 1;
    let uplink = |way: usize| Uplink {
        name: format!("u{way}"),
        interface: format!("eth{way}"),
        gateways: vec![
            format!("192.0.{way}.1").parse().unwrap(),
            format!("2001:db8:{way}::1").parse().unwrap(),
        ],
        prefixes: vec![network(&format!("192.0.{way}.0/24")), network(&format!("2001:db8:{way}::/64"))],
    };
    let mut pools = BTreeMap::new();
    let mut streams = Vec::new();
    for (index, sources) in shape.pools.iter().enumerate() {
        let name = format!("p{index}");
        let source = |(n, &(weight, spare)): (usize, &(u32, bool))| {
            let way = n % shape.uplinks;
            let local = address(way, index * 20 + n);
            PoolSource {
                name: format!("p{index}-{n}"),
                local,
                public: local,
                weight,
                tier: if spare { Tier::Spare } else { Tier::Primary },
                uplink: two.then_some(way),
            }
        };
        let sources = sources.iter().enumerate().map(source).collect();
        pools.insert(
            name.clone(),
            Pool { name: name.clone(), ehlo: None, balance: Balance::RoundRobin, sources, min_healthy: 1 },
        );
        let mode = match shape.modes[index] {
            0..100 => Mode::Observe,
            share @ 100..1000 => Mode::Canary(share),
            _ => Mode::Enforce,
        };
        streams.push(Stream {
            name: format!("s{index}"),
            pool: name,
            matches: LaneMatch { uids: vec![100 + u32::try_from(index).unwrap()], ..LaneMatch::default() },
            mode,
            on_exhausted: if shape.pass { OnExhausted::Pass } else { OnExhausted::Refuse },
            ipv6: Ipv6::Refuse,
            on_relapse: OnRelapse::Hold,
            on_flip: [OnFlip::Finish, OnFlip::CloseIdle, OnFlip::Cut][index % 3],
        });
    }
    Config {
        mode: Mode::Observe,
        ports: vec![25],
        exclude: vec![network("10.0.0.0/8")],
        plumbing: if shape.plumb { Plumbing::Plumb } else { Plumbing::Adopt },
        own_table: OwnTable::Auto,
        ebpf: Ebpf::Auto,
        metrics: None,
        control: ControlAccess::default(),
        retention: Retention::default(),
        safety: Safety::default(),
        fuse: Fuse::default(),
        uplinks: if two { (0..2).map(uplink).collect() } else { Vec::new() },
        providers: Vec::new(),
        learning: None,
        pools,
        streams,
        ..Config::observe_only()
    }
}

/// What happens to the host and by the operator's word.
#[derive(Clone, Debug)]
enum Happening {
    Address { way: usize, n: usize, there: bool },
    Link { way: usize, up: bool },
    Suspend { pool: usize, n: usize },
    Resume { pool: usize, n: usize },
    Bypass { stream: usize },
    Hold,
    EndHold,
    Reload(Shape),
    Flush,
    Later,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_usize..2, 0_usize..60, any::<bool>())
            .prop_map(|(way, n, there)| Happening::Address { way, n, there }),
        2 => (0_usize..2, any::<bool>()).prop_map(|(way, up)| Happening::Link { way, up }),
        2 => (0_usize..3, 0_usize..6).prop_map(|(pool, n)| Happening::Suspend { pool, n }),
        2 => (0_usize..3, 0_usize..6).prop_map(|(pool, n)| Happening::Resume { pool, n }),
        1 => (0_usize..3).prop_map(|stream| Happening::Bypass { stream }),
        1 => Just(Happening::Hold),
        1 => Just(Happening::EndHold),
        1 => shape().prop_map(Happening::Reload),
        1 => Just(Happening::Flush),
        1 => Just(Happening::Later),
    ]
}

/// A host of two interfaces, and what stands on it.
struct Lab {
    world: World,
    observed: Observed,
    host: Host,
    now: i64,
    /// Connections that nobody has answered: of which lane, from which source.
    pending: BTreeSet<(LaneId, Family, SlotTarget)>,
}

impl Lab {
    fn new(shape: &Shape) -> Self {
        Self::with_guard(shape, true)
    }

    fn with_guard(shape: &Shape, guard: bool) -> Self {
        let link = |index: u32| Link {
            index,
            name: format!("eth{}", index - 2),
            up: true,
            loopback: false,
            point_to_point: false,
        };
        let lo = Link { index: 1, name: "lo".into(), up: true, loopback: true, point_to_point: false };
        let default = |destination: &str, gateway: &str, ifindex: u32| Route {
            destination: network(destination),
            gateway: Some(gateway.parse().unwrap()),
            ifindex,
            metric: ifindex,
        };
        let routes = vec![default("0.0.0.0/0", "192.0.0.1", 2), default("::/0", "2001:db8:0::1", 2)];
        let host = Host { links: vec![lo, link(2), link(3)], addresses: Vec::new(), routes };
        let mut world = World::new(config(shape), at(0));
        if !guard {
            world.apply(Observation::NoGuard, at(0));
        }
        world.apply(Observation::Host(host.clone()), at(0));
        Self { world, observed: Observed::default(), host, now: 0, pending: BTreeSet::new() }
    }

    fn happen(&mut self, happening: &Happening) {
        self.now += 1;
        let now = at(self.now);
        match happening {
            Happening::Address { way, n, there } => {
                let (ifindex, address) = (u32::try_from(*way).unwrap() + 2, address(*way, *n));
                self.host.addresses.retain(|entry| entry.address != address);
                if *there {
                    let state = AddressState::Ready;
                    self.host.addresses.push(Address {
                        ifindex,
                        address,
                        prefix_len: 24,
                        state,
                        ours: false,
                    });
                }
            }
            Happening::Link { way, up } => self.host.links[way + 1].up = *up,
            Happening::Suspend { pool, n } => {
                let source = format!("p{pool}-{n}");
                let command =
                    Command::Suspend { source, until: Some(at(self.now + 5)), reason: "test".into() };
                let _unknown = self.world.command(command, now);
            }
            Happening::Resume { pool, n } => {
                let command = Command::Resume { source: format!("p{pool}-{n}"), reason: "test".into() };
                let _not_suspended = self.world.command(command, now);
            }
            Happening::Bypass { stream } => {
                let stream = format!("s{stream}");
                let command = Command::Bypass { stream, until: at(self.now + 3), reason: "test".into() };
                let _unknown = self.world.command(command, now);
            }
            Happening::Hold => {
                let command = Command::Hold { until: Some(at(self.now + 8)), reason: "test".into() };
                self.world.command(command, now).unwrap();
            }
            Happening::EndHold => {
                let _not_held = self.world.command(Command::EndHold { reason: "test".into() }, now);
            }
            Happening::Reload(shape) => {
                self.world.apply(Observation::Config(Box::new(config(shape))), now);
            }
            Happening::Flush => {
                self.observed.table = None;
                self.observed.unhealed = true;
                self.observed.slots.clear();
                self.observed.translations.clear();
            }
            Happening::Later => self.now += 1000,
        }
    }

    /// Reads the host into what is observed, as the agent does.
    fn look(&mut self) {
        self.world.apply(Observation::Host(self.host.clone()), at(self.now));
        let name =
            |ifindex: u32| self.host.links.iter().find(|link| link.index == ifindex).unwrap().name.clone();
        let entry = |entry: &Address| AddressAt {
            address: entry.address,
            interface: name(entry.ifindex),
            kind: if entry.ifindex == 1 { WantedKind::Tag } else { WantedKind::Source },
            ours: entry.ours,
        };
        self.observed.addresses = self.host.addresses.iter().map(entry).collect();
    }

    /// Does to the host what the action does.
    fn carry_out(&mut self, action: &Action) {
        let index = |host: &Host, name: &str| host.links.iter().find(|link| link.name == name).unwrap().index;
        if let Action::AddAddress(entry) = action {
            let ifindex = index(&self.host, &entry.interface);
            let state = AddressState::Ready;
            let address = Address { ifindex, address: entry.address, prefix_len: 32, state, ours: true };
            self.host.addresses.push(address);
        }
        if let Action::RemoveAddress(entry) = action {
            self.host.addresses.retain(|there| there.address != entry.address || !there.ours);
        }
        self.observed = carried_out(std::mem::take(&mut self.observed), action);
        if matches!(action, Action::MovePending { .. }) {
            let drawn = self.drawn();
            self.pending.retain(|connection| drawn.contains(connection));
        }
    }

    fn policy_routing(&self) -> bool {
        self.world.config().uplinks.len() > 1
    }

    fn flaws(&self) -> Vec<Flaw> {
        flaws(&self.observed, self.policy_routing())
    }

    /// Every lane, family and source that a connection can draw now.
    fn drawn(&self) -> BTreeSet<(LaneId, Family, SlotTarget)> {
        let slots = self.observed.slots.iter();
        let all =
            slots.flat_map(|(&(lane, family), slots)| slots.0.iter().map(move |&to| (lane, family, to)));
        all.filter(|(.., to)| matches!(to, SlotTarget::Source(..))).collect()
    }

    /// Observes, decides, plans and acts until nothing is left to do; checks every step.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _round in 0..4 {
            self.look();
            let decision = desired(&self.world, at(self.now));
            let actions = plan(&decision.desired, &self.observed);
            if actions.is_empty() {
                prop_assert_eq!(self.flaws(), Vec::new(), "a settled state is sound");
                return Ok(());
            }
            let mut before = self.flaws();
            for action in actions {
                let guards = action.is_the_guards();
                prop_assert!(self.world.has_guard() || !guards, "{action} without a guard");
                self.carry_out(&action);
                let after = self.flaws();
                let opened: Vec<&Flaw> = after.iter().filter(|flaw| !before.contains(flaw)).collect();
                prop_assert!(opened.is_empty(), "{action} opened {opened:?}");
                before = after;
            }
            let armed = decision.desired.armed;
            prop_assert!(!armed || !self.observed.unmoved, "a plan that takes slots moves what is pending");
        }
        Err(TestCaseError::fail("the plan does not converge"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_converge_and_no_prefix_opens_a_gap(
        shape in shape(),
        // Whether the agent gets to a pass before the next thing happens.
        happenings in prop::collection::vec((happening(), any::<bool>()), 1..12),
        guard in any::<bool>(),
    ) {
        let mut lab = Lab::with_guard(&shape, guard);
        lab.settle()?;
        for (happening, settles) in &happenings {
            lab.happen(happening);
            if *settles {
                lab.settle()?;
            }
        }
        lab.settle()?;
    }

    /// Whatever happens, and wherever the agent is killed: once it has settled no pending connection of a steered lane is
    /// left with a source that holds no slot there. A killed agent leaves what it did and forgets that it did it.
    #[test]
    fn nothing_stays_pending_with_a_source_that_lost_its_slots(
        shape in shape(),
        happenings in prop::collection::vec((happening(), prop::option::of(0_usize..12)), 1..12),
    ) {
        let mut lab = Lab::new(&shape);
        lab.settle()?;
        for (happening, killed_after) in &happenings {
            lab.pending.extend(lab.drawn());
            lab.happen(happening);
            lab.look();
            let decision = desired(&lab.world, at(lab.now));
            let actions = plan(&decision.desired, &lab.observed);
            if let Some(done) = killed_after {
                actions.iter().take(*done).for_each(|action| lab.carry_out(action));
                (lab.observed.unmoved, lab.observed.unended) = (true, true);
            }
            lab.settle()?;
            let decision = desired(&lab.world, at(lab.now));
            let drawn = lab.drawn();
            let left: Vec<_> = lab.pending.difference(&drawn).collect();
            prop_assert!(!decision.desired.armed || left.is_empty(), "left: {left:?}");
        }
    }

    #[test]
    fn the_same_world_gives_the_same_decision(shape in shape()) {
        let lab = Lab::new(&shape);
        prop_assert_eq!(desired(&lab.world, at(9)), desired(&lab.world, at(9)));
    }

    #[test]
    fn every_slot_of_a_steered_stream_is_an_eligible_source_of_its_pool_or_none(
        shape in shape(),
        happenings in prop::collection::vec(happening(), 1..12),
    ) {
        let mut lab = Lab::new(&shape);
        for happening in &happenings {
            lab.happen(happening);
            lab.look();
            let decision = desired(&lab.world, at(lab.now));
            for lane in &decision.desired.lanes {
                let stream = lab.world.config().streams.iter().find(|stream| stream.name == lane.stream).unwrap();
                let pool = &lab.world.config().pools[&stream.pool];
                for (family, slots) in &lane.slots {
                    for target in &slots.0 {
                        let SlotTarget::Source(id, _) = target else { continue };
                        let source = pool.sources.iter().find(|source| lab.world.ids().source(source.local) == Some(*id));
                        let source = source.expect("a source of the pool");
                        prop_assert_eq!(mailsteer_core::model::Family::of(source.local), *family);
                        prop_assert!(source.weight > 0);
                        prop_assert_eq!(lab.world.ineligible(source.local), None);
                        let there = lab.host.addresses.iter().any(|entry| entry.address == source.local);
                        prop_assert!(there, "its address is on the host");
                    }
                }
            }
        }
    }
}

/// A host that could not be read yet is no evidence: nothing is said of any source but what the operator says.
#[test]
fn nothing_is_decided_before_the_host_was_seen() {
    let shape =
        Shape { uplinks: 2, pools: vec![vec![(1, false); 4]], plumb: false, pass: false, modes: vec![1100] };
    let mut world = World::new(config(&shape), at(0));
    assert_eq!(world.apply(Observation::Tick, at(1)), []);
    assert_eq!(world.apply(Observation::Config(Box::new(config(&shape))), at(2)).len(), 1, "it was loaded");
    let suspend = Command::Suspend { source: "p0-1".into(), until: None, reason: "listed".into() };
    assert_eq!(world.command(suspend, at(3)).unwrap().len(), 1);
    assert!(world.pool_sources().all(|source| world.ineligible(source.local).is_none()));
}

/// The check itself: an order that takes away before it moves is caught.
#[test]
fn the_property_catches_a_wrong_order() {
    let shape = Shape {
        uplinks: 1,
        pools: vec![vec![(1, false); 4]],
        plumb: true,
        pass: false,
        modes: vec![1100; 3],
    };
    let mut lab = Lab::new(&shape);
    lab.settle().unwrap();
    let taken =
        lab.observed.addresses.iter().find(|entry| entry.kind == WantedKind::Source).cloned().unwrap();
    lab.carry_out(&Action::RemoveAddress(taken));
    assert!(!lab.flaws().is_empty());
}
