//! A simulated world: sources, providers, traffic and faults, as data.
//!
//! Owns: what a world is made of, and drawing one at random. Must not: run it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use ipnet::IpNet;
use mailsteer_core::config::{
    Balance, Config, ControlAccess, Ebpf, Fuse, Ipv6, Mode, OTHER, OnExhausted, OnFlip, OnRelapse, OwnTable,
    Plumbing, Pool, PoolSource, Provider, Retention, Safety, Stream, Tier, Uplink,
};
use mailsteer_core::model::{Family, LaneMatch};

/// A source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceSpec {
    /// Which /24 or /48.
    pub(crate) network: u8,
    pub(crate) uplink: usize,
    pub(crate) weight: u32,
    pub(crate) spare: bool,
    /// In which pools, a bit each.
    pub(crate) pools: u8,
}

impl SourceSpec {
    /// One of its own, beside others.
    pub(crate) const PLAIN: Self = Self { network: 0, uplink: 0, weight: 1, spare: false, pools: 1 };
}

/// How connections fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Silent,
    Refused,
    /// With 554.
    Greeted,
    /// With 421.
    Deferred,
    Reset,
    Unreachable,
}

impl How {
    pub(crate) const ALL: [Self; 6] =
        [Self::Silent, Self::Refused, Self::Greeted, Self::Deferred, Self::Reset, Self::Unreachable];
}

/// What is wrong.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum What {
    /// A source fails at a provider, or at all of them.
    Source { source: usize, provider: Option<usize>, how: How },
    /// All sources of a network fail at a provider.
    Network { network: u8, provider: usize, how: How },
    /// Every other source fails at a provider.
    Half { provider: usize, how: How },
    /// One receiver of a provider answers nobody.
    Receiver { provider: usize, receiver: usize },
    /// No receiver of a provider answers anybody.
    Provider { provider: usize, how: How },
    /// Nothing that leaves by this uplink is answered.
    Uplink(usize),
    /// The link of this uplink is down.
    Link(usize),
    /// The source's address is off the host.
    Address(usize),
    /// So many of a thousand packets are lost, each way.
    Loss(u32),
    /// So many of a thousand connections are refused, whosesoever.
    Refusals(u32),
    /// The agent does not run.
    Stall,
    /// The clock is set by so many seconds when it begins.
    Clock(i64),
    /// Nobody sends anything: names cannot be resolved; when it ends, three times as much as otherwise for as long.
    NoTraffic,
}

/// A fault, in milliseconds from the beginning.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Fault {
    pub(crate) what: What,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl Fault {
    pub(crate) fn is_on(&self, at: i64) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// A world.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) seed: u64,
    pub(crate) ipv6: bool,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) uplinks: usize,
    /// How many have a name; what is of none is one more.
    pub(crate) providers: usize,
    /// Receivers of each.
    pub(crate) receivers: usize,
    /// Stream 0 uses pool 0, stream 1 pool 1 and so on, and then again from the first on.
    pub(crate) streams: usize,
    pub(crate) pools: usize,
    /// Receivers greet, or end a connection, so many milliseconds after it stands.
    pub(crate) greets_after: i64,
    /// Connections a second.
    pub(crate) rate: f64,
    pub(crate) faults: Vec<Fault>,
    /// Milliseconds.
    pub(crate) lasts: i64,
    pub(crate) safety: Safety,
    pub(crate) on_relapse: OnRelapse,
}

impl Spec {
    /// Four sources in four networks, two on each of two uplinks; two named providers; nothing wrong.
    pub(crate) fn plain() -> Self {
        let source = |n: u8| SourceSpec { network: n, uplink: usize::from(n / 2), ..SourceSpec::PLAIN };
        Self {
            seed: 1,
            ipv6: false,
            sources: (0..4).map(source).collect(),
            uplinks: 2,
            providers: 2,
            receivers: 12,
            streams: 1,
            pools: 1,
            greets_after: 20,
            rate: 20.0,
            faults: Vec::new(),
            lasts: 120_000,
            safety: Safety { flips_per_day: 100, ..Safety::default() },
            on_relapse: OnRelapse::Hold,
        }
    }

    pub(crate) fn with(mut self, what: What, from_second: i64, until_second: i64) -> Self {
        self.faults.push(Fault { what, from: from_second * 1_000, until: until_second * 1_000 });
        self
    }

    /// A link that goes down for a second every two.
    pub(crate) fn flapping(self, uplink: usize, from_second: i64, until_second: i64) -> Self {
        let downs = (from_second..until_second).step_by(2);
        downs.fold(self, |spec, second| spec.with(What::Link(uplink), second, second + 1))
    }

    /// One at random.
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let uplinks = rng.usize(1..3);
        let networks = rng.u8(1..5);
        let count = if rng.u8(0..6) == 0 { rng.usize(9..17) } else { rng.usize(1..9) };
        let pools = if rng.u8(0..4) == 0 { 2 } else { 1 };
        let sources = (0..count).map(|n| SourceSpec {
            network: rng.u8(0..networks),
            uplink: rng.usize(0..uplinks),
            weight: rng.u32(1..4),
            spare: n > 0 && rng.u8(0..8) == 0,
            // The first is in every pool: none is empty or has only spares.
            pools: if n == 0 || pools == 1 { 3 } else { rng.u8(1..4) },
        });
        let mut spec = Self {
            seed,
            sources: sources.collect(),
            ipv6: rng.bool(),
            uplinks,
            providers: rng.usize(0..3),
            receivers: rng.usize(2..16),
            streams: rng.usize(pools..3),
            pools,
            greets_after: [20, 20, 300, 5_000][rng.usize(0..4)],
            rate: [1.0, 4.0, 12.0][rng.usize(0..3)],
            faults: Vec::new(),
            lasts: 90_000,
            safety: Safety { flips_per_day: [0, 1, 3, 100][rng.usize(0..4)], ..Safety::default() },
            on_relapse: [OnRelapse::Hold, OnRelapse::Stop][rng.usize(0..2)],
        };
        for _ in 0..rng.usize(0..4) {
            let from = rng.i64(5_000..50_000);
            let until = from + rng.i64(2_000..40_000);
            match spec.random_fault(&mut rng) {
                What::Link(uplink) if rng.bool() => {
                    spec = spec.flapping(uplink, from / 1_000, until / 1_000);
                }
                what => spec.faults.push(Fault { what, from, until }),
            }
        }
        spec
    }

    fn random_fault(&self, rng: &mut Rng) -> What {
        let provider = rng.usize(0..=self.providers);
        let source = rng.usize(0..self.sources.len());
        let how = How::ALL[rng.usize(0..How::ALL.len())];
        match rng.u8(0..18) {
            0..3 => What::Source { source, provider: Some(provider), how },
            3..5 => What::Source { source, provider: None, how: How::Silent },
            5 | 15 => What::Network { network: self.sources[source].network, provider, how },
            6 => What::Receiver { provider, receiver: rng.usize(0..self.receivers) },
            7 => What::Provider { provider, how },
            8 => What::Uplink(self.sources[source].uplink),
            9 => What::Link(self.sources[source].uplink),
            10 => What::Address(source),
            11..13 => What::Loss(rng.u32(1..50)),
            13 => What::Stall,
            16 => What::Half { provider, how },
            17 => What::Refusals(rng.u32(1..20)),
            14 if rng.bool() => What::Clock(rng.i64(-3_600..3_600)),
            _ => What::NoTraffic,
        }
    }

    /// The address of a source.
    pub(crate) fn source(&self, n: usize) -> IpAddr {
        let network = self.sources[n].network;
        let host = 10 + u8::try_from(n).expect("few sources");
        if self.ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(192, 0, network, host).into()
        }
    }

    pub(crate) fn source_of(&self, address: IpAddr) -> usize {
        (0..self.sources.len()).find(|&n| self.source(n) == address).expect("a source's address")
    }

    /// The address of a provider's receiver.
    pub(crate) fn receiver(&self, provider: usize, receiver: usize) -> IpAddr {
        let (second, last) = (u8::try_from(provider).expect("few"), u8::try_from(receiver + 1).expect("few"));
        if self.ipv6 {
            Ipv6Addr::new(0x2600, second.into(), 0, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(20, second, 0, last).into()
        }
    }

    /// Whether a receiver is a provider's.
    pub(crate) fn is_receiver_of(&self, address: IpAddr, provider: usize) -> bool {
        (0..self.receivers).any(|n| self.receiver(provider, n) == address)
    }

    /// Of all addresses.
    pub(crate) const fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    /// Which source has that name.
    pub(crate) fn source_named(&self, name: &str) -> usize {
        (0..self.sources.len()).find(|n| format!("s{n}") == name).expect("a source's name")
    }

    /// The pool of the stream of that name.
    pub(crate) fn pool_of_stream(&self, name: &str) -> usize {
        let stream = (0..self.streams).find(|n| format!("m{n}") == name);
        self.pool_of(stream.expect("a stream's name"))
    }

    /// Its name; the last one is nobody's.
    pub(crate) fn provider(&self, n: usize) -> String {
        if n < self.providers { format!("p{n}") } else { OTHER.to_owned() }
    }

    /// Which provider has that name.
    pub(crate) fn provider_of(&self, name: &str) -> Option<usize> {
        (0..=self.providers).find(|&n| self.provider(n) == name)
    }

    /// Whether a source is in a pool.
    pub(crate) fn is_in(&self, source: usize, pool: usize) -> bool {
        self.sources[source].pools & (1 << pool) != 0
    }

    /// The pool that a stream uses.
    pub(crate) const fn pool_of(&self, stream: usize) -> usize {
        stream % self.pools
    }

    /// The sources of a pool.
    pub(crate) fn members(&self, pool: usize) -> impl Iterator<Item = usize> + Clone + '_ {
        (0..self.sources.len()).filter(move |&source| self.is_in(source, pool))
    }

    /// What the agent is told of it.
    pub(crate) fn config(&self) -> Config {
        let net = |text: String| -> IpNet { text.parse().expect("a network") };
        let provider = |n: usize| Provider {
            name: self.provider(n),
            networks: vec![net(format!("20.{n}.0.0/16")), net(format!("2600:{n:x}::/32"))],
            named: false,
        };
        let source = |(n, spec): (usize, &SourceSpec)| PoolSource {
            name: format!("s{n}"),
            local: self.source(n),
            public: self.source(n),
            weight: spec.weight,
            tier: if spec.spare { Tier::Spare } else { Tier::Primary },
            uplink: (self.uplinks > 1).then_some(spec.uplink),
        };
        let uplink = |n: usize| Uplink {
            name: format!("u{n}"),
            interface: format!("eth{n}"),
            gateways: vec![
                format!("198.18.{n}.1").parse().expect("an address"),
                format!("2001:db8:ff{n}::1").parse().expect("an address"),
            ],
            prefixes: vec![net(format!("198.18.{n}.0/24"))],
        };
        let stream = |n: usize| Stream {
            name: format!("m{n}"),
            pool: format!("pool{}", self.pool_of(n)),
            matches: LaneMatch { uids: vec![u32::try_from(n).expect("few")], ..LaneMatch::default() },
            mode: Mode::Enforce,
            on_exhausted: OnExhausted::Refuse,
            ipv6: Ipv6::Refuse,
            on_relapse: self.on_relapse,
            on_flip: OnFlip::Finish,
        };
        let pool = |n: usize| Pool {
            name: format!("pool{n}"),
            ehlo: None,
            balance: Balance::RoundRobin,
            sources: self.members(n).map(|member| source((member, &self.sources[member]))).collect(),
            min_healthy: 1,
        };
        Config {
            mode: Mode::Enforce,
            ports: vec![25],
            exclude: Vec::new(),
            plumbing: Plumbing::Adopt,
            own_table: OwnTable::Auto,
            ebpf: Ebpf::Auto,
            metrics: None,
            control: ControlAccess::default(),
            retention: Retention::default(),
            fuse: Fuse::default(),
            safety: self.safety,
            uplinks: if self.uplinks > 1 { (0..self.uplinks).map(uplink).collect() } else { Vec::new() },
            providers: (0..self.providers).map(provider).collect(),
            learning: None,
            pools: (0..self.pools).map(pool).map(|pool| (pool.name.clone(), pool)).collect(),
            streams: (0..self.streams).map(stream).collect(),
            ..Config::observe_only()
        }
    }
}
