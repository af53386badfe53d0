//! What goes wrong around the agent: the programs that it needs. Steering stays as it was, the cause is said, and all
//! is well again by itself.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use mailsteer_tests::load::{Load, Running};
use mailsteer_tests::scene::{MAIL, offences};
use mailsteer_tests::topology::{Options, receiver4, receiver6, uplinks};
use serde_json::Value;

use mailsteer_tests::{Agent, Capture, Lab, Receiver, poll, scene, strangers};

const LONG: Duration = Duration::from_secs(40);

/// An nft program that does as it is told: `work`, `fail` or `hang`.
struct Moody {
    mood: PathBuf,
}

impl Moody {
    /// In the agent's own mount namespace it stands in the place of the real one.
    fn give(lab: &Lab, agent: &mut Agent) -> Self {
        let (program, mood, real) =
            (lab.dir().join("nft"), lab.dir().join("mood"), lab.dir().join("real-nft"));
        fs::copy("/usr/sbin/nft", &real).unwrap();
        let script = format!(
            "#!/bin/sh\ncase $(cat {mood}) in\nfail) echo no memory >&2; exit 1;;\nhang) exec sleep 3600;;\nesac\n\
             exec {real} \"$@\"\n",
            mood = mood.display(),
            real = real.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(&mood, "work").unwrap();
        let mount = format!("mount --bind {} /usr/sbin/nft && exec \"$@\"", program.display());
        agent.set_wrapper(["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "sh"]);
        Self { mood }
    }

    fn is(&self, mood: &str) {
        fs::write(&self.mood, mood).unwrap();
    }
}

/// A stranger takes the table away, and nft cannot put it back.
struct Flushed {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
    nft: Moody,
    capture: Capture,
}

impl Flushed {
    fn while_nft(is: &str) -> Self {
        let lab = Lab::new(Options::default()).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let config = format!("{}\n[nft]\nown_table = \"never\"\n", scene::CONFIG);
        let mut agent = Agent::prepare(&lab, Some(&config)).unwrap();
        let nft = Moody::give(&lab, &mut agent);
        agent.restart().unwrap();
        let capture = Capture::start(&lab.world, &uplinks().map(|uplink| uplink.far), 25).unwrap();
        nft.is(is);
        strangers::flush(&lab.mail).unwrap();
        Self { lab, receiver, agent, nft, capture }
    }

    fn load(&self) -> Running {
        let load = Load {
            rate: 50,
            count: 50,
            uid: MAIL,
            gid: MAIL,
            to: vec![receiver4(1), receiver6(1)],
            timeout_ms: 60_000,
            cgroup: Some(self.lab.cgroup().unwrap().to_owned()),
            ..Load::default()
        };
        load.start(&self.lab.mail).unwrap()
    }

    fn said(&self, words: &str) {
        let status = || String::from_utf8_lossy(&self.agent.cli(&["status"]).unwrap().stdout).into_owned();
        poll::until_true(LONG, words, || status().contains(words))
            .unwrap_or_else(|e| panic!("{e}: {}", status()));
    }

    /// Nothing wrong has left, the table stands again, and whoever connects gets through.
    fn well_again(self) {
        let mended = || {
            let status = self.agent.json(&["status"]).unwrap();
            let failing =
                |fault: &Value| fault.as_str().is_some_and(|text| text.contains("could not be written"));
            status["locks"]["table"] == true && !status["faults"].as_array().unwrap().iter().any(failing)
        };
        poll::until_true(LONG, "the table to stand again", mended).unwrap();
        assert_eq!(self.load().finish().unwrap().ok, 50);
        assert_eq!(offences(&self.capture.stop().unwrap()), [] as [String; 0]);
        drop((self.agent, self.receiver));
        self.lab.close().unwrap();
    }
}

#[test]
fn an_nft_program_that_fails_is_said_and_tried_again() {
    let flushed = Flushed::while_nft("fail");
    let running = flushed.load();
    flushed.said("no memory");
    assert_eq!(flushed.receiver.count(), 0, "held");
    flushed.nft.is("work");
    let report = running.finish().unwrap();
    assert_eq!(report.ok, 50, "held, and carried over: {report:?}");
    flushed.well_again();
}

#[test]
fn an_nft_program_that_hangs_is_ended_and_tried_again() {
    let flushed = Flushed::while_nft("hang");
    let running = flushed.load();
    flushed.said("nft did not finish within 15 s");
    assert_eq!(flushed.receiver.count(), 0, "held");
    flushed.nft.is("work");
    // Longer than the kernel goes on trying a connection that is held: none leaves wrongly, all of them fail.
    let report = running.finish().unwrap();
    assert_eq!(report.failed.get("ETIMEDOUT"), Some(&50), "{report:?}");
    flushed.well_again();
}
