//! The real binary against a fake agent behind a real socket: everything that a person or a program reads.
//! A snapshot that changes is a change of the interface: look at it, then accept it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use fake::{Served, mailsteer};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer() {
    let agent = Served::start().await;
    let who = ["--uid", "105", "203.0.113.200"];
    let commands: [(&str, &[&str]); 15] = [
        ("status", &["status"]),
        ("sources", &["sources"]),
        ("report", &["report"]),
        ("connections", &["connections", "-n", "5"]),
        ("events", &["events"]),
        ("events_verbose", &["events", "-v"]),
        ("replay", &["replay", "3"]),
        ("explain", &["explain", who[0], who[1], who[2]]),
        ("plan", &["plan"]),
        ("suspend", &["suspend", "transactional-2", "--for", "1h30m", "--reason", "x"]),
        ("resume", &["resume", "transactional-2", "--reason", "x"]),
        ("bypass", &["bypass", "marketing", "--for", "1h", "--reason", "x"]),
        ("hold", &["hold", "--for", "1h", "--reason", "x"]),
        ("reload", &["reload"]),
        ("teardown", &["teardown", "--yes"]),
    ];
    for (name, args) in commands {
        insta::assert_snapshot!(name, mailsteer(&agent.socket, args).all());
        let json = mailsteer(&agent.socket, &[args, &["--json"]].concat());
        insta::assert_snapshot!(format!("{name}_json"), json.all());
    }
    let coloured = mailsteer(&agent.socket, &["status", "--color", "always"]).out;
    assert!(coloured.starts_with("\x1b[32m") && coloured.contains("\x1b[0m\n"), "{coloured}");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_a_terminal() {
    let agent = Served::start().await;
    let widest = |args: &[&str]| {
        let said = mailsteer(&agent.socket, args).out;
        let line = |line: &str| line.chars().count();
        said.lines().filter(|l| !l.contains("2001:db8") && !l.contains("WRONG")).map(line).max().unwrap()
    };
    for (args, width) in [
        (["connections"].as_slice(), 120),
        (&["sources"], 100),
        (&["status"], 100),
        (&["events"], 120),
        (&["report"], 120),
    ] {
        assert!(widest(args) <= width, "{args:?} is {} wide", widest(args));
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal() {
    let agent = Served::start().await;
    let commands: [(&str, &[&str]); 8] = [
        ("no_such_source", &["suspend", "nope", "--reason", "x"]),
        ("no_reason", &["resume", "transactional-2", "--reason", " "]),
        ("bad_duration", &["bypass", "marketing", "--for", "2w", "--reason", "x"]),
        ("replay_no_event", &["replay", "4"]),
        ("replay_no_verdict", &["replay", "2"]),
        ("teardown_unasked", &["teardown"]),
        ("try_no_such_stream", &["try", "--stream", "nope", "203.0.113.1"]),
        ("try_other_stream", &["try", "--stream", "marketing", "203.0.113.1"]),
    ];
    for (name, args) in commands {
        insta::assert_snapshot!(name, mailsteer(&agent.socket, args).all());
    }
    let directory = agent.end().await;
    let gone = mailsteer(&directory.path().join("control.sock"), &["status"]);
    assert_eq!(gone.code, Some(2), "no agent vouches for the mail");
    assert!(gone.err.contains("no agent answers at"), "{}", gone.err);
    assert_eq!(mailsteer(&directory.path().join("control.sock"), &["sources"]).code, Some(1));
}

#[test]
fn help_of_every_command() {
    let none = std::path::Path::new("/nonexistent");
    let commands = [
        "agent",
        "check",
        "doctor",
        "init",
        "status",
        "sources",
        "report",
        "connections",
        "try",
        "explain",
        "plan",
        "suspend",
        "resume",
        "bypass",
        "hold",
        "reload",
        "events",
        "replay",
        "teardown",
    ];
    insta::assert_snapshot!("help", mailsteer(none, &["--help"]).out);
    for command in commands {
        insta::assert_snapshot!(format!("help_{command}"), mailsteer(none, &[command, "--help"]).out);
    }
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let none = std::path::Path::new("/nonexistent");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let shown =
        |args: &[&str]| mailsteer(none, args).all().replace(&directory.path().display().to_string(), "DIR");
    let good = "mode = \"enforce\"\n[pool.main]\naddresses = [\"203.0.113.10\"]\nehlo = \"mail.example.com\"\n\
                [stream.mail]\nuser = \"a-user-of-another-host\"\npool = \"main\"\n";
    let good = file("good.toml", good);
    insta::assert_snapshot!("check_good_away", shown(&["check", "--away", &good]));
    let bad = file("bad.toml", "mode = \"enfroce\"\n[pool.main]\naddresses = [\"203.0.113.300\"]\n");
    insta::assert_snapshot!("check_bad", shown(&["check", "--away", &bad]));
    insta::assert_snapshot!("check_bad_json", shown(&["check", "--away", &bad, "--json"]));
    let coloured = mailsteer(none, &["check", "--away", &bad, "--color", "always"]);
    assert!(coloured.out.contains("\x1b[31"), "{}", coloured.out);
    insta::assert_snapshot!("plan_bad", shown(&["plan", "--config", &bad]));
    insta::assert_snapshot!("check_missing", shown(&["check", "/nonexistent/mailsteer.toml"]));
    let here = mailsteer(none, &["check", &good]);
    assert!(here.code == Some(1) && here.out.contains("this host has no user"), "{}", here.all());
}

/// What they find depends on where this runs; how they answer does not.
#[test]
fn a_host_is_looked_at_without_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let none = std::path::Path::new("/nonexistent");
    let file = directory.path().join("mailsteer.toml");
    let path = file.display().to_string();
    let first = mailsteer(none, &["init", "--output", &path]);
    assert_eq!(first.all(), format!("exit 0\n{path} is written; next: mailsteer check {path}\n"));
    let again = mailsteer(none, &["init", "--output", &path]);
    assert!(again.code == Some(1) && again.err.contains("--force overwrites it"), "{}", again.all());
    assert_eq!(mailsteer(none, &["init", "--output", &path, "--force"]).code, Some(0));
    let head = "# mailsteer: written by `mailsteer init`";
    assert!(mailsteer(none, &["init"]).out.starts_with(head));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(head));
    let checked = mailsteer(none, &["check", &path]);
    assert_eq!(checked.code, Some(0), "{}", checked.all());
    for arguments in [&["doctor"][..], &["doctor", "--config", &path]] {
        let said = mailsteer(none, &[arguments, &["--json"]].concat());
        let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let code = match answer["level"].as_str().unwrap() {
            "ok" | "note" => 0,
            "warn" => 1,
            _ => 2,
        };
        assert_eq!(said.code, Some(code), "{}", said.all());
        assert!(answer["findings"].as_array().unwrap().len() > 20, "{answer}");
        // Another look: mounts of this machine may have changed meanwhile.
        let table = mailsteer(none, arguments);
        let code = match table.out.as_str() {
            out if out.starts_with("mailsteer does not work on this host") => 2,
            out if out.starts_with("something wants a look") => 1,
            _ => 0,
        };
        assert_eq!(table.code, Some(code), "{}", table.all());
    }
    std::fs::write(&file, "mode = 1\n").unwrap();
    let bad = mailsteer(none, &["doctor", "--config", &path]);
    assert!(bad.code == Some(2) && bad.out.contains("has 1 error"), "{}", bad.all());
}
