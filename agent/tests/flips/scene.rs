//! A host with both locks up, a world of receivers, and what each test does to them.
//!
//! Owns: making and removing them. Must not: decide; the tests say which slots stand.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{fs, thread};

use mailsteer::act::bpf::{BpfPaths, Programs};
use mailsteer::act::{Carried, Executor};
use mailsteer::conntrack::{self, Entry};
use mailsteer::nftnl::Ours;
use mailsteer::sockdiag::{self, Turn};
use mailsteer_core::config::{Balance, Config, OnFlip};
use mailsteer_core::model::{
    Family, GuardSource, Lane, LaneId, LaneMatch, SlotTarget, Slots, SourceId, Steering, UplinkId,
};
use mailsteer_core::plan::{Action, GuardSpec, LaneSpec, SlotChange, TableSpec};
use mailsteer_ebpf::Mark;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::nft_lab::{Lab, as_user, eventually};

pub(super) const USER: u32 = 1001;
pub(super) const OTHER_USER: u32 = 1002;
/// Where the receivers of these tests listen; nobody does at [`CLOSED`].
pub(super) const PORT: u16 = 27;
pub(super) const CLOSED: u16 = 28;
pub(super) const PORTS: [u16; 3] = [25, PORT, CLOSED];

/// Slots of several tests would meet in one cgroup hierarchy and one set of pins otherwise.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(super) const fn source(id: u16) -> SlotTarget {
    SlotTarget::Source(SourceId(id), UplinkId(1))
}

/// Sources 1 to 4 are 192.0.2.11 to .14, 5 to 8 are 2001:db8::11 to ::14.
pub(super) fn address(id: u16) -> IpAddr {
    let text = if id <= 4 { format!("192.0.2.{}", 10 + id) } else { format!("2001:db8::{}", 6 + id) };
    text.parse().unwrap()
}

pub(super) struct Scene {
    pub(super) lab: Lab,
    pub(super) receiver: Receiver,
    executor: Option<Executor>,
    slots: BTreeMap<(LaneId, Family), Slots>,
    lanes: Vec<LaneSpec>,
    paths: BpfPaths,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Lane 1 is of [`USER`], lane 2 of [`OTHER_USER`], lane 3 of the containers of 172.22.1.0/24.
    pub(super) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes network namespaces");
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = format!("msflips-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lab = Lab::new();
        let home = std::env::temp_dir().join(&name);
        fs::create_dir(&home).unwrap();
        mount(Some("bpf"), &home, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let cgroup = cgroup2().join(&name);
        fs::create_dir(&cgroup).unwrap();
        let receiver = Receiver::new(&lab);
        let paths = BpfPaths { bpffs: home.clone(), cgroup };
        let (slots, lanes) = (BTreeMap::new(), Vec::new());
        let mut scene = Self { lab, receiver, executor: None, slots, lanes, paths, home, _turn: turn };
        for uid in [USER, OTHER_USER] {
            scene.lane(LaneMatch { uids: vec![uid], ..LaneMatch::default() });
        }
        scene.lane(LaneMatch { subnets: vec!["172.22.1.0/24".parse().unwrap()], ..LaneMatch::default() });
        scene
    }

    pub(super) fn lane(&mut self, matches: LaneMatch) {
        let id = LaneId(u8::try_from(self.lanes.len() + 1).unwrap());
        let lane = Lane {
            id,
            stream: format!("stream{id}"),
            provider: "other".into(),
            networks: Vec::new(),
            matches,
            steering: Steering::Enforce,
            balance: Balance::RoundRobin,
            slots: BTreeMap::new(),
        };
        for (family, target) in [(Family::V4, source(1)), (Family::V6, source(5))] {
            self.slots.insert((id, family), Slots(vec![target; 2]));
        }
        self.lanes.push(LaneSpec { lane, slots: Family::BOTH.map(|family| (family, 2)).into() });
    }

    /// A lane's IPv4 slots, before the table is written.
    pub(super) fn slots(&mut self, lane: u8, targets: [SlotTarget; 2]) {
        self.slots.insert((LaneId(lane), Family::V4), Slots(targets.to_vec()));
    }

    /// The agent starts: both locks are put up, or those of an earlier one taken over.
    pub(super) async fn start(&mut self) {
        let state = self.home.with_extension("state");
        fs::create_dir_all(&state).unwrap();
        let config = Config::observe_only();
        let executor = Executor::open(self.paths.clone(), &config, &state, Ours::default()).unwrap();
        assert_eq!(executor.no_guard(), None, "these tests are about both locks");
        assert!(executor.unmoved() && executor.unended(), "an agent that starts knows of no flip before it");
        self.executor = Some(executor);
        let set = (1..=8).map(|id| GuardSource { id: SourceId(id), address: address(id), ifindex: None });
        let names = |lane: &LaneSpec| (lane.lane.id, (lane.lane.stream.clone(), "other".into()));
        let guard = GuardSpec {
            ports: PORTS.to_vec(),
            exclude: Vec::new(),
            armed: true,
            cgroups: Vec::new(),
            lanes: self.lanes.iter().map(names).collect(),
        };
        let spec = TableSpec {
            ports: PORTS.to_vec(),
            exclude: Vec::new(),
            uplinks: vec!["up0".into()],
            lanes: self.lanes.clone(),
            named: Vec::new(),
            guarded: true,
        };
        let translations = (1..=8).map(|id| (SourceId(id), address(id))).collect();
        let ifindex = nix::net::if_::if_nametoindex("up0").unwrap();
        self.act(Action::GuardSources { set: set.collect(), clear: Vec::new() }).await;
        self.act(Action::Guard(guard)).await;
        self.act(Action::Attach { ifindex }).await;
        self.act(Action::Table { spec, slots: self.slots.clone(), translations, receivers: [].into() }).await;
    }

    /// The agent dies without a word.
    pub(super) fn kill(&mut self) {
        self.executor = None;
    }

    pub(super) fn executor(&self) -> &Executor {
        self.executor.as_ref().unwrap()
    }

    pub(super) async fn act(&mut self, action: Action) -> Carried {
        self.executor.as_mut().unwrap().carry_out(&action).await.unwrap()
    }

    /// Gives all slots of a lane in a family to a source.
    pub(super) async fn flip(&mut self, lane: u8, to: u16) {
        let family = Family::of(address(to));
        let Slots(now) = self.slots.get_mut(&(LaneId(lane), family)).unwrap();
        let slots = (0..).zip(now.iter_mut()).map(|(slot, target)| {
            let from = std::mem::replace(target, source(to));
            SlotChange { lane: LaneId(lane), family, slot, from, to: source(to) }
        });
        let slots = slots.collect();
        self.act(Action::Flip { add: BTreeMap::new(), slots, remove: BTreeMap::new() }).await;
    }

    pub(super) async fn move_pending(&mut self) -> u64 {
        self.act(Action::MovePending { ports: PORTS.to_vec() }).await.moved
    }

    pub(super) async fn end_live(&mut self, lane: u8, which: OnFlip) -> u64 {
        let lanes = BTreeMap::from([(LaneId(lane), which)]);
        self.act(Action::EndLive { ports: PORTS.to_vec(), lanes }).await.ended
    }

    /// Ends idle ones as the daemon does, until so many have ended in all.
    pub(super) async fn end_idle_until(&mut self, lane: u8, wanted: u64) {
        let mut ended = 0;
        while ended < wanted {
            assert!(
                self.executor().until_next_ending().is_some(),
                "{ended} of {wanted}, and none is waited for"
            );
            eventually("time to look again", || self.executor().unended());
            ended += self.end_live(lane, OnFlip::CloseIdle).await;
        }
        assert_eq!(ended, wanted);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.executor = None;
        let _ = Programs::remove(&self.paths);
        let _ = umount2(&self.home, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.home);
        let _ = fs::remove_dir_all(self.home.with_extension("state"));
        let _ = fs::remove_dir(&self.paths.cgroup);
    }
}

fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

/// Conntrack's entries of a lane and source.
pub(super) fn entries(lane: u8, source: u16) -> Vec<Entry> {
    let own = |entry: &Entry| {
        Mark::unpack(entry.mark).is_some_and(|mark| (mark.lane, mark.source) == (lane, source))
    };
    conntrack::all(&PORTS).unwrap().into_iter().filter(own).collect()
}

pub(super) fn pending(lane: u8, source: u16) -> usize {
    entries(lane, source).iter().filter(|entry| entry.is_pending()).count()
}

/// Receivers at [`PORT`]: they greet, answer each line 20 ms later, and let `WAIT` wait until they are told.
pub(super) struct Receiver {
    log: Arc<Mutex<Vec<IpAddr>>>,
    gone: Arc<Mutex<Vec<IpAddr>>>,
    go: Arc<AtomicBool>,
}

impl Receiver {
    fn new(lab: &Lab) -> Self {
        let (log, gone, go) = (Arc::default(), Arc::default(), Arc::default());
        let all = Self { log: Arc::clone(&log), gone: Arc::clone(&gone), go: Arc::clone(&go) };
        lab.world.run(move || {
            let listener = TcpListener::bind(("::", PORT)).unwrap();
            thread::spawn(move || {
                while let Ok((stream, peer)) = listener.accept() {
                    let peer = peer.ip().to_canonical();
                    log.lock().unwrap().push(peer);
                    let (gone, go) = (Arc::clone(&gone), Arc::clone(&go));
                    thread::spawn(move || {
                        let _ended = serve(&stream, &go);
                        gone.lock().unwrap().push(peer);
                    });
                }
            });
        });
        all
    }

    /// Whom they saw since the last call, once it is so many.
    pub(super) fn seen(&self, count: usize) -> Vec<IpAddr> {
        eventually("so many seen", || self.log.lock().unwrap().len() >= count);
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Whose connections have ended.
    pub(super) fn gone(&self) -> Vec<IpAddr> {
        self.gone.lock().unwrap().clone()
    }

    /// Who waits gets an answer.
    pub(super) fn answer(&self) {
        self.go.store(true, Ordering::Release);
    }
}

fn serve(stream: &TcpStream, go: &AtomicBool) -> std::io::Result<()> {
    let mut to = stream;
    to.write_all(b"220-mx.example\r\n220 ready\r\n")?;
    for line in BufReader::new(stream).lines() {
        match line?.as_str() {
            "QUIT" => return to.write_all(b"221 bye\r\n"),
            "WAIT" => eventually("told to answer", || go.swap(false, Ordering::AcqRel)),
            // Two ticks of the kernel's clock, so that it is known who spoke last.
            _ => thread::park_timeout(Duration::from_millis(20)),
        }
        to.write_all(b"250 ok\r\n")?;
    }
    Ok(())
}

/// A client that is greeted.
pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) fn new(uid: u32, to: &str) -> Self {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        Self::greeted(as_user(uid, move || TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap()))
    }

    pub(super) fn greeted(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Self(stream);
        assert!(client.hears().unwrap().starts_with("220"));
        client
    }

    pub(super) fn says(&mut self, line: &str) -> std::io::Result<()> {
        self.0.write_all(format!("{line}\r\n").as_bytes())
    }

    pub(super) fn hears(&mut self) -> std::io::Result<String> {
        let mut text = [0; 512];
        let read = self.0.read(&mut text)?;
        Ok(String::from_utf8_lossy(&text[..read]).into_owned())
    }

    /// Whose turn the kernel says it is.
    pub(super) fn turn(&self) -> Option<Turn> {
        let own = self.0.local_addr().unwrap();
        let all = sockdiag::Connection::open().unwrap().talking_to(PORT).unwrap();
        all.into_iter().find(|one| one.local == own).unwrap().spoke.map(|spoke| spoke.turn())
    }

    /// Says a line and hears the answer.
    pub(super) fn talks(&mut self) -> std::io::Result<String> {
        self.says("NOOP")?;
        self.hears()
    }
}
