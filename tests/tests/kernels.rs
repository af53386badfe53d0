//! What has to hold on every kernel that is supported. `cargo xtask test --kernel 6.1` boots another one for it.
//!
//! No figure of time is asserted: a kernel that is emulated is slow.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll, strangers};

const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9925);
const PATIENCE: Duration = Duration::from_secs(30);
/// The table stays open to strangers, as on kernels that cannot own it.
const CONFIG: &str = r#"
mode = "enforce"
[nft]
own_table = "never"
[pool.main]
addresses = [
    "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14",
    "2001:db8:a::11", "2001:db8:a::12", "2001:db8:a::13", "2001:db8:a::14",
]
weights = { "main-1" = 3, "main-5" = 3 }
[stream.mail]
uid = 1001
pool = "main"
"#;

struct Scene {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
    capture: Capture,
}

impl Scene {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: &str) -> Self {
        let lab = Lab::new(Options { uplinks: 1, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        receiver.script(Whom::All, Behaviour::BannerClose);
        let agent = Agent::start(&lab, config).unwrap();
        let capture = Capture::start(&lab.world, &["wa"], 25).unwrap();
        Self { lab, receiver, agent, capture }
    }

    /// Both families in turn; 0: until stopped.
    fn load(&self, count: u64) -> Load {
        Load {
            rate: 100,
            count,
            uid: 1001,
            gid: 1001,
            to: vec![receiver4(1), receiver6(1)],
            cgroup: Some(self.lab.cgroup().unwrap().to_owned()),
            timeout_ms: 60_000,
            ..Load::default()
        }
    }

    fn wait_received(&self, count: usize) {
        poll::until_true(PATIENCE, "connections", || self.receiver.count() >= count).unwrap();
    }

    /// As `tc` shows it; a tcx link it does not show.
    fn guard_is_a_filter(&self) -> bool {
        self.lab.mail.sh("tc filter show dev upa egress").unwrap().contains("mailsteer_guard")
    }

    /// Everything got through, nothing with a wrong address, and the agent counted what the receivers saw.
    fn settle(self, report: &Report) {
        let wire = self.capture.stop().unwrap();
        assert_eq!((report.ok, &report.failed), (report.attempts, &BTreeMap::new()), "{report:?}");
        assert_eq!((wire.others(&sources()), wire.lost), (Vec::new(), 0));
        let outcome = |name: &str| {
            let labels = ["stream=\"mail\"", &format!("outcome=\"{name}\"")];
            self.agent.metric(METRICS, "mailsteer_connections_total", &labels)
        };
        let wanted = (report.attempts as f64, report.attempts as f64);
        let counted = || -> anyhow::Result<_> { Ok((outcome("attempted")?, outcome("established")?)) };
        let agreed = poll::until(PATIENCE, "the counts", || Ok((counted()? == wanted).then_some(())));
        assert!(agreed.is_ok(), "{:?}, {report:?}", counted());
        assert_eq!(self.agent.metric(METRICS, "mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
        drop(self.agent);
        self.receiver.stop().unwrap();
        self.lab.close().unwrap();
    }
}

/// In the order of their names.
fn sources() -> Vec<IpAddr> {
    let uplink = &uplinks()[0];
    (0..4).map(|n| uplink.source4(n)).chain((0..4).map(|n| uplink.source6(n))).collect()
}

fn has_tcx() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 6)
}

#[test]
fn each_family_is_steered_by_weight_to_one_connection() {
    let scene = Scene::new();
    let forced = std::env::var_os("MAILSTEER_BPF_HOOK").is_some();
    assert_eq!(scene.guard_is_a_filter(), forced || !has_tcx());
    let report = scene.load(601).run(&scene.lab.mail).unwrap();
    let peers = scene.receiver.by_peer();
    for (n, source) in sources().into_iter().enumerate() {
        // Half of the connections are of its family, and six shares are in a pool.
        let wanted = 300.5 * if n % 4 == 0 { 3.0 } else { 1.0 } / 6.0;
        let seen = peers.get(&source).copied().unwrap_or_default() as f64;
        assert!((seen - wanted).abs() <= 1.0, "{source}: {seen} of {wanted}; {peers:?}");
    }
    if scene.guard_is_a_filter() {
        scene.lab.mail.sh("tc qdisc del dev upa clsact").unwrap();
        poll::until_true(PATIENCE, "the guard to be put back", || scene.guard_is_a_filter()).unwrap();
    }
    scene.settle(&report);
}

#[test]
fn a_flush_leaks_nothing_and_is_repaired() {
    let scene = Scene::new();
    let running = scene.load(0).start(&scene.lab.mail).unwrap();
    for n in 1..=3 {
        scene.wait_received(scene.receiver.count() + 30);
        strangers::flush(&scene.lab.mail).unwrap();
        poll::until(PATIENCE, "a repair", || {
            let repairs = scene.agent.metric(METRICS, "mailsteer_table_repairs_total", &[])?;
            Ok((repairs >= f64::from(n)).then_some(()))
        })
        .unwrap();
    }
    let report = running.stop().unwrap();
    scene.settle(&report);
}

#[test]
fn killed_and_started_again_it_goes_on_and_counts_on() {
    let mut scene = Scene::new();
    let running = scene.load(0).start(&scene.lab.mail).unwrap();
    for _ in 0..2 {
        scene.wait_received(scene.receiver.count() + 50);
        scene.agent.kill().unwrap();
        scene.wait_received(scene.receiver.count() + 50);
        scene.agent.restart().unwrap();
    }
    let report = running.stop().unwrap();
    scene.settle(&report);
}

/// The rules alone steer, and count by sets that this kernel has to know.
#[test]
fn without_ebpf_too_it_goes_on_and_counts_on() {
    let without = format!("{CONFIG}[guard]\nebpf = \"off\"\n");
    let mut scene = Scene::with(&without);
    let running = scene.load(0).start(&scene.lab.mail).unwrap();
    for weight in [1, 3] {
        scene.wait_received(scene.receiver.count() + 50);
        scene.agent.kill().unwrap();
        scene.wait_received(scene.receiver.count() + 50);
        scene.agent.restart().unwrap();
        scene.agent.reload(&without.replace("\"main-5\" = 3", &format!("\"main-5\" = {weight}"))).unwrap();
    }
    let report = running.stop().unwrap();
    assert_eq!(scene.agent.metric(METRICS, "mailsteer_locks", &[]).unwrap(), 1.0);
    scene.settle(&report);
}
