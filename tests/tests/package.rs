//! The package's life in a bare Debian: install, upgrade, remove, purge. No systemd runs there: what only one can show
//! is in docs/operating.md.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use mailsteer_tests::debian::{Debian, package};
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::probe::Asker;
use mailsteer_tests::topology::{receiver4, uplinks};
use mailsteer_tests::{Capture, Lab, Options, Receiver, poll};

const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14"]
[stream.mail]
uid = 1001
pool = "main"
"#;

fn sources(lab: &Lab, receiver: &Receiver) -> BTreeSet<IpAddr> {
    Asker::on_host(lab, 1001).unwrap().sources(receiver, 8, receiver4(1)).unwrap()
}

fn ended(agent: &mut Child) {
    poll::until(Duration::from_secs(20), "the agent to end", || Ok(agent.try_wait()?)).unwrap();
}

/// Files that bear our name.
fn ours(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if path.ends_with("root/proc") || path.ends_with("root/sys") {
            continue;
        }
        if path.file_name().unwrap().to_string_lossy().contains("mailsteer") {
            found.push(path.display().to_string());
        }
        if kind.is_dir() {
            found.extend(ours(&path));
        }
    }
    found
}

#[test]
fn install_upgrade_remove_purge() {
    let lab = Lab::new(Options { uplinks: 1, ipv6: false, ..Options::default() }).unwrap();
    let before = HostState::of(&lab).unwrap();
    let unchanged = |when: &str| {
        assert_eq!(before.differences(&HostState::of(&lab).unwrap()), Vec::<String>::new(), "{when}");
    };
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let debian = Debian::new(&lab).unwrap();
    let own: BTreeSet<IpAddr> = [uplinks()[0].own4.into()].into();
    let pool: BTreeSet<IpAddr> = (0..4).map(|n| uplinks()[0].source4(n)).collect();

    // Nothing runs, nothing changes.
    let said = debian.install(&package("0.1.0~test1").unwrap()).unwrap();
    assert!(said.contains("nothing runs before /etc/mailsteer/mailsteer.toml is there"), "{said}");
    let users = fs::read_to_string(debian.path("/etc/passwd")).unwrap();
    assert!(users.contains("\nmailsteer:"), "{users}");
    assert_eq!(debian.run("mailsteer", &["status"]).unwrap().status.code(), Some(2));
    assert_eq!(sources(&lab, &receiver), own);
    unchanged("installed");

    fs::write(debian.path("/etc/mailsteer/mailsteer.toml"), CONFIG).unwrap();
    let mut agent = debian.started_agent().unwrap();
    assert_eq!(sources(&lab, &receiver), pool);

    // An upgrade takes nothing down, and the next agent takes over what the last one put up.
    let capture = Capture::start(&lab.world, &["wa"], 25).unwrap();
    let said = debian.install(&package("0.1.0~test2").unwrap()).unwrap();
    assert!(said.contains("goes on with the old program") && !said.contains("taking down"), "{said}");
    assert_eq!(agent.try_wait().unwrap(), None, "it goes on");
    assert_eq!(sources(&lab, &receiver), pool);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(sources(&lab, &receiver), pool, "without an agent");
    let mut agent = debian.started_agent().unwrap();
    assert_eq!(sources(&lab, &receiver), pool, "after the upgrade");
    let wire = capture.stop().unwrap();
    let left: BTreeSet<IpAddr> = wire.by_source.keys().map(|(_, source)| *source).collect();
    assert_eq!((left, wire.lost), (pool, 0));

    // Removal takes all of it, and says so.
    let said = debian.dpkg(&["--remove", "mailsteer"]).unwrap();
    assert!(said.contains("mail leaves unsteered from now on"), "{said}");
    ended(&mut agent);
    unchanged("removed");
    assert_eq!(sources(&lab, &receiver), own);
    assert!(debian.path("/etc/mailsteer/mailsteer.toml").is_file(), "the config is kept");

    debian.dpkg(&["--purge", "mailsteer"]).unwrap();
    debian.remove_log().unwrap();
    assert_eq!(ours(&debian.path("/")), Vec::<String>::new());
    for file in ["/etc/passwd", "/etc/group"] {
        let text = fs::read_to_string(debian.path(file)).unwrap();
        assert!(!text.contains("mailsteer"), "{file}: {text}");
    }
    unchanged("purged");
    drop((receiver, debian));
    lab.close().unwrap();
}

/// For the same commit and tool chain.
#[test]
fn two_builds_are_the_same_to_the_byte() {
    let [one, two] = ["one", "two"].map(|_| fs::read(package("0.1.0~same").unwrap()).unwrap());
    assert!(one == two);
}
