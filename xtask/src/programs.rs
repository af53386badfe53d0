//! The workspace's programs and tests, built once and together.
//!
//! Owns: asking cargo for them and reading where it put them. Must not: run any. Built package by package, each crate below
//! them is compiled again for every set of features that a package alone asks for: that was a third of CI's time.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::run;

/// What a program is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Tests inside a library or a program.
    Unit,
    /// A file of tests of its own.
    Integration,
    /// No test: the agent, or a helper of the lab.
    Program,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Built {
    /// The target's name.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) kind: Kind,
    /// The directory of its package, in which cargo would run it.
    pub(crate) home: PathBuf,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Builds the tests and the programs that they need; with `targets`, only these files of tests, and the agent.
pub(crate) fn build(targets: &[String]) -> Result<Vec<Built>> {
    let chosen = targets.iter().flat_map(|target| ["--test", target]);
    let tests: Vec<_> = ["test", "--workspace", "--no-run"].into_iter().chain(chosen).collect();
    let mut built = ask(&tests)?;
    if agent(&built).is_err() {
        built.extend(ask(&["build", "--package", "mailsteer"])?);
    }
    Ok(built)
}

fn ask(args: &[&str]) -> Result<Vec<Built>> {
    let mut command = run::cargo();
    command
        .args(args)
        .args(["--locked", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("the tests cannot be built: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(built).collect())
}

/// Where the agent was put.
pub(crate) fn agent(built: &[Built]) -> Result<&Path> {
    let agent = built.iter().find(|one| one.kind == Kind::Program && one.name == "mailsteer");
    agent.map(|one| one.path.as_path()).context("cargo built no mailsteer")
}

/// The program in a line of cargo's messages; none where it is an example.
fn built(line: &str) -> Option<Built> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    let target = message.get("target")?;
    let kinds = target.get("kind")?.as_array()?;
    let is = |kind: &str| kinds.iter().any(|one| one == kind);
    // `cargo test` builds them too, and one may bear the name of a test.
    if is("example") {
        return None;
    }
    let kind = if !message.get("profile")?.get("test")?.as_bool()? {
        Kind::Program
    } else if is("test") {
        Kind::Integration
    } else {
        Kind::Unit
    };
    Some(Built {
        name: target.get("name")?.as_str()?.to_owned(),
        kind,
        home: Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned(),
        path: path.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Built, Kind, built};

    fn line(kind: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/agent/Cargo.toml","target":{{"kind":["{kind}"],"name":"nft"}},"profile":{{"test":{test}}},"executable":"/t/nft-1"}}"#
        )
    }

    #[test]
    fn programs_are_told_from_tests() {
        let of =
            |kind| Some(Built { name: "nft".into(), kind, home: "/w/agent".into(), path: "/t/nft-1".into() });
        assert_eq!(built(&line("test", true)), of(Kind::Integration));
        assert_eq!(built(&line("lib", true)), of(Kind::Unit));
        assert_eq!(built(&line("bin", true)), of(Kind::Unit));
        assert_eq!(built(&line("bin", false)), of(Kind::Program));
        assert_eq!(built(&line("example", false)), None);
        assert_eq!(built(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
