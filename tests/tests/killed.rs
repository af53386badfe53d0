//! SIGKILL anywhere in a flip: at each system call by which the agent tells the kernel something, one after the other. Whatever was
//! told by then stands; nothing leaves from a wrong address meanwhile; and the next agent brings it to its end.
//!
//! strace kills: it ends the agent when it enters its n-th call.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mailsteer_tests::load::Load;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{METRICS, SHOWN, Scene, offences};
use mailsteer_tests::topology::{Options, receiver4, receiver6, uplinks};
use mailsteer_tests::{poll, slots};
use serde_json::Value;

/// By netlink (routes, addresses, elements of the table, conntrack) and to the eBPF maps.
const CALLS: &str = "sendto,sendmsg,bpf";
/// More than a flip has: where this many did not kill it, the test looks at the wrong calls.
const MOST: usize = 60;
/// Calls that are tried one by one; later ones in larger steps, for they repeat the same kinds.
const EACH: usize = 12;

/// An agent that is killed at its n-th call from now on.
struct Trap(Child);

impl Trap {
    fn set(pid: u32, n: usize) -> Self {
        let inject = format!("inject={CALLS}:signal=KILL:when={n}");
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject])
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        poll::until_true(SHOWN, "every thread is traced", || {
            threads(pid).iter().all(|thread| is_traced(thread))
        })
        .unwrap();
        Self(child)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        let _over = self.0.kill();
        let _over = self.0.wait();
    }
}

fn threads(pid: u32) -> Vec<std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

fn is_traced(thread: &Path) -> bool {
    let text = fs::read_to_string(thread.join("status")).unwrap_or_default();
    text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}

fn is_gone(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.is_empty() || text.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// Names of the pool's sources that can serve, by the agent's own word; `None` while none answers.
fn serving(scene: &Scene) -> Option<Vec<String>> {
    let rows = scene.agent.json(&["sources"]).ok()?;
    let serves = |row: &&Value| row["state"] == "healthy" && row["pools"][0] == "main";
    Some(
        rows.as_array()?
            .iter()
            .filter(serves)
            .filter_map(|row| Some(row["name"].as_str()?.to_owned()))
            .collect(),
    )
}

/// Whether any slot in the kernel leads to a source of the uplink that is down.
fn points_there(scene: &Scene) -> bool {
    let down = &uplinks()[1];
    let of = [down.source4(0), down.source4(1), down.source6(0), down.source6(1)];
    slots::lead_to(&scene.lab.mail, |address| of.contains(&address)).unwrap()
}

fn link(scene: &Scene, up: bool) {
    scene.lab.mail.sh(&format!("ip link set upb {}", if up { "up" } else { "down" })).unwrap();
    if up {
        // The kernel took them away with the link; the router's own come by themselves.
        scene.lab.mail.sh("ip route replace default via 198.51.100.1 dev upb metric 200").unwrap();
    }
}

#[test]
fn killed_at_any_call_of_a_flip_nothing_leaves_wrong_and_the_next_agent_ends_it() {
    let mut scene = Scene::new(Options::default(), "").unwrap();
    scene.receiver.script(Whom::All, Behaviour::BannerClose);
    let all = 8;
    let (mut n, mut killed) = (1, 0);
    loop {
        poll::until_true(Duration::from_secs(30), "all serve", || {
            serving(&scene).is_some_and(|s| s.len() == all)
        })
        .unwrap();
        let capture = scene.capture().unwrap();
        let to: Vec<_> = (1..=10).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect();
        let load = Load { count: 0, to, timeout_ms: 4_000, ..scene.load(100, 1).unwrap() };
        let running = load.start(&scene.lab.mail).unwrap();
        let pid = scene.agent.pid().unwrap();
        let trap = Trap::set(pid, n);
        link(&scene, false);
        let ended = poll::until(SHOWN, "killed, or through", || {
            Ok(if is_gone(pid) { Some(true) } else { (!points_there(&scene)).then_some(false) })
        });
        let was_killed = ended.unwrap();
        drop(trap);
        killed += usize::from(was_killed);
        scene.agent.restart().unwrap();
        poll::until_true(SHOWN, "the next agent ends it", || {
            serving(&scene).is_some_and(|serving| serving.len() == all / 2) && !points_there(&scene)
        })
        .unwrap();
        assert!(running.stop().unwrap().ok > 0, "there was traffic");
        assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new(), "killed at call {n}");
        let report = Load { to: vec![receiver4(1), receiver6(1)], ..scene.load(100, 20).unwrap() }
            .run(&scene.lab.mail);
        assert_eq!(report.unwrap().ok, 20, "killed at call {n}");
        link(&scene, true);
        if !was_killed || n > MOST {
            break;
        }
        n += if n < EACH { 1 } else { 8 };
    }
    println!("killed at {killed} calls, the last but one the {n}th");
    assert!(killed >= 6 && n <= MOST, "killed {killed} times, {n}");
    assert_eq!(scene.agent.metric(METRICS, "mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
    scene.close().unwrap();
}
