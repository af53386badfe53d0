//! `cargo xtask guards`: takes the guard of each invariant away, and sees its test fail.
//!
//! Owns: the copy of the sources in which that happens, and the table of what came of it. Must not: change the
//! checkout. Which guards there are is data: `tests/guards.toml`. A test that passes without its guard proves
//! nothing, and is an error here; so is a guard whose removal does not compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run;

const LIST: &str = "tests/guards.toml";
/// Sources of the eBPF programs: what is changed there takes effect only in a new object.
const PROGRAMS: &str = "agent-ebpf/src/";

/// Which guards to take away.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only guards whose clause, name or test contains one of these.
    filters: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    guard: Vec<Guard>,
}

/// One guard.
#[derive(Deserialize)]
struct Guard {
    clause: String,
    #[serde(rename = "guard")]
    name: String,
    file: String,
    old: String,
    new: String,
    test: [String; 3],
}

/// What a test said without its guard.
#[derive(PartialEq, Eq)]
enum Said {
    Failed,
    Passed,
    NotBuilt,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !run::is_root() {
        bail!("these tests need root. Run:\n  {}", run::how_to_be_root("guards"));
    }
    let copy = Copy::make(run::root().join("target/guards"))?;
    let mut wrong = Vec::new();
    println!("| clause | taken away | test | failed |\n|---|---|---|---|");
    for guard in list()?.iter().filter(|guard| guard.fits(&args.filters)) {
        let began = Instant::now();
        let said = copy.without(guard)?;
        let answer = match said {
            Said::Failed => "yes",
            Said::Passed => "**no**",
            Said::NotBuilt => "**it does not compile**",
        };
        let seconds = began.elapsed().as_secs();
        let [_, program, test] = &guard.test;
        println!("| {} | {} | `{program}::{test}` | {answer} ({seconds} s) |", guard.clause, guard.name);
        if said != Said::Failed {
            wrong.push(format!("{} {}", guard.clause, guard.name));
        }
    }
    if !wrong.is_empty() {
        bail!("not seen to fail without its guard: {}", wrong.join("; "));
    }
    Ok(())
}

fn list() -> Result<Vec<Guard>> {
    let text = fs::read_to_string(run::root().join(LIST)).context(LIST)?;
    Ok(toml::from_str::<List>(&text).context(LIST)?.guard)
}

impl Guard {
    fn fits(&self, filters: &[String]) -> bool {
        let told = format!("{} {} {}", self.clause, self.name, self.test.join("::"));
        filters.is_empty() || filters.iter().any(|filter| told.contains(filter.as_str()))
    }

    /// The file without it.
    fn taken_from(&self, text: &str) -> Result<String> {
        match text.matches(&self.old).count() {
            1 => Ok(text.replacen(&self.old, &self.new, 1)),
            n => bail!("{LIST}: {} `{}`: {} has its text {n} times", self.clause, self.name, self.file),
        }
    }
}

/// A copy of the sources, with a target folder of its own.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make(root: PathBuf) -> Result<Self> {
        let listed = run::ask(Command::new("git").current_dir(run::root()).args([
            "ls-files",
            "-z",
            "-co",
            "--exclude-standard",
        ]))
        .context("git does not list the sources")?;
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (run::root().join(name), root.join(name));
            // Listed by git, and deleted since.
            if let Ok(bytes) = fs::read(&from)
                && fs::read(&to).ok().as_ref() != Some(&bytes)
            {
                fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
                fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
            }
        }
        Ok(Self { root })
    }

    /// Takes a guard away, runs its test, puts it back.
    fn without(&self, guard: &Guard) -> Result<Said> {
        let (source, object) = (self.root.join(&guard.file), self.object());
        let text = fs::read_to_string(&source).with_context(|| guard.file.clone())?;
        let built = fs::read(&object)?;
        fs::write(&source, guard.taken_from(&text)?)?;
        let said = self.test(guard);
        fs::write(&source, text)?;
        if guard.file.starts_with(PROGRAMS) {
            fs::write(&object, built)?;
        }
        said
    }

    fn object(&self) -> PathBuf {
        self.root.join("agent-ebpf/prebuilt/mailsteer.bpf.o")
    }

    fn test(&self, guard: &Guard) -> Result<Said> {
        if guard.file.starts_with(PROGRAMS) && !self.cargo(&["xtask", "ebpf", "build"])? {
            return Ok(Said::NotBuilt);
        }
        let [package, program, test] = &guard.test;
        let which: &[&str] = if program == "lib" { &["--lib"] } else { &["--test", program] };
        let base = [&["test", "--quiet", "--package", package], which].concat();
        let binaries = ["build", "--quiet", "--package", "mailsteer", "--package", "mailsteer-tests"];
        // The core's tests start none.
        let built = package == "mailsteer-core" || self.cargo(&binaries)?;
        if !built || !self.cargo(&[&base[..], &["--no-run"]].concat())? {
            return Ok(Said::NotBuilt);
        }
        let passed = self.cargo(&[&base[..], &["--", "--test-threads=1", test]].concat())?;
        Ok(if passed { Said::Passed } else { Said::Failed })
    }

    /// Runs cargo in the copy; what it says goes to a file beside, for who wants to know how a test failed.
    fn cargo(&self, args: &[&str]) -> Result<bool> {
        let log = fs::File::options().create(true).append(true).open(self.root.join("guards.log"))?;
        let target: &Path = &self.root.join("target");
        let status = run::cargo()
            .current_dir(&self.root)
            .args(args)
            .env("CARGO_TARGET_DIR", target)
            .env("MAILSTEER_BIN", target.join("debug/mailsteer"))
            .env("INSTA_UPDATE", "no")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        Ok(status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_is_where_the_list_says_and_its_test_exists() {
        let root = run::root();
        let folder = |package: &str| match package {
            "mailsteer-core" => "agent/core",
            "mailsteer" => "agent",
            _ => "tests",
        };
        for guard in list().expect("the list") {
            let text = fs::read_to_string(root.join(&guard.file)).expect(&guard.file);
            let without = guard.taken_from(&text).expect(&guard.name);
            assert_ne!(without, text, "{}", guard.name);
            let [package, program, test] = &guard.test;
            let inside = root.join(folder(package)).join(if program == "lib" { "src" } else { "tests" });
            assert!(names(&inside, test), "{}: there is no test {test} in {}", guard.name, inside.display());
        }
    }

    fn names(at: &Path, test: &str) -> bool {
        if at.is_file() {
            let text = fs::read_to_string(at).unwrap_or_default();
            return text.contains(&format!("fn {test}("));
        }
        fs::read_dir(at).into_iter().flatten().flatten().any(|entry| names(&entry.path(), test))
    }
}
