//! DNS lists, end to end: a listing becomes a verdict, a flip, an event, a metric, an alert and a message; and lists that lie
//! become nothing but words.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mailsteer_tests::alertmanager::Alertmanager;
use mailsteer_tests::listserver::{AT, ListServer, Zone};
use mailsteer_tests::prometheus::Prometheus;
use mailsteer_tests::scene::{METRICS, offences};
use mailsteer_tests::{Options, Scene, poll};

/// One check interval and 35 s, as docs/config.md promises.
const FOUND: Duration = Duration::from_secs(60 + 35);
const SHOWN: Duration = Duration::from_secs(20);
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));

fn lists(names: &str) -> String {
    format!("[lists]\nresolver = \"{AT}\"\nnames = [{names}]\ninterval_minutes = 1\n")
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("config/prometheus/mailsteer.rules.yml")
}

fn state(scene: &Scene, name: &str) -> String {
    let rows = scene.agent.json(&["sources"]).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    row["state"].as_str().unwrap().to_owned()
}

/// Prints how long after the listing each step came.
struct Steps(Instant);

impl Steps {
    fn reached<T>(
        &self,
        step: &str,
        within: Duration,
        probe: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> T {
        let found = poll::until(within, step, probe).unwrap();
        println!("{:>6.1} s  {step}", self.0.elapsed().as_secs_f64());
        found
    }
}

#[test]
fn a_listing_is_told_all_the_way_to_a_message_and_its_source_serves_no_more() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let server = ListServer::start(&scene.lab.mail).unwrap();
    let more = format!(
        "evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nalerting: {{ alertmanagers: [{{ static_configs: [{{ targets: \
         [\"{}\"] }}] }}] }}\n",
        rules().display(),
        mailsteer_tests::alertmanager::AT
    );
    let alertmanager = Alertmanager::start(&scene.lab).unwrap();
    let prometheus = Prometheus::start_with(&scene.lab, METRICS, &more).unwrap();
    let config = format!("{}\n{}", mailsteer_tests::scene::CONFIG, lists("\"zen.spamhaus.org\""));
    scene.agent.write_config(&config).unwrap();
    assert!(scene.agent.cli(&["reload"]).unwrap().status.success());
    scene.await_metric("mailsteer_list_up", &["list=\"zen.spamhaus.org\""], 1.0).unwrap();

    server.publish(SOURCE);
    let steps = Steps(Instant::now());
    steps.reached("isolated", FOUND, || Ok((state(&scene, "main-1") == "isolated").then_some(())));
    steps.reached("event", SHOWN, || {
        let events = scene.events()?;
        let listed = events.contains(
            "main-1 (192.0.2.11) is on zen.spamhaus.org: SBL: spam source; \"https://lists.example/why\"",
        );
        let flipped = events.lines().any(|line| line.contains("main-1") && line.contains("-> 0.0 %"));
        Ok((listed && flipped).then_some(()))
    });
    let is = |query: &str| {
        Ok(prometheus.query(query)?.first().is_some_and(|(_, value)| *value == 1.0).then_some(()))
    };
    steps.reached("metric, scraped", SHOWN, || is("mailsteer_source_listed{source=\"main-1\"}"));
    steps.reached("rule fires", SHOWN, || {
        is("ALERTS{alertname=\"MailsteerAddressListed\",alertstate=\"firing\"}")
    });
    steps.reached("delivered", SHOWN, || {
        let about = |alert: &serde_json::Value| {
            alert["labels"]["alertname"] == "MailsteerAddressListed" && alert["labels"]["source"] == "main-1"
        };
        Ok(alertmanager.delivered().iter().any(about).then_some(()))
    });

    let capture = scene.capture().unwrap();
    let report = scene.load(200, 200).unwrap().run(&scene.lab.mail).unwrap();
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), [""; 0]);
    let used = wire.by_source.keys().any(|(_, source)| *source == SOURCE);
    assert!(!used && report.ok > 100, "{report:?} {:?}", wire.by_source);

    // Unknown changes nothing: neither a listing that stands nor a source that serves.
    server.set(Zone::Fails);
    steps.reached("set aside", FOUND, || Ok(scene.status()?.contains("nobody looks whether").then_some(())));
    assert_eq!(state(&scene, "main-1"), "isolated");
    assert!(!scene.agent.cli(&["status"]).unwrap().status.success(), "that nobody looks wants a look");
    drop(prometheus);
    drop(alertmanager);
    drop(server);
    scene.close().unwrap();
}

/// Each of the ways in which lists lie, one after the other: nobody is isolated, and each is explained.
#[test]
fn lists_that_lie_isolate_nobody_and_are_explained() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let server = ListServer::start(&scene.lab.mail).unwrap();
    let lies = [
        (Zone::Everything(Ipv4Addr::new(127, 255, 255, 254)), "name a resolver of your own"),
        (Zone::Everything(Ipv4Addr::new(127, 255, 255, 255)), "too many queries"),
        (Zone::Fails, "Server Failure"),
        (Zone::Everything(Ipv4Addr::new(127, 0, 0, 2)), "lists everything"),
        (Zone::Everything(Ipv4Addr::new(203, 0, 113, 80)), "answers anything"),
        (Zone::Everything(Ipv4Addr::LOCALHOST), "never a listing"),
        (Zone::Nothing, "does not list its test point"),
        (Zone::Silent, "nothing within 5 s"),
    ];
    let names = ["zen.spamhaus.org", "psbl.surriel.com"];
    for (round, (lie, words)) in lies.into_iter().enumerate() {
        server.set(lie);
        // Another list each time, so that it begins anew and is not asked in a minute only.
        let name = names[round % 2];
        let config = format!("{}\n{}", mailsteer_tests::scene::CONFIG, lists(&format!("\"{name}\"")));
        scene.agent.write_config(&config).unwrap();
        assert!(scene.agent.cli(&["reload"]).unwrap().status.success());
        let told = |events: &str| {
            let of_list =
                events.lines().rev().find(|line| line.contains("nobody looks") && line.contains(name));
            of_list.is_some_and(|line| line.contains(words))
        };
        let words_of_zen = round == 0 || round == 1;
        let name_matters = words_of_zen && name != names[0];
        poll::until(FOUND, words, || {
            let events = scene.events()?;
            // Another list has no such code in its table, and says that.
            let told =
                told(&events) || (name_matters && events.contains("127.255.255.255 is not in the table"));
            Ok(told.then_some(()))
        })
        .unwrap();
        let status = scene.status().unwrap();
        assert!(status.contains(&format!("nobody looks whether sources are on {name}")), "{status}");
    }
    let isolated = scene.events().unwrap().lines().any(|line| line.contains("isolated"));
    assert!(!isolated && server.asked() > 16, "{}", scene.events().unwrap());
    drop(server);
    scene.close().unwrap();
}
