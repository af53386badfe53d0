//! The metrics as Prometheus takes them: names and types that its own linter finds no fault with, series that it
//! scrapes, and alerts that fire when they should.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use mailsteer_tests::alertmanager::amtool;
use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::prometheus::{Prometheus, promtool};
use mailsteer_tests::scene::{CONFIG, METRICS};
use mailsteer_tests::topology::DNS;
use mailsteer_tests::{Options, Scene, poll};

/// Counters are read every two seconds and scraped every second.
const SHOWN: Duration = Duration::from_secs(20);
const CONNECTIONS: u64 = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The metrics of the table in docs/architecture.md, each with its labels.
fn written_down() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `mailsteer_"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').filter(|part| part.starts_with("mailsteer_")));
    let labelled = |name: &str| {
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    };
    names.map(labelled).collect()
}

#[test]
fn prometheus_scrapes_every_metric_and_its_sums_are_the_connections_made() {
    // Nobody answers there: lists are set aside, hooks are not told, feeds are not read, and all have their series.
    let more = "[lists]\nresolver = \"127.0.0.1:5353\"\n[hook.nobody]\nurl = \"http://127.0.0.1:5354/\"\n\
                [feed.none]\nkind = \"json\"\nurl = \"http://127.0.0.1:5354/{address}\"\npointer = \"/a\"\ngood = 1\nbad = 0\n";
    let scene = Scene::new(Options::default(), more).unwrap();
    // There is no name at all: every check that looks for one fails, and has its series.
    let nameless = Dns::start(&scene.lab.world, &Records::default()).unwrap();
    let dns =
        format!("[dns]\nresolver = \"{DNS}\"\n[domain.\"example.com\"]\n[providers]\nresolver = \"{DNS}\"\n");
    let log = scene.lab.dir().join("mail.log");
    std::fs::write(&log, "").unwrap();
    let logs = format!("[log.mail]\nfile = {log:?}\n");
    scene.agent.reload(&format!("{CONFIG}\n{more}{dns}{logs}")).unwrap();
    let prometheus = Prometheus::start(&scene.lab, METRICS).unwrap();
    let report = scene.load(200, CONNECTIONS).unwrap().run(&scene.lab.mail).unwrap();
    assert_eq!((report.attempts, report.ok), (CONNECTIONS, CONNECTIONS), "{report:?}");
    // A flip, so that it is counted.
    assert!(scene.agent.cli(&["suspend", "main-1", "--reason", "test"]).unwrap().status.success());

    let is = |query: &str, wanted: f64| {
        poll::until(SHOWN, &format!("{query} to be {wanted}"), || {
            let rows = prometheus.query(query)?;
            Ok(matches!(rows[..], [(_, value)] if value == wanted).then_some(()))
        })
        .unwrap();
    };
    is("up{job=\"mailsteer\"}", 1.0);
    for outcome in ["attempted", "established"] {
        is(&format!("sum(mailsteer_connections_total{{outcome=\"{outcome}\"}})"), CONNECTIONS as f64);
        let of_stream =
            format!("mailsteer_stream_connections_total{{stream=\"mail\",outcome=\"{outcome}\"}}");
        is(&of_stream, CONNECTIONS as f64);
    }
    for by in ["provider", "source"] {
        is(&format!("sum(mailsteer_{by}_handshake_seconds_count)"), CONNECTIONS as f64);
        is(&format!("sum(mailsteer_{by}_handshake_seconds_bucket{{le=\"32\"}})"), CONNECTIONS as f64);
    }
    is("mailsteer_source_state{source=\"main-1\",state=\"suspended\"}", 1.0);
    is("mailsteer_guard_armed", 1.0);
    is("mailsteer_series_left_out", 0.0);
    let metrics = written_down();
    assert!(metrics.len() >= 14, "{metrics:?}");
    for (name, labels) in metrics {
        let rows = poll::until(SHOWN, &name, || {
            // A histogram is none of its own, but bounds, a sum and a count.
            let rows = prometheus.query(&format!("{{__name__=~\"{name}(_count)?\"}}"))?;
            Ok((!rows.is_empty()).then_some(rows))
        })
        .unwrap();
        let bears = |label: &String| rows.iter().any(|(metric, _)| metric[label.as_str()].is_string());
        assert!(labels.iter().all(bears), "{name} should bear {labels:?}: {:?}", rows.first());
    }

    let text = scene.agent.metrics(METRICS).unwrap();
    let (content, said) = promtool(&["check", "metrics"], &root(), &text).unwrap();
    assert!(content && said.is_empty(), "{said}");
    drop((prometheus, nameless));
    scene.close().unwrap();
}

#[test]
fn the_alerts_are_well_formed_and_fire_when_they_should() {
    let dir = root().join("config/prometheus");
    let (content, said) = promtool(&["check", "rules", "mailsteer.rules.yml"], &dir, "").unwrap();
    assert!(content, "{said}");
    let tests = root().join("tests/prometheus/mailsteer.rules.test.yml");
    let (content, said) = promtool(&["test", "rules", tests.to_str().unwrap()], &dir, "").unwrap();
    assert!(content, "{said}");
    // Every rule has been seen to fire and to stay silent, and says what to type or where to look.
    let rules = std::fs::read_to_string(dir.join("mailsteer.rules.yml")).unwrap();
    let tests = std::fs::read_to_string(tests).unwrap();
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap();
        let action = rule.lines().find_map(|line| line.trim().strip_prefix("action: ")).unwrap();
        assert!(action.len() > 40, "{alert}: {action}");
        let named = format!("alertname: {alert}\n");
        let after = tests.split(&named).skip(1);
        let (fires, silent): (Vec<_>, Vec<_>) =
            after.partition(|rest| rest.trim_start().starts_with("exp_alerts:"));
        assert!(
            !fires.is_empty() && !silent.is_empty(),
            "{alert}: {} fire, {} are silent",
            fires.len(),
            silent.len()
        );
    }
}

/// The example for Alertmanager is one, and what pages reaches the pager.
#[test]
fn the_example_for_alertmanager_is_well_formed_and_pages_for_what_pages() {
    let dir = root().join("config/prometheus");
    let (content, said) = amtool(&["check-config", "alertmanager.yml"], &dir).unwrap();
    assert!(content && said.contains("4 inhibit rules"), "{said}");
    for (severity, receiver) in [("page", "pager"), ("ticket", "desk"), ("other", "desk")] {
        let labels = ["alertname=MailsteerDown".to_owned(), format!("severity={severity}")];
        let args = ["config", "routes", "test", "--config.file=alertmanager.yml", &labels[0], &labels[1]];
        let (content, said) = amtool(&args, &dir).unwrap();
        assert!(content && said.lines().any(|line| line == receiver), "{severity}: {said}");
    }
    // What is inhibited is named as the rules name it.
    let (example, rules) = ("alertmanager.yml", "mailsteer.rules.yml");
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let (example, rules) = (text(example), text(rules));
    let named = example.split("alertname=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let named: Vec<&str> = named.collect();
    assert!(named.len() >= 7, "{named:?}");
    assert!(named.iter().all(|name| rules.contains(&format!("- alert: {name}\n"))), "{named:?}");
}
