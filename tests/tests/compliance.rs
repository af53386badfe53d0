//! DNS compliance, end to end: what `doctor` says of a good world and of the same with one thing wrong at a time, and what the agent
//! does: a source without a name serves no more, a resolver that is away changes nothing, and the way back.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mailsteer_tests::dns::{Dns, Records};
use mailsteer_tests::scene::{self, offences};
use mailsteer_tests::topology::DNS;
use mailsteer_tests::{Lab, Options, Scene, agent, poll};
use serde_json::Value;

/// An interval, the second run that confirms, what lookups take, and some for a slow machine.
const TOLD: Duration = Duration::from_secs(60 + 60 + 40);
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
const NAME: &str = "mail.example.com";
/// Made by `openssl genrsa` for this test; nobody has the other half.
const KEY: &str = concat!(
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAj2IfoWXJdT45gkwA3i7WWdAhen0PQJbEQStq6KHJA5HPRjfaP7qH71DB",
    "bNmNEnUx8k0s+OTEqiEqqzyMtCdbaP8Ko7SzkhtkqvfHh5xQsERpyPT2TQ5jq377QJxKh7vhfvnHzs2hJYcqNO4FzGczjwxQBRRX",
    "l9YhETb+0Lz+lH77zkbXxBX70ijEUl0GnyIfXdAvcdVOOs9tJDleh6PZ6T5osTq0mXUVro6n3oOF6NZx55AmKn+UoQQ1MwGVuWFs",
    "7aUMtvpAl09K+qQQ42P/e8+Rbj9w4sauryvIvfa5onADKtYl+V92nAc4nlFxX1pgHWMZFlzrGLLVLKQMhqXZAwIDAQAB",
);

/// [`scene::CONFIG`] with names, the test internet's DNS server, and a domain.
fn config() -> String {
    let named = scene::CONFIG
        .replace("[pool.main]\n", &format!("[pool.main]\nehlo = \"{NAME}\"\n"))
        .replace("[pool.lone]\n", "[pool.lone]\nehlo = \"lone.example.com\"\n");
    format!(
        "{named}\n[dns]\nresolver = \"{DNS}\"\ninterval_minutes = 1\nrequire = [\"ptr\"]\n[domain.\"example.com\"]\ndkim = \"s1\"\n"
    )
}

/// What is wrong with a world; nothing, with the good one.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    Nothing,
    Ptr,
    Forward,
    Ehlo,
    Spf,
    Dkim,
    Dmarc,
    Alignment,
}

fn records(wrong: Wrong) -> Records {
    let mut records = Records::default();
    for source in scene::eligible().into_keys() {
        records = match wrong {
            Wrong::Ptr if source == SOURCE => records.address(NAME, source),
            Wrong::Forward if source == SOURCE => records.pointer(source, NAME),
            Wrong::Ehlo if source == SOURCE => records.host("other.example.com", source),
            _ => records.host(NAME, source),
        }
        .unwrap();
    }
    let lone = IpAddr::from([192, 0, 2, 15]);
    let spf = match wrong {
        Wrong::Spf => "v=spf1 -ip4:192.0.2.11 ip4:192.0.2.15 a:mail.example.com -all",
        _ => "v=spf1 ip4:192.0.2.15 a:mail.example.com -all",
    };
    let key = if wrong == Wrong::Dkim { "v=DKIM1; p=".to_owned() } else { format!("v=DKIM1; p={KEY}") };
    let dmarc = match wrong {
        Wrong::Dmarc => "v=DMARC1; p=refuse",
        _ => "v=DMARC1; p=reject; rua=mailto:d@example.com",
    };
    let records = records.host("lone.example.com", lone).unwrap();
    let records = records.text("example.com", spf).unwrap();
    let records = records.text("bounce.example.net", spf).unwrap();
    let records = records.text("s1._domainkey.example.com", &key).unwrap();
    records.text("_dmarc.example.com", dmarc).unwrap()
}

/// Findings of `doctor` about the DNS.
fn doctor(lab: &Lab, config: &str) -> (Vec<Value>, String) {
    let file = lab.dir().join("doctor.toml");
    std::fs::write(&file, config).unwrap();
    let run = |more: &[&str]| {
        let mut command = lab.mail.command(agent::binary().unwrap());
        lab.mail.as_its_root(&mut command);
        let output = command.arg("doctor").arg("--config").arg(&file).args(more).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let findings = said["findings"].as_array().unwrap().iter().filter(|one| one["group"] == "dns");
    (findings.cloned().collect(), run(&[]))
}

/// Checks that are neither well nor unknown, with their words.
fn alarms(findings: &[Value]) -> Vec<(String, String)> {
    let bad = findings.iter().filter(|one| one["level"] == "warn" || one["level"] == "bad");
    bad.map(|one| (one["check"].as_str().unwrap().to_owned(), one["what"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn doctor_names_each_fault_and_nothing_else() {
    let lab = Lab::new(Options { uplinks: 2, ..Options::default() }).unwrap();
    let cases: [(Wrong, &[&str], &str); 8] = [
        (Wrong::Nothing, &[], ""),
        (Wrong::Ptr, &["dns-ptr", "dns-forward", "dns-ehlo"], "192.0.2.11 has no name"),
        (Wrong::Forward, &["dns-forward", "dns-spf"], "192.0.2.11 is called mail.example.com, but"),
        (
            Wrong::Ehlo,
            &["dns-ehlo", "dns-spf"],
            "192.0.2.11 is called other.example.com, but its pool says EHLO",
        ),
        (Wrong::Spf, &["dns-spf"], "SPF of example.com forbids 192.0.2.11"),
        (Wrong::Dkim, &["dns-dkim"], "the key is revoked"),
        (Wrong::Dmarc, &["dns-dmarc"], "`p=refuse` is no policy"),
        (Wrong::Alignment, &["dns-alignment"], "neither SPF (bounce.example.net) nor DKIM prove example.com"),
    ];
    for (wrong, checks, words) in cases {
        let dns = Dns::start(&lab.world, &records(wrong)).unwrap();
        let mut config = config();
        if wrong == Wrong::Alignment {
            config = config.replace("dkim = \"s1\"", "envelope = \"bounce.example.net\"");
        }
        let (findings, page) = doctor(&lab, &config);
        let alarms = alarms(&findings);
        let told: Vec<&str> = alarms.iter().map(|(check, _)| check.as_str()).collect();
        assert_eq!(told, checks, "{wrong:?}: {findings:#?}");
        assert!(
            words.is_empty() || alarms.iter().any(|(_, what)| what.contains(words)),
            "{wrong:?}: {alarms:#?}"
        );
        assert!(page.contains(words.split(',').next().unwrap()), "{page}");
        drop(dns);
    }
    // Nobody answers: everything is unknown, and nothing is alarmed of.
    let (findings, _) = doctor(&lab, &config().replace(&DNS.to_string(), "127.0.0.1:9"));
    assert_eq!(alarms(&findings), []);
    assert!(findings.iter().all(|one| one["level"] == "note"), "{findings:#?}");
    lab.close().unwrap();
}

fn state(scene: &Scene, name: &str) -> String {
    let rows = scene.agent.json(&["sources"]).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    row["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_source_without_a_name_serves_no_more_until_it_has_one_and_a_resolver_that_is_away_changes_nothing() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let dns = Dns::start(&scene.lab.world, &records(Wrong::Nothing)).unwrap();
    scene.agent.reload(&config()).unwrap();
    let ptr = ["source=\"main-1\"", "check=\"ptr\""];
    scene.await_metric("mailsteer_dns_check", &ptr, 1.0).unwrap();
    let text = scene.agent.metrics(scene::METRICS).unwrap();
    let failing = text.lines().filter(|line| line.starts_with("mailsteer_dns_") && line.ends_with(" 0"));
    assert_eq!(failing.collect::<Vec<_>>(), [""; 0]);

    drop(dns);
    let dns = Dns::start(&scene.lab.world, &records(Wrong::Ptr)).unwrap();
    poll::until(TOLD, "isolated", || Ok((state(&scene, "main-1") == "isolated").then_some(()))).unwrap();
    let events = scene.events().unwrap();
    let told = "main-1 (192.0.2.11) fails the DNS check ptr: 192.0.2.11 has no name";
    assert!(events.contains(told), "{events}");
    assert!(events.contains("isolated until its DNS is right"), "{events}");
    assert!(!scene.agent.cli(&["status"]).unwrap().status.success(), "it wants a look");
    assert!(scene.status().unwrap().contains("192.0.2.11 has no name"));
    let zero = |line: &str| line.starts_with("mailsteer_dns_check{check=\"ptr\",source=\"main-1\"} 0");
    assert!(scene.agent.metrics(scene::METRICS).unwrap().lines().any(zero));

    let capture = scene.capture().unwrap();
    let report = scene.load(200, 200).unwrap().run(&scene.lab.mail).unwrap();
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), [""; 0]);
    let used = wire.by_source.keys().any(|(_, source)| *source == SOURCE);
    assert!(!used && report.ok > 100, "{report:?} {:?}", wire.by_source);

    // Unknown changes nothing: neither whom it holds nor who serves.
    drop(dns);
    let gone = |text: &str| !text.contains("mailsteer_dns_check{");
    poll::until(TOLD, "no check is known", || Ok(gone(&scene.agent.metrics(scene::METRICS)?).then_some(())))
        .unwrap();
    assert_eq!((state(&scene, "main-1"), state(&scene, "main-2")), ("isolated".into(), "healthy".into()));

    let dns = Dns::start(&scene.lab.world, &records(Wrong::Nothing)).unwrap();
    poll::until(TOLD, "on its way back", || Ok((state(&scene, "main-1") != "isolated").then_some(())))
        .unwrap();
    assert!(scene.events().unwrap().contains("main-1 (192.0.2.11) passes the DNS check ptr again"));
    drop(dns);
    scene.close().unwrap();
}
