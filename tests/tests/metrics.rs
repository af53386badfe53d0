//! The metrics as Prometheus takes them: names and types that its own linter finds no fault with, series that it
//! scrapes, and alerts that fire when they should.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use mailsteer_tests::prometheus::{Prometheus, promtool};
use mailsteer_tests::scene::METRICS;
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
    // Nobody answers there: its lists are set aside, and have their series.
    let lists = "[lists]\nresolver = \"127.0.0.1:5353\"\n";
    let scene = Scene::new(Options::default(), lists).unwrap();
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
    is("mailsteer_source_state{source=\"main-1\",state=\"suspended\"}", 1.0);
    is("mailsteer_guard_armed", 1.0);
    is("mailsteer_series_left_out", 0.0);
    let metrics = written_down();
    assert!(metrics.len() >= 14, "{metrics:?}");
    for (name, labels) in metrics {
        let rows = poll::until(SHOWN, &name, || {
            let rows = prometheus.query(&name)?;
            Ok((!rows.is_empty()).then_some(rows))
        })
        .unwrap();
        let bears = |label: &String| rows.iter().any(|(metric, _)| metric[label.as_str()].is_string());
        assert!(labels.iter().all(bears), "{name} should bear {labels:?}: {:?}", rows.first());
    }

    let text = scene.agent.metrics(METRICS).unwrap();
    let (content, said) = promtool(&["check", "metrics"], &root(), &text).unwrap();
    assert!(content && said.is_empty(), "{said}");
    drop(prometheus);
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
    // Every rule has been seen to fire.
    let rules = std::fs::read_to_string(dir.join("mailsteer.rules.yml")).unwrap();
    let tests = std::fs::read_to_string(tests).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tested");
    }
}
