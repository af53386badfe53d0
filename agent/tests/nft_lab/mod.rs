//! A host and a world in two network namespaces, for the tests of the nftables table.
//!
//! The namespaces belong to threads and vanish with the test's process at the latest; nothing is named, so nothing is left behind.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// The host's own addresses.
pub(crate) const PRIMARY: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// The world's, one of many that it answers for.
pub(crate) const WORLD: [&str; 2] = ["198.51.100.1", "2001:db8:5::1"];

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a namespace of its own.
pub(crate) struct Place {
    pub(crate) tid: i32,
    jobs: Sender<Job>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (tell, told) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in inbox {
                job();
            }
        });
        Self { tid: told.recv().unwrap(), jobs }
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.send(Box::new(move || tell.send(work()).unwrap())).unwrap();
        told.recv().unwrap()
    }
}

/// Runs a shell script in the calling thread's namespace; panics with its words.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a condition, with a deadline.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// The world and what it saw.
pub(crate) struct Lab {
    pub(crate) world: Place,
    pub(crate) seen: Arc<Mutex<Vec<IpAddr>>>,
}

impl Lab {
    /// The calling thread becomes the host.
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let world = Place::new();
        sh(&format!(
            "ip link add up0 type veth peer name w0
             ip link set w0 netns {}
             sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.up0.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip link set lo up; ip link set up0 up
             ip addr add 192.0.2.10/24 dev up0; ip addr add 2001:db8::10/64 dev up0 nodad
             for n in 11 12 13 14; do ip addr add 192.0.2.$n/32 dev up0; ip addr add 2001:db8::$n/128 dev up0 nodad preferred_lft 0; done
             ip addr add 192.168.77.1/24 dev lo",
            world.tid
        ));
        world.run(|| {
            sh("ip link set lo up; ip link set w0 up
                ip addr add 192.0.2.1/24 dev w0; ip addr add 2001:db8::1/64 dev w0 nodad
                ip route add local 198.51.100.0/24 dev lo; ip -6 route add local 2001:db8:5::/48 dev lo
                ip route add local 10.9.0.0/16 dev lo")
        });
        sh("ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        world.run(move || serve(&log));
        let lab = Self { world, seen };
        eventually("IPv6 ready", || connect_as(0, WORLD[1], 25).is_ok());
        lab.seen();
        lab
    }

    /// Peers seen since the last call, once as many have come as connections were made.
    pub(crate) fn seen(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn serve(log: &Arc<Mutex<Vec<IpAddr>>>) {
    for port in [25_u16, 26] {
        let listener = TcpListener::bind(("::", port)).unwrap();
        let log = Arc::clone(log);
        thread::spawn(move || {
            let mut open = std::collections::VecDeque::new();
            while let Ok((stream, peer)) = listener.accept() {
                use std::io::Write as _;
                log.lock().unwrap().push(peer.ip().to_canonical());
                let _ = (&stream).write_all(b"220\r\n");
                open.push_back(stream);
                if open.len() > 64 {
                    open.pop_front();
                }
            }
        });
    }
}

/// Connects as a user, in the calling thread's namespace, and waits for the banner.
pub(crate) fn connect_as(uid: u32, to: &str, port: u16) -> std::io::Result<TcpStream> {
    connect_within(uid, to, port, Duration::from_secs(10))
}

pub(crate) fn connect_within(uid: u32, to: &str, port: u16, limit: Duration) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    as_user(uid, move || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.read_exact(&mut [0; 5])?;
        Ok(stream)
    })
}

/// Runs work on a thread of that user.
pub(crate) fn as_user<T: Send + 'static>(uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    thread::spawn(move || {
        setns(here, CloneFlags::CLONE_NEWNET).unwrap();
        // SAFETY: changes only this thread's credentials (the raw call, not libc's process-wide one).
        let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!(done, 0);
        work()
    })
    .join()
    .unwrap()
}

/// An unconnected socket of a user with a packet mark, bound to an address.
pub(crate) fn connect_bound(bind: Option<&str>, mark: u32, to: &str) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.parse().unwrap(), 25);
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    if mark != 0 {
        let size = size_of::<u32>() as libc::socklen_t;
        // SAFETY: the pointer and size name a live u32.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MARK,
                (&raw const mark).cast(),
                size,
            )
        };
        assert_eq!(done, 0);
    }
    if let Some(bind) = bind {
        socket.bind(&SocketAddr::new(bind.parse().unwrap(), 0).into())?;
    }
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.read_exact(&mut [0; 5])?;
    Ok(stream)
}
