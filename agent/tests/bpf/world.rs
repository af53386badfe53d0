//! What each test has: a network namespace of its own with two veth pairs into another, a bpffs, a cgroup.
//!
//! Owns: making and removing them, and the connections that tests try. Must not: attach programs unasked.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use mailsteer::act::bpf::{BpfPaths, Programs};
use mailsteer::observe::bpf::Reader;
use mailsteer_core::model::{GuardSource, LaneId, SourceId};
use mailsteer_core::plan::GuardSpec;
use mailsteer_ebpf::{Held, Mark};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

/// The process has one cgroup, so one test at a time moves it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// What the programs are told to take; set from outside, it holds for every test.
const HOOK: &str = "MAILSTEER_BPF_HOOK";
static NUMBER: AtomicU32 = AtomicU32::new(0);

const SHORT: Duration = Duration::from_millis(300);
pub(super) const RECEIVER: &str = "192.0.2.100";
pub(super) const RECEIVER6: &str = "2001:db8:5::100";
pub(super) const EXCLUDED: &str = "192.0.2.101";
pub(super) const SILENT: &str = "192.0.2.102";
pub(super) const SILENT6: &str = "2001:db8:5::102";
pub(super) const BEHIND: &str = "203.0.113.100";
pub(super) const UNREACHABLE: &str = "198.51.100.9";
pub(super) const SOURCE: &str = "192.0.2.11";
pub(super) const SOURCE6: &str = "2001:db8:5::11";
pub(super) const OTHER: &str = "192.0.2.12";
pub(super) const LANE: u8 = 3;

pub(super) struct World {
    peer: String,
    pub(super) paths: BpfPaths,
    pub(super) home: PathBuf,
    pub(super) uplink: u32,
    forced: bool,
    _turn: MutexGuard<'static, ()>,
}

pub(super) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Lines of `ip`, here or in another namespace.
fn batch(namespace: Option<&str>, lines: &str) {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let out = ip.wait_with_output().unwrap();
    assert!(out.status.success(), "{lines}: {}", String::from_utf8_lossy(&out.stderr));
}

pub(super) fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

impl World {
    /// `None`, loudly, where it cannot be made.
    pub(super) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED: network namespaces and eBPF need root");
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = format!("msbpf-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let home = std::env::temp_dir().join(&name);
        let cgroup = cgroup2().join(&name);
        let paths = BpfPaths { bpffs: home.clone(), cgroup };
        let mut world = Self { peer: name, paths, home, uplink: 0, forced: false, _turn: turn };
        world.network();
        fs::create_dir(&world.home).unwrap();
        mount(Some("bpf"), &world.home, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir(&world.paths.cgroup).unwrap();
        fs::write(world.paths.cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        world.uplink = nix::net::if_::if_nametoindex("up0").unwrap();
        Some(world)
    }

    /// Where programs stand as filters, also on a kernel that has tcx.
    pub(super) fn by_clsact() -> Option<Self> {
        let mut world = Self::new()?;
        world.forced = std::env::var_os(HOOK).is_none();
        if world.forced {
            // SAFETY: every test of this program waits for its turn first, and nothing else of it asks meanwhile.
            unsafe { std::env::set_var(HOOK, "clsact") };
        }
        Some(world)
    }

    /// In few batches: a machine that is emulated takes longer to start a program than to do what it says.
    fn network(&self) {
        let peer = &self.peer;
        run(&format!("ip netns add {peer}"));
        batch(
            None,
            &format!(
                "link set lo up
                 link add up0 type veth peer name peer0 netns {peer}
                 link add up1 type veth peer name peer1 netns {peer}
                 link set up0 up
                 link set up1 up"
            ),
        );
        batch(
            Some(peer),
            "link set lo up
             link set peer0 up
             link set peer1 up
             addr add 192.0.2.100/24 dev peer0
             addr add 192.0.2.101/32 dev peer0
             addr add 2001:db8:5::100/64 dev peer0 nodad
             addr add 203.0.113.100/24 dev peer1
             route add unreachable 198.51.100.0/24",
        );
        batch(
            None,
            &format!(
                "addr add 192.0.2.10/24 dev up0
                 addr add 192.0.2.11/32 dev up0
                 addr add 192.0.2.12/32 dev up0
                 addr add 192.0.2.13/32 dev up0
                 addr add 203.0.113.10/24 dev up1
                 addr add 2001:db8:5::10/64 dev up0 nodad
                 addr add 2001:db8:5::11/128 dev up0 nodad
                 addr add 2001:db8:5::12/128 dev up0 nodad
                 neigh replace {SILENT} lladdr 02:00:00:00:00:66 dev up0
                 neigh replace {SILENT6} lladdr 02:00:00:00:00:66 dev up0
                 route add 198.51.100.0/24 via 192.0.2.100"
            ),
        );
        run(&format!("ip netns exec {peer} sysctl -qw net.ipv4.ip_forward=1"));
    }

    /// Accepts connections to a port in the other namespace, for as long as the tests run.
    pub(super) fn listen(&self, address: &str, port: u16) {
        let at = SocketAddr::new(address.parse().unwrap(), port);
        let namespace = self.peer_namespace();
        let listener = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(at).unwrap()
        });
        let listener = listener.join().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Closes as soon as the other side does.
                let _ = std::io::copy(&mut &stream, &mut std::io::sink());
                drop::<TcpStream>(stream);
            }
        });
    }

    /// Gives the other side of `up0` this address, and tells this side.
    pub(super) fn peer_mac(&self, mac: &str) {
        run(&format!("ip -n {} link set peer0 address {mac}", self.peer));
        for neighbour in [RECEIVER, RECEIVER6] {
            run(&format!("ip neigh replace {neighbour} lladdr {mac} dev up0"));
        }
    }

    pub(super) fn peer_namespace(&self) -> fs::File {
        fs::File::open(Path::new("/run/netns").join(&self.peer)).unwrap()
    }

    pub(super) fn programs(&self) -> Programs {
        Programs::open(&self.paths).unwrap()
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::open(&self.paths.bpffs).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Programs::remove(&self.paths);
        if self.forced {
            // SAFETY: as where it was set.
            unsafe { std::env::remove_var(HOOK) };
        }
        let _ = umount2(&self.home, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.home);
        let parent = self.paths.cgroup.parent().unwrap();
        let _ = fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.paths.cgroup);
        let _ = Command::new("ip").args(["netns", "del", &self.peer]).status();
    }
}

pub(super) fn mark(source: u16) -> u32 {
    Mark { uplink: 1, lane: LANE, source }.pack()
}

pub(super) fn socket(from: Option<&str>, to: &str, mark: u32) -> Socket {
    let to: IpAddr = to.parse().unwrap();
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    if mark != 0 {
        socket.set_mark(mark).unwrap();
    }
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    }
    socket
}

pub(super) fn connect(from: Option<&str>, to: &str, port: u16, mark: u32) -> std::io::Result<Socket> {
    let socket = socket(from, to, mark);
    socket.connect_timeout(&SocketAddr::new(to.parse().unwrap(), port).into(), SHORT)?;
    Ok(socket)
}

/// Starts to connect and does not wait.
pub(super) fn start(socket: &Socket, to: &str) {
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&SocketAddr::new(to.parse().unwrap(), 25).into());
}

pub(super) fn source(id: u16, address: &str, ifindex: Option<u32>) -> GuardSource {
    GuardSource { id: SourceId(id), address: address.parse().unwrap(), ifindex }
}

pub(super) fn spec(armed: bool) -> GuardSpec {
    GuardSpec {
        ports: vec![25, 26],
        exclude: vec!["192.0.2.101/32".parse().unwrap(), "2001:db8:7::/48".parse().unwrap()],
        armed,
        cgroups: Vec::new(),
        lanes: [(LaneId(LANE), ("marketing".into(), "other".into()))].into(),
    }
}

pub(super) fn steer(world: &World, programs: &mut Programs) {
    let sources = [
        source(7, SOURCE, Some(world.uplink)),
        source(8, SOURCE6, None),
        source(9, "192.0.2.13", Some(world.uplink + 1000)),
    ];
    programs.set_sources(&sources, &[]).unwrap();
    programs.set_guard(&spec(true)).unwrap();
    programs.attach(world.uplink).unwrap();
}

pub(super) fn held(world: &World, reason: Held) -> u64 {
    world.reader().held().unwrap()[reason as usize]
}

/// Asserts that connecting comes to nothing, and that this reason is counted.
#[track_caller]
pub(super) fn assert_held(world: &World, reason: Held, from: Option<&str>, to: &str, mark: u32) {
    let before = held(world, reason);
    assert!(connect(from, to, 25, mark).is_err(), "left: {from:?} to {to}, mark {mark:#x}");
    assert!(held(world, reason) > before, "not counted as {reason:?}");
}
