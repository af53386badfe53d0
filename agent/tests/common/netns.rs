//! Two network namespaces joined by links, for one test; they vanish with the value.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// `host`, in which the test runs, and `peer`; `up0` and `up1` lead from the first to `peer0` and `peer1`.
pub(crate) struct Pair {
    pub(crate) host: String,
    pub(crate) peer: String,
    home: File,
}

impl Pair {
    /// Makes them and moves this thread into `host`. Call it before any runtime is made: sockets belong to the
    /// namespace of the thread that makes them.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("ms-{}-{number}-{side}", std::process::id());
        let pair = Self {
            host: name("host"),
            peer: name("peer"),
            home: File::open("/proc/thread-self/ns/net").unwrap(),
        };
        for namespace in [&pair.host, &pair.peer] {
            run(&["ip", "netns", "add", namespace]);
            run(&["ip", "-n", namespace, "link", "set", "lo", "up"]);
        }
        for index in ["0", "1"] {
            let (near, far) = (format!("up{index}"), format!("peer{index}"));
            run(&[
                "ip", "-n", &pair.host, "link", "add", &near, "type", "veth", "peer", "name", &far, "netns",
                &pair.peer,
            ]);
            run(&["ip", "-n", &pair.host, "link", "set", &near, "up"]);
            run(&["ip", "-n", &pair.peer, "link", "set", &far, "up"]);
        }
        enter(&pair.host);
        pair
    }

    /// `ip` in the peer's namespace.
    pub(crate) fn peer_ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.peer))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = setns(&self.home, CloneFlags::CLONE_NEWNET);
        for namespace in [&self.host, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// Moves this thread, and what it starts, into a namespace.
pub(crate) fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// `ip` in the namespace of this thread.
pub(crate) fn ip(arguments: &str) -> String {
    let words: Vec<&str> = ["ip"].into_iter().chain(arguments.split_whitespace()).collect();
    run(&words)
}

/// Runs a program that must succeed.
pub(crate) fn run(words: &[&str]) -> String {
    let output: Output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
