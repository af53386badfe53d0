//! What holds for every member of the workspace: lints, licence, Rust version. A lint that nobody inherits is
//! decoration.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn members() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether a manifest has `lints.workspace = true`, in either way of writing it.
fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let line: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        (section == "[lints]" && line == "workspace=true") || line == "lints.workspace=true"
    })
}

#[test]
fn every_member_inherits_the_lints() {
    for member in members() {
        let path = member["manifest_path"].as_str().unwrap();
        assert!(
            inherits_lints(&std::fs::read_to_string(path).unwrap()),
            "{path} lacks `lints.workspace = true`"
        );
    }
    assert!(!inherits_lints("[package]\nworkspace = true\n[lints.rust]\nmissing_docs = 'warn'"));
    assert!(!inherits_lints("[lints]\n# workspace = true"));
}

#[test]
fn every_member_has_the_same_licence_and_rust_version() {
    let names: BTreeSet<_> = members().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect();
    let expected =
        ["mailsteer", "mailsteer-core", "mailsteer-ebpf", "mailsteer-fuzz", "mailsteer-tests", "xtask"];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    for member in members() {
        assert_eq!(member["license"], "MIT OR Apache-2.0", "{}", member["name"]);
        assert_eq!(member["rust_version"], "1.95", "{}", member["name"]);
        assert_eq!(member["publish"], serde_json::json!([]), "{}", member["name"]);
        assert!(member["description"].is_string(), "{}", member["name"]);
    }
    for text in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(root().join(text).is_file(), "{text}");
    }
}
