//! A host whose containers Docker's rules serve, a recipe that runs on it, and the account of what leaves: receiver, wire
//! and agent have to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::capture::WireReport;
use mailsteer_tests::load::{Load, Report, Running};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, NetNs, Options, Receiver, docker, poll, recipes};

/// How soon counts and records show what happened.
pub(crate) const SHOWN: Duration = Duration::from_secs(10);

/// A source by the lab's plan, of either family.
pub(crate) fn source(n: u8, v6: bool) -> IpAddr {
    let uplink = &uplinks()[0];
    if v6 { uplink.source6(n) } else { uplink.source4(n) }
}

/// The host's own address, which Docker's MASQUERADE takes.
pub(crate) fn own(v6: bool) -> IpAddr {
    let uplink = &uplinks()[0];
    if v6 { uplink.own6.into() } else { uplink.own4.into() }
}

/// So many receivers of each family.
pub(crate) fn receivers(count: u8) -> Vec<IpAddr> {
    (1..=count).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect()
}

/// Two sources of each family: the pool of the first two recipes.
pub(crate) fn pool() -> BTreeSet<IpAddr> {
    [false, true].into_iter().flat_map(|v6| [source(0, v6), source(1, v6)]).collect()
}

/// What the agent has counted, over all streams and sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    pub(crate) attempts: u64,
    pub(crate) established: u64,
    pub(crate) wrong: u64,
    pub(crate) refused: u64,
}

/// The running host.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) lab: Lab,
    pub(crate) receiver: Receiver,
    pub(crate) agent: Agent,
}

impl Place {
    /// A host with containers that Docker's rules serve, on which the recipe then runs, with `settings` before it.
    pub(crate) fn new(recipe: &str, options: Options, settings: &str) -> Self {
        let lab = Lab::new(Options { uplinks: 1, ..options }).unwrap();
        // The lab's masquerading, in tables that iptables could not share.
        lab.mail.nft("delete table ip nat\ndelete table ip6 nat").unwrap();
        docker::start(&lab.mail).unwrap();
        // A stream's cgroup has to be there.
        std::fs::create_dir(lab.cgroup().unwrap().join("mail.slice")).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let config = format!("{settings}{}", recipes::config(recipe).unwrap());
        for v6 in [false, true] {
            let to = if v6 { receiver6(1) } else { receiver4(1) };
            assert!(connect(&lab.containers[0], to).ok == 1, "Docker's rules serve {to}");
            assert_eq!(receiver.by_peer()[&own(v6)], 1, "masqueraded");
        }
        let agent = Agent::start(&lab, &config).unwrap();
        Self { lab, receiver, agent }
    }

    /// A load from container `n`, as a user of its own user namespace where it has one.
    pub(crate) fn start(&self, n: usize, load: &Load) -> Running {
        let ns = &self.lab.containers[n];
        load.start_among(ns, ns.is_unprivileged().then_some(ns)).unwrap()
    }

    /// Connections that are all served; how many came from each address. Wire, receiver and agent agree.
    pub(crate) fn serve(&self, start: impl FnOnce() -> Running, count: u64) -> BTreeMap<IpAddr, u64> {
        self.forget();
        let before = self.counted();
        let capture = self.capture();
        let report = start().finish().unwrap();
        assert_eq!((report.attempts, report.ok), (count, count), "{report:?}");
        let seen = self.receiver.by_peer();
        assert_eq!(seen.values().sum::<u64>(), count, "{seen:?}");
        let counted = self.await_counted(before, count);
        assert_eq!(counted, Counted { attempts: count, established: count, wrong: 0, refused: 0 });
        let wire = capture.stop().unwrap();
        assert_eq!(wire.lost, 0);
        let on_wire: BTreeSet<IpAddr> = wire.by_source.keys().map(|(_, source)| *source).collect();
        assert_eq!(on_wire, seen.keys().copied().collect::<BTreeSet<_>>());
        seen
    }

    /// [`Place::serve`] for a load from container `n`.
    pub(crate) fn serve_container(&self, n: usize, load: &Load) -> BTreeMap<IpAddr, u64> {
        self.serve(|| self.start(n, load), load.count)
    }

    /// What leaves for port 25, as the world sees it.
    pub(crate) fn capture(&self) -> Capture {
        Capture::start(&self.lab.world, &[uplinks()[0].far], 25).unwrap()
    }

    /// Lets the receivers forget all connections, once they are over.
    pub(crate) fn forget(&self) {
        let over = || self.receiver.connections().iter().all(|connection| !connection.open);
        poll::until_true(SHOWN, "every connection to be over", over).unwrap();
        self.receiver.forget();
    }

    /// What was counted so far, read anew.
    pub(crate) fn counted(&self) -> Counted {
        let status = self.agent.json(&["status"]).unwrap();
        let number = |key: &str| status["totals"][key].as_u64().unwrap_or_else(|| panic!("{key}: {status}"));
        Counted {
            attempts: number("attempts"),
            established: number("established"),
            wrong: number("wrong"),
            refused: number("refused"),
        }
    }

    /// What was counted since `before`, once that many connections were, or the time is over.
    pub(crate) fn await_counted(&self, before: Counted, count: u64) -> Counted {
        let since = || {
            let now = self.counted();
            Counted {
                attempts: now.attempts - before.attempts,
                established: now.established - before.established,
                wrong: now.wrong - before.wrong,
                refused: now.refused - before.refused,
            }
        };
        let all = || {
            let counted = since();
            counted.attempts >= count && counted.established >= count
        };
        poll::until_true(SHOWN, "the counts", all).ok();
        since()
    }

    /// Ends it, without residue.
    pub(crate) fn close(self) {
        let Self { lab, receiver, agent } = self;
        drop(agent);
        receiver.stop().unwrap();
        lab.close().unwrap();
    }
}

/// One connection from a namespace.
pub(crate) fn connect(ns: &NetNs, to: IpAddr) -> Report {
    Load { count: 1, to: vec![to], ..Load::default() }.run(ns).unwrap()
}

/// Nothing left from another address than the pool's.
pub(crate) fn only_the_pool(wire: &WireReport) {
    assert_eq!(wire.lost, 0);
    assert_eq!(wire.others(&pool().into_iter().collect::<Vec<_>>()), [] as [String; 0]);
}
