//! The import rules of the design: the core is pure; `observe` and `act` never meet; only `daemon` sees both.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// What the core must not depend on: whatever does I/O, knows a clock or draws lots.
const IMPURE_CRATES: [&str; 12] = [
    "tokio",
    "aya",
    "rtnetlink",
    "netlink-proto",
    "netlink-sys",
    "netlink-packet-route",
    "nix",
    "libc",
    "socket2",
    "hyper",
    "tonic",
    "rand",
];

/// What the core must not name from the standard library.
const IMPURE_PATHS: [&str; 14] = [
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::io::stdin",
    "std::time::Instant",
    "std::time::SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "Timestamp::now",
    "Zoned::now",
];

/// Module, and the modules of the agent that it must not name.
const APART: [(&str, &[&str]); 4] = [
    ("observe", &["act", "daemon"]),
    ("act", &["observe", "daemon"]),
    ("telemetry", &["daemon"]),
    ("state", &["daemon"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Rust files below a directory, or the one file; nothing where there is none yet.
fn sources(at: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![at.to_owned(), at.with_extension("rs")];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() && path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code without comments (a comment may name anything), white space removed, so that a path that is broken over
/// lines is found too.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .collect()
}

/// Whether code names `crate::<module>`, also inside a group such as `crate::{act, state}`, or by `super`.
fn names_module(code: &str, module: &str) -> bool {
    ["crate::", "super::", "mailsteer::"].iter().any(|root| {
        code.match_indices(root).any(|(at, _)| {
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => top_level(group).any(|item| is_module(item, module)),
                None => is_module(rest, module),
            }
        })
    })
}

fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| {
        rest.starts_with([':', ';', ',', '}', ')']) || rest.is_empty() || rest.starts_with("as")
    })
}

/// The items of a use group, up to its closing brace, with nested groups left whole.
fn top_level(group: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut start, mut items) = (0usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                items.push(&group[start..at]);
                break;
            }
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.into_iter()
}

#[test]
fn observe_and_act_never_meet() {
    for (module, forbidden) in APART {
        for file in sources(&root().join("agent/src").join(module)) {
            let code = code(&fs::read_to_string(&file).unwrap());
            for other in forbidden {
                assert!(!names_module(&code, other), "{}: {module} must not know {other}", file.display());
            }
        }
    }
}

#[test]
fn only_the_daemon_sees_both() {
    for file in sources(&root().join("agent/src")) {
        let code = code(&fs::read_to_string(&file).unwrap());
        let both = names_module(&code, "observe") && names_module(&code, "act");
        let within = file.strip_prefix(root().join("agent/src")).unwrap();
        let allowed = within.starts_with("daemon") || within == Path::new("daemon.rs");
        assert!(!both || allowed, "{} sees both observe and act", file.display());
    }
}

#[test]
fn the_core_is_pure() {
    let manifest = fs::read_to_string(root().join("agent/core/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for name in IMPURE_CRATES {
        let found = dependencies.lines().any(|l| l.split(['.', ' ', '=']).next() == Some(name));
        assert!(!found, "the core depends on {name}");
    }
    for file in sources(&root().join("agent/core/src")) {
        let code = code(&fs::read_to_string(&file).unwrap());
        for path in IMPURE_PATHS {
            assert!(!code.contains(path), "{} names {path}", file.display());
        }
    }
}

#[test]
fn the_checker_catches_a_violation() {
    for (bad, module) in [
        ("use crate::act::nft;", "act"),
        ("use crate::{\n    state,\n    act::{nft, guard},\n};", "act"),
        ("fn f() { crate::observe::start() }", "observe"),
        ("use super::act;", "act"),
        ("use crate::{observe};", "observe"),
    ] {
        assert!(names_module(&code(bad), module), "{bad}");
    }
    for good in
        ["use crate::action::Plan;", "// use crate::act;", "use crate::{state::act, actor};", "let act = 1;"]
    {
        assert!(!names_module(&code(good), "act"), "{good}");
    }
    assert!(code("use std::\n    fs;").contains("std::fs"));
}
