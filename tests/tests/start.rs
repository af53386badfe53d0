//! From a bare root to a proven first steered message: what docs/start.md tells is done here, and is what was seen here.
//!
//! The blocks of that page are written by this test (`MAILSTEER_BLESS=1`); the words between them are not.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use mailsteer_tests::debian::{Debian, package};
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::topology::{receiver4, uplinks};
use mailsteer_tests::{Lab, Options, Receiver, poll};

const CONFIG: &str = "/etc/mailsteer/mailsteer.toml";
const TRY: &str = "mailsteer try --stream postfix mx.example.net";
/// Everything that is typed, from the package file to the proof. What systemd does is done by the test.
const TYPED: [&str; 8] = [
    "dpkg -i mailsteer_0.1.0_amd64.deb",
    "mailsteer init --output /etc/mailsteer/mailsteer.toml",
    "mailsteer check /etc/mailsteer/mailsteer.toml",
    "systemctl enable --now mailsteer",
    TRY,
    "sed -i -e 's/\"observe\"/\"enforce\"/' -e '/\"192.0.2.10\",/d' /etc/mailsteer/mailsteer.toml",
    "mailsteer reload",
    TRY,
];
/// Which of them systemd answers on a real host.
const BY_SYSTEMD: usize = 3;
/// What is looked at once it is proven.
const AFTERWARDS: [&str; 1] = ["mailsteer status"];
/// Keys and brackets of the config, comments apart.
const LINES: usize = 15;

/// A mail host with four addresses beside its own, and Postfix's user and config, which is what is asked about it.
struct Host {
    debian: Debian,
    agent: Option<Child>,
}

impl Host {
    fn new(lab: &Lab) -> Self {
        let debian = Debian::new(lab).unwrap();
        let made = debian.run("adduser", &["--system", "--quiet", "--no-create-home", "postfix"]).unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::create_dir(debian.path("/etc/postfix")).unwrap();
        fs::write(debian.path("/etc/postfix/main.cf"), "myhostname = mail.example.com\n").unwrap();
        let hosts = fs::File::options().create(true).append(true).open(debian.path("/etc/hosts"));
        writeln!(hosts.unwrap(), "{} mx.example.net", receiver4(1)).unwrap();
        fs::copy(package("0.1.0~start").unwrap(), debian.path("/root/mailsteer_0.1.0_amd64.deb")).unwrap();
        Self { debian, agent: None }
    }

    /// Runs what is typed in a shell, in /root, and returns what it said; it has to succeed.
    fn runs(&self, typed: &str) -> String {
        let output = self.debian.run("sh", &["-c", &format!("cd /root && {typed} 2>&1")]).unwrap();
        let said = String::from_utf8(output.stdout).unwrap().replace("0.1.0~start", "0.1.0");
        assert!(output.status.success(), "{typed}: {}: {said}", output.status);
        said
    }

    /// A block of the page.
    fn types(&mut self, number: usize, typed: &str) -> String {
        let said = if number == BY_SYSTEMD {
            self.agent = Some(self.debian.started_agent().unwrap());
            String::new()
        } else {
            self.runs(typed)
        };
        format!("# {typed}\n{said}")
    }

    fn counted(&self) -> u64 {
        let status = self.debian.run("mailsteer", &["status", "--json"]).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["totals"]["established"].as_u64().unwrap()
    }

    /// The config without comments and empty lines.
    fn config(&self) -> String {
        let text = fs::read_to_string(self.debian.path(CONFIG)).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// The address that the last words of `try` name in their first line.
fn left_from(block: &str) -> IpAddr {
    let line = block.lines().nth(1).unwrap();
    line.strip_prefix("left from ").unwrap().split(',').next().unwrap().parse().unwrap()
}

#[test]
fn the_first_steps_are_as_the_page_tells() {
    let lab = Lab::new(Options { uplinks: 1, ipv6: false, plumbed: 4, ..Options::default() }).unwrap();
    let before = HostState::of(&lab).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let mut host = Host::new(&lab);
    let pool: BTreeSet<IpAddr> = (0..4).map(|n| uplinks()[0].source4(n)).collect();
    let seen = || receiver.connections().iter().map(|one| one.peer.ip()).collect::<Vec<_>>();

    let mut blocks: Vec<String> =
        TYPED.iter().enumerate().map(|(number, typed)| host.types(number, typed)).collect();

    // What `try` says is what the receiver saw: first the host's own address, then one of the pool.
    let said = [&blocks[4], &blocks[7]].map(|block| left_from(block));
    assert_eq!(seen(), said);
    assert_eq!(said[0], IpAddr::from(uplinks()[0].own4));
    assert!(pool.contains(&said[1]), "{said:?}");
    assert!(blocks[7].contains(&format!("left from {}, as wanted", said[1])), "{}", blocks[7]);
    let config = host.config();
    assert!(config.lines().count() <= LINES, "{config}");

    poll::until_true(Duration::from_secs(10), "both connections to be counted", || host.counted() == 2)
        .unwrap();
    for typed in AFTERWARDS {
        blocks.push(host.types(TYPED.len(), typed));
    }
    blocks.insert(6, config);
    host.runs("dpkg --purge mailsteer");
    assert!(host.agent.unwrap().wait().unwrap().success());
    assert_eq!(before.differences(&HostState::of(&lab).unwrap()), Vec::<String>::new());
    drop((receiver, host.debian));
    lab.close().unwrap();
    tells(&page(), &blocks);
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/start.md")
}

/// Compares the blocks of a page with what was seen; `MAILSTEER_BLESS=1` writes it.
fn tells(page: &Path, blocks: &[String]) {
    let text = fs::read_to_string(page).unwrap();
    let parts: Vec<&str> = text.split("```").collect();
    // Words, block, words, block ... words.
    assert_eq!(parts.len(), 2 * blocks.len() + 1, "as many blocks as were made: {blocks:#?}");
    let mut made = String::new();
    for (number, part) in parts.iter().enumerate() {
        if number % 2 == 0 {
            made += part;
        } else {
            let kind = part.lines().next().unwrap();
            made += &format!("```{kind}\n{}```", blocks[number / 2]);
        }
    }
    if std::env::var_os("MAILSTEER_BLESS").is_some() {
        fs::write(page, &made).unwrap();
        return;
    }
    let [told, seen] = [&text, &made].map(|text| text.lines().map(stable).collect::<Vec<_>>());
    assert!(
        told == seen,
        "{} is out of date: run this test with MAILSTEER_BLESS=1. Now it is:\n{made}",
        page.display()
    );
}

/// A line without what differs from run to run (counts of files, ports, cookies, times) and from kernel to kernel
/// (whether the table is owned).
fn stable(line: &str) -> String {
    let until = |end: &str| line.rsplit_once(end).map_or(line, |(start, _)| start).to_owned();
    match line.split_whitespace().next().unwrap_or_default() {
        "(Reading" => "(Reading database".to_owned(),
        "locks" => line.replace(", owned", ""),
        "socket" => until(":"),
        "answer" => until(" ("),
        "agent" => until(" up "),
        _ => line.to_owned(),
    }
}
