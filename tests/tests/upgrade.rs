//! From a really different program to this one, by its package, under load: one that fails, one that succeeds, a state
//! that is too new, the end. Both locks hold at every moment, nothing is lost that is promised, and a way back is said.
//!
//! No systemd runs in the bare root: what it would do with the units is done here.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mailsteer_tests::Lab;
use mailsteer_tests::debian::{Debian, package};
use mailsteer_tests::earlier::{self, Earlier, that_cannot_start};
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::ordeal::{Ordeal, Phase, Steering, config};
use mailsteer_tests::poll;
use mailsteer_tests::topology::{Options, uplinks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;
use serde_json::{Value, json};

/// The longest that a connection may take: one retransmission of its SYN, after 1 s.
const LIMIT: Duration = Duration::from_millis(1500);
/// How soon an agent ends.
const END: Duration = Duration::from_secs(20);
/// Handshakes that may be on their way when the programs of one map ABI take the place of another's: their SYN is
/// counted by the one, and their answer comes to the other, which knows nothing of it (docs/limits.md). Microseconds lie
/// between the two directions, of which a busy machine makes more: these are what begins in 100 ms.
const ASTRIDE: u64 = 53;
const STATE: &str = "/var/lib/mailsteer";

/// What is upgraded from, what fails, what is upgraded to.
struct Packages {
    earlier: Earlier,
    old: PathBuf,
    bad: PathBuf,
    new: PathBuf,
}

impl Packages {
    fn made() -> Self {
        let new = package("0.1.0~upgrade2").unwrap();
        let earlier = Earlier::built().unwrap();
        let (old, bad) = (earlier.packed(&new).unwrap(), that_cannot_start(&new, "0.1.0~upgrade1").unwrap());
        Self { earlier, old, bad, new }
    }
}

/// The package in its root, and its agent.
struct Installed {
    debian: Debian,
    agent: Child,
}

impl Steering for Installed {
    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.debian.run("mailsteer", &["status", "--json"])?.stdout)?)
    }
}

impl Installed {
    fn new(lab: &Lab, package: &Path) -> Result<Self> {
        let debian = Debian::new(lab)?;
        debian.install(package)?;
        fs::write(debian.path("/etc/mailsteer/mailsteer.toml"), config("auto", false))?;
        let agent = debian.started_agent()?;
        Ok(Self { debian, agent })
    }

    /// As the init system stops it.
    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.agent.id())?), Signal::SIGTERM)?;
        let ended = poll::until(END, "the agent to end", || Ok(self.agent.try_wait()?))?;
        ensure!(ended.success(), "the agent ended: {ended}");
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.agent = self.debian.started_agent()?;
        Ok(())
    }

    /// Starts an agent that cannot, and returns what it said.
    fn start_in_vain(&mut self) -> Result<String> {
        let before = self.debian.log()?.len();
        self.agent = self.debian.start_agent()?;
        let ended = poll::until(END, "the agent to end", || Ok(self.agent.try_wait()?))?;
        let said = self.debian.log()?.split_off(before);
        ensure!(!ended.success(), "it started: {said}");
        Ok(said)
    }

    /// What the operator types.
    fn says(&self, args: &[&str]) -> Result<()> {
        let said = self.debian.run("mailsteer", args)?;
        if !said.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&said.stderr));
        }
        Ok(())
    }

    /// Takes a source out, and lets nothing move from then on.
    fn suspends(&self, source: &str) -> Result<()> {
        self.says(&["suspend", source, "--reason", "listed"])?;
        self.says(&["hold", "--reason", "work on the switch"])
    }

    #[track_caller]
    fn keeps_the_word(&self, source: &str) {
        let status = self.status().unwrap();
        let suspended: Vec<_> =
            status["suspended"].as_array().unwrap().iter().map(|one| &one["source"]).collect();
        assert_eq!(suspended, [source], "{status:#}");
        assert_eq!(status["suspended"][0]["reason"], "listed");
        assert_eq!(status["hold"]["reason"], "work on the switch");
    }

    fn version(&self) -> String {
        let said = self.debian.run("mailsteer", &["--version"]).unwrap();
        String::from_utf8(said.stdout).unwrap().trim().trim_start_matches("mailsteer ").to_owned()
    }

    /// Installs it where a systemd runs that cannot start the new agent: what the package says then.
    fn install_in_vain(&self, package: &Path) -> Result<String> {
        let (runs, systemctl) =
            (self.debian.path("/run/systemd/system"), self.debian.path("/usr/bin/systemctl"));
        fs::create_dir_all(&runs)?;
        fs::write(&systemctl, "#!/bin/sh\n[ \"$1\" != restart ]\n")?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        let said = self.debian.install(package);
        fs::remove_file(systemctl)?;
        fs::remove_dir_all(self.debian.path("/run/systemd"))?;
        said
    }

    /// What the earlier program would have left, had it been the one of the history.
    fn leaves_a_file(&self) -> Result<()> {
        for end in ["", "-wal", "-shm"] {
            fs::remove_file(self.debian.path(&format!("{STATE}/mailsteer.db{end}"))).ok();
        }
        let (since, suspended) = ("2026-01-01T00:00:00Z", sources()[1]);
        let serving: Vec<_> = sources().into_iter().filter(|source| *source != suspended).collect();
        let word = json!({
            "suspended": { suspended.to_string(): { "reason": "listed", "since": since, "until": null } },
            "bypassed": {},
            "hold": { "reason": "work on the switch", "since": since, "until": null, "serving": serving },
        });
        Ok(fs::write(self.debian.path(&format!("{STATE}/operator.json")), word.to_string())?)
    }
}

/// `main-1`, `main-2` ...
fn sources() -> Vec<IpAddr> {
    uplinks()
        .iter()
        .flat_map(|uplink| (0..2).flat_map(|n| [uplink.source4(n), uplink.source6(n)]).collect::<Vec<_>>())
        .collect()
}

/// Versions whose pins are there.
fn pinned(lab: &Lab) -> BTreeSet<String> {
    let pins = fs::read_dir(lab.bpffs().join("mailsteer")).unwrap();
    pins.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Both locks held under load, everything was delivered and counted, and a suspended source began nothing.
#[track_caller]
fn holds(name: &str, mut phase: Phase, suspended: &str, astride: u64) {
    let Phase { load, received, counted, wire } = &mut phase;
    eprintln!(
        "{name}: {} connections, {:.0}/s, max {:.1} ms; {received} received, {counted:?}",
        load.ok,
        load.rate(),
        load.max_ms
    );
    let number: usize = suspended.strip_prefix("main-").unwrap().parse().unwrap();
    assert_eq!(wire.syns(sources()[number - 1]), 0, "{name}: {suspended} is suspended");
    counted.established += astride.min(load.ok.saturating_sub(counted.established));
    assert_eq!(phase.broken(LIMIT), Vec::<String>::new(), "{name}");
}

#[test]
fn from_another_program_and_map_abi_under_load() {
    let packages = Packages::made();
    let mut before = None;
    let mut ordeal = Ordeal::begin_with(Options::default(), |lab| {
        before = Some(HostState::of(lab)?);
        Installed::new(lab, &packages.old)
    })
    .unwrap();
    assert_eq!(ordeal.agent.version(), packages.earlier.version);
    let other = format!("v{}", earlier::ABI);
    assert_eq!(pinned(&ordeal.lab), [other.clone()].into());
    ordeal.agent.suspends("main-1").unwrap();

    fails(&mut ordeal, &packages);
    assert_eq!(pinned(&ordeal.lab), [other.clone()].into());
    // What the operator says between a failed upgrade and the next counts.
    let agent = &ordeal.agent;
    agent.says(&["hold", "--end", "--reason", "done"]).unwrap();
    agent.says(&["resume", "main-1", "--reason", "delisted"]).unwrap();
    agent.suspends("main-2").unwrap();

    succeeds(&mut ordeal, &packages);
    assert!(!pinned(&ordeal.lab).contains(&other), "{:?}", pinned(&ordeal.lab));
    is_too_old(&mut ordeal);
    let live = ordeal.end_with(|lab, agent| leaves(lab, agent, &before.unwrap())).unwrap();
    assert_eq!((live.ok, live.attempts), (100, 100), "{live:?}");
}

/// The new agent does not start: what the old one put up holds, the way back is said, and it leads back.
fn fails(ordeal: &mut Ordeal<Installed>, packages: &Packages) {
    let mut said = Vec::new();
    let phase = ordeal.phase(3, |_, agent, event| {
        match event {
            0 => {
                agent.stop()?;
                said.push(agent.install_in_vain(&packages.bad)?);
            }
            1 => said.push(agent.start_in_vain()?),
            _ => {
                agent.debian.install(&packages.old)?;
                agent.start()?;
            }
        }
        Ok(())
    });
    holds("an upgrade that fails, and back", phase.unwrap(), "main-1", 0);
    assert!(said[0].contains("what the old one put up goes on steering"), "{said:#?}");
    let back = format!("apt install --allow-downgrades mailsteer={}", packages.earlier.version);
    assert!(said[0].contains(&back), "{said:#?}");
    assert!(said[1].contains("go back to the version that ran before (apt install"), "{said:#?}");
    assert_eq!(ordeal.agent.version(), packages.earlier.version);
    ordeal.agent.keeps_the_word("main-1");
}

/// The old agent goes on with its program until it is stopped; the new one takes over all of it.
fn succeeds(ordeal: &mut Ordeal<Installed>, packages: &Packages) {
    let phase = ordeal.phase(2, |_, agent, event| {
        if event == 0 {
            let said = agent.debian.install(&packages.new)?;
            ensure!(said.contains("goes on with the old program"), "{said}");
            ensure!(agent.agent.try_wait()?.is_none(), "it ended");
            return Ok(());
        }
        agent.stop()?;
        if !packages.earlier.keeps_a_file() {
            agent.leaves_a_file()?;
        }
        agent.start()
    });
    holds("an upgrade", phase.unwrap(), "main-2", ASTRIDE);
    let agent = &ordeal.agent;
    assert_ne!(agent.version(), packages.earlier.version);
    agent.keeps_the_word("main-2");
    assert!(!agent.debian.path(&format!("{STATE}/operator.json")).exists(), "it was taken over");
}

/// Back from a version with a newer schema: the agent refuses, says what leads on, and changes nothing.
fn is_too_old(ordeal: &mut Ordeal<Installed>) {
    let mut said = String::new();
    let phase = ordeal.phase(2, |_, agent, event| {
        let file = agent.debian.path(&format!("{STATE}/mailsteer.db"));
        let schema = |number: u32, by: &str| -> Result<u32> {
            let state = Connection::open(&file)?;
            let known = state.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            state.execute("UPDATE meta SET written_by = ?1", [by])?;
            state.pragma_update(None, "user_version", number)?;
            Ok(known)
        };
        if event == 0 {
            agent.stop()?;
            let known = schema(99, "9.9.9")?;
            said = agent.start_in_vain()?;
            return schema(known, "0.1.0").map(drop);
        }
        agent.start()
    });
    holds("a state that is too new", phase.unwrap(), "main-2", 0);
    assert!(said.contains("has schema 99, made by mailsteer 9.9.9"), "{said}");
    assert!(said.contains("Install 9.9.9 again"), "{said}");
    assert!(said.contains("still stands: mail is steered as it was last"), "{said}");
    ordeal.agent.keeps_the_word("main-2");
}

/// Removal and purge, after all of that: the host is as it was.
fn leaves(lab: &Lab, mut installed: Installed, before: &HostState) -> Result<()> {
    let said = installed.debian.dpkg(&["--remove", "mailsteer"])?;
    ensure!(said.contains("mail leaves unsteered from now on"), "{said}");
    poll::until(END, "the agent to end", || Ok(installed.agent.try_wait()?))?;
    installed.debian.dpkg(&["--purge", "mailsteer"])?;
    let differences = before.differences(&HostState::of(lab)?);
    ensure!(differences.is_empty(), "{differences:?}");
    for path in [STATE, "/etc/mailsteer", "/run/mailsteer", "/sys/fs/bpf/mailsteer"] {
        ensure!(!installed.debian.path(path).exists(), "{path} is left");
    }
    Ok(())
}
