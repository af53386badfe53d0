//! Every input that is kept is run once through its target: what was found and mended stays mended.
#![expect(clippy::unwrap_used, reason = "a test program: a panic is how it fails")]

use std::fs;
use std::path::{Path, PathBuf};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(at: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = Vec::new();
    for path in entries {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn every_kept_input_is_taken() {
    for name in mailsteer_fuzz::names() {
        let target = mailsteer_fuzz::target(name).unwrap();
        let mut inputs = files(&here().join("seeds").join(name));
        if name == "config" {
            inputs.extend(files(&here().join("../../config")));
        }
        assert!(!inputs.is_empty(), "{name} has nothing to start from");
        for input in inputs {
            println!("{name}: {}", input.display());
            let bytes = fs::read(input).unwrap();
            target(&bytes);
            // What is cut off is read too.
            for end in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                target(&bytes[..end.min(bytes.len())]);
            }
        }
    }
}

#[test]
fn every_directory_of_inputs_is_a_target_s() {
    for entry in fs::read_dir(here().join("seeds")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(mailsteer_fuzz::target(&name).is_some(), "{name}");
    }
}
