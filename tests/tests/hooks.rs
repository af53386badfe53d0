//! Hooks, end to end: an event reaches a URL and a program; one that is down or hangs loses nothing and holds up nobody.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mailsteer_tests::scene::{CONFIG, METRICS};
use mailsteer_tests::webserver::{Asked, WebServer};
use mailsteer_tests::{Options, Scene, poll};
use serde_json::Value;

const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9096);
const SHOWN: Duration = Duration::from_secs(20);
/// Once it is back: the pause before the next try has grown to half a minute and a quarter of that.
const BACK: Duration = Duration::from_secs(60);
const SECRET: &str = "Bearer v3ry-secret";

/// A directory that the agent's user may write to.
fn open_dir(scene: &Scene) -> PathBuf {
    let dir = scene.lab.dir().join("hook");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.join("key"), SECRET).unwrap();
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    dir
}

/// Has the first source suspended and resumed: two events, at once.
fn turn(scene: &Scene) {
    for verb in ["suspend", "resume"] {
        let began = Instant::now();
        assert!(scene.agent.cli(&[verb, "main-1", "--reason", "test"]).unwrap().status.success());
        assert!(began.elapsed() < Duration::from_secs(5), "a hook holds up the operator");
    }
}

fn told(server: &WebServer) -> Vec<Value> {
    server.asked().iter().map(|asked: &Asked| serde_json::from_str(&asked.body).unwrap()).collect()
}

fn deliveries(scene: &Scene, hook: &str, result: &str) -> f64 {
    let labels = [format!("hook=\"{hook}\""), format!("result=\"{result}\"")];
    scene.metric("mailsteer_hook_deliveries_total", &[&labels[0], &labels[1]]).unwrap()
}

#[test]
fn an_event_reaches_a_url_and_a_program_and_neither_holds_up_anybody() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let dir = open_dir(&scene);
    let (out, about) = (dir.join("out"), dir.join("about"));
    let script = format!(
        "cat >> {}; echo >> {}; (echo $MAILSTEER_KIND $MAILSTEER_SUBJECT; grep CapEff /proc/self/status) >> {}",
        out.display(),
        out.display(),
        about.display()
    );
    let hooks = format!(
        "[hook.web]\nurl = \"http://{AT}/hook\"\nevents = [\"suspended\", \"resumed\"]\nsecret_header = \"X-Token\"\n\
         secret_file = \"{}\"\nrepeat_minutes = 0\n\
         [hook.program]\ncommand = [\"/bin/sh\", \"-c\", '{script}']\nevents = [\"suspended\", \"resumed\"]\nrepeat_minutes = 0\n\
         [hook.slow]\ncommand = [\"/bin/sleep\", \"1000\"]\nevents = \"suspended\"\ntimeout_seconds = 1\nrepeat_minutes = 0\n\
         [hook.alarms]\nurl = \"http://{AT}/alarms\"\n",
        dir.join("key").display()
    );
    let server = WebServer::start(&scene.lab.mail, AT).unwrap();
    scene.agent.reload(&format!("{CONFIG}\n{hooks}")).unwrap();
    turn(&scene);
    let all = poll::until(SHOWN, "both events at the URL", || {
        let all = told(&server);
        Ok((all.len() >= 2).then_some(all))
    })
    .unwrap();
    // What the operator does alarms nobody.
    assert!(server.asked().iter().all(|asked| asked.path == "/hook" && asked.method == "POST"));
    assert_eq!(server.asked()[0].headers["x-token"], SECRET);
    assert_eq!((&all[0]["kind"], &all[1]["kind"]), (&"suspended".into(), &"resumed".into()));
    assert_eq!((&all[0]["subject"], &all[0]["alarm"]), (&"main-1".into(), &false.into()));
    assert!(all[0]["text"].as_str().unwrap().contains("main-1 (192.0.2.11) suspended: test"), "{}", all[0]);
    assert_eq!(all[0]["evidence"]["why"], "test");
    assert!(!all[0]["host"].as_str().unwrap().is_empty());

    let lines = poll::until(SHOWN, "both events at the program", || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        Ok((text.lines().count() >= 2).then_some(text))
    })
    .unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first, all[0], "both are told the same");
    let about = poll::until(SHOWN, "what it saw of itself", || {
        let text = fs::read_to_string(&about).unwrap_or_default();
        Ok((text.lines().count() >= 4).then_some(text))
    })
    .unwrap();
    assert!(about.starts_with("suspended main-1\n"), "{about}");
    assert!(about.contains("CapEff:\t0000000000000000"), "it has capabilities: {about}");
    let agent = fs::read_to_string(format!("/proc/{}/status", scene.agent.pid().unwrap())).unwrap();
    let has_some = !agent.contains("CapAmb:\t0000000000000000");
    assert!(has_some, "the agent itself has none to pass on, so that this shows nothing: {agent}");
    poll::until(SHOWN, "the one that hangs to be killed", || {
        Ok((deliveries(&scene, "slow", "failed") >= 1.0).then_some(()))
    })
    .unwrap();
    assert!(
        scene.status().unwrap().contains("hook slow was not told of the last event: /bin/sleep was killed")
    );
    assert_eq!(deliveries(&scene, "web", "delivered"), 2.0);

    down_and_up_again(&scene, server);
    let shown = [
        scene.agent.log().unwrap(),
        scene.status().unwrap(),
        scene.events().unwrap(),
        scene.agent.metrics(METRICS).unwrap(),
        scene.agent.json(&["status"]).unwrap().to_string(),
    ];
    assert!(shown.iter().all(|text| !text.contains("v3ry-secret")), "the secret shows");
    scene.close().unwrap();
}

/// Nobody is there for a while: what happens meanwhile waits, and comes in order.
fn down_and_up_again(scene: &Scene, server: WebServer) {
    drop(server);
    (0..10).for_each(|_| turn(scene));
    poll::until(SHOWN, "a try that came to nothing", || {
        Ok((deliveries(scene, "web", "retried") >= 2.0).then_some(()))
    })
    .unwrap();
    let status = scene.status().unwrap();
    assert!(status.contains("hook web is not told, 20 events wait: cannot reach 127.0.0.1"), "{status}");
    let server = WebServer::start(&scene.lab.mail, AT).unwrap();
    let all = poll::until(BACK, "all that waited", || {
        let all = told(&server);
        Ok((all.len() >= 20).then_some(all))
    })
    .unwrap();
    let numbers: Vec<u64> = all.iter().map(|one| one["number"].as_u64().unwrap()).collect();
    let expected: Vec<&str> = ["suspended", "resumed"].into_iter().cycle().take(20).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(all.iter().map(|one| one["kind"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    poll::until(SHOWN, "the counts", || Ok((deliveries(scene, "web", "delivered") == 22.0).then_some(())))
        .unwrap();
    assert_eq!(deliveries(scene, "web", "dropped") + deliveries(scene, "web", "failed"), 0.0);
}
