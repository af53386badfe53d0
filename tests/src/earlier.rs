//! A program that came before this one, as a package: what an upgrade meets on a production host.
//!
//! Owns: getting its sources, giving them a version and a map ABI of their own, building them, and putting them into a
//! package with their own maintainer scripts and units. Must not: change the checkout, or give up where the history is
//! not there: then the checkout's own sources are the earlier ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::debian::workspace;
use crate::exec;

/// The last commit that kept the operator's word in `operator.json`, and its counts in the kernel alone. Its maps have
/// the shapes of today; once a shape changes, counts cannot be carried over from it, and a later commit belongs here.
const COMMIT: &str = "81fcefaa1bc4551766c774ff0b22ff4302361653";
/// Edited in. Cargo knows what it built by package and version: none is built from two places.
const FROM_HISTORY: &str = "0.0.9";
/// The same, of the checkout's own sources.
const FROM_CHECKOUT: &str = "0.0.8";
/// The map ABI of the earlier program, edited in: another one's pins are not ours.
pub const ABI: u32 = 0;
/// So that its build does not take the place of the program under test.
const PROGRAM: &str = "mailsteer-earlier";
/// What is not copied where the checkout has to do.
const LEFT_OUT: [&str; 2] = ["target", ".git"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const UNITS: [&str; 3] = ["mailsteer.service", "mailsteer-boot.service", "mailsteer.socket"];

/// The earlier program, built.
#[derive(Debug)]
pub struct Earlier {
    sources: PathBuf,
    program: PathBuf,
    /// Its version, and its package's.
    pub version: &'static str,
}

impl Earlier {
    /// Gets and builds it; what was built before is built again only where something changed.
    ///
    /// # Errors
    /// When its sources lack what is edited, or it does not compile.
    pub fn built() -> Result<Self> {
        let (sources, version) = match from_history()? {
            Some(sources) => (sources, FROM_HISTORY),
            None => (from_checkout()?, FROM_CHECKOUT),
        };
        // What both need of other crates is built once.
        fs::copy(workspace().join("Cargo.lock"), sources.join("Cargo.lock"))?;
        let target = target();
        let mut build = Command::new(std::env::var_os("CARGO").context("run it with cargo")?);
        // With an example it asks for the features that the tests ask for: what is below it is built for both.
        build.args(["build", "--quiet", "--workspace", "--bin", PROGRAM, "--example", "cli-docs"]);
        build.current_dir(&sources).env("CARGO_TARGET_DIR", &target);
        exec::output(&mut build).context("the earlier program does not build")?;
        Ok(Self { sources, program: target.join("debug").join(PROGRAM), version })
    }

    /// Whether it keeps the operator's word in `operator.json`, as that commit did.
    #[must_use]
    pub fn keeps_a_file(&self) -> bool {
        self.version == FROM_HISTORY
    }

    /// Puts it into a package: what is in `like`, with its program, scripts and units.
    ///
    /// # Errors
    /// When dpkg-deb or strip fails.
    pub fn packed(&self, like: &Path) -> Result<PathBuf> {
        repacked(like, self.version, |stage| {
            let program = stage.join("usr/bin/mailsteer");
            exec::output(Command::new("strip").arg("-o").arg(&program).arg(&self.program))?;
            let systemd = self.sources.join("systemd");
            for script in SCRIPTS {
                fs::copy(systemd.join("deb").join(script), stage.join("DEBIAN").join(script))?;
                fs::set_permissions(stage.join("DEBIAN").join(script), fs::Permissions::from_mode(0o755))?;
            }
            for unit in UNITS {
                fs::copy(systemd.join(unit), stage.join("usr/lib/systemd/system").join(unit))?;
            }
            Ok(())
        })
    }
}

/// A package like another one, with a version of its own, whose eBPF programs no kernel loads: its agent cannot start.
///
/// # Errors
/// When the program does not hold them, or dpkg-deb fails.
pub fn that_cannot_start(like: &Path, version: &str) -> Result<PathBuf> {
    let object = fs::read(workspace().join("agent-ebpf/prebuilt/mailsteer.bpf.o"))?;
    repacked(like, version, |stage| {
        let program = stage.join("usr/bin/mailsteer");
        let mut bytes = fs::read(&program)?;
        let start = object.get(..64).context("an object has a header")?;
        let at = bytes.windows(start.len()).position(|window| window == start);
        let at = at.context("the program does not hold its eBPF object")?;
        bytes.get_mut(at..at + start.len()).context("it lies within")?.fill(0);
        Ok(fs::write(&program, bytes)?)
    })
}

/// Unpacks a package, changes it, packs it again under another version, beside the first.
fn repacked(like: &Path, version: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = like.parent().context("a package lies in a folder")?;
    let stage = tempfile::tempdir_in(folder)?;
    let root = stage.path().join("root");
    exec::output(Command::new("dpkg-deb").arg("--raw-extract").arg(like).arg(&root))?;
    change(&root)?;
    let control = root.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    fs::write(&control, with_line(&text, "Version: ", &format!("Version: {version}"))?)?;
    // They are of what was in it.
    fs::remove_file(root.join("DEBIAN/md5sums"))?;
    let package = folder.join(format!("mailsteer_{version}.deb"));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&root).arg(&package);
    exec::output(&mut pack)?;
    Ok(package)
}

/// That commit's sources; `None` where there is no such history, as in a shallow clone.
fn from_history() -> Result<Option<PathBuf>> {
    let sources = below("history")?.join(COMMIT);
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(workspace()).args(args);
        git
    };
    if !sources.is_dir() {
        let known = git(&["cat-file", "-e", &format!("{COMMIT}^{{commit}}")]).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let fresh = tempfile::tempdir_in(below("history")?)?;
        let archive = fresh.path().join("archive.tar");
        exec::output(git(&["archive", "--format=tar", COMMIT, "--output"]).arg(&archive))?;
        let unpacked = fresh.path().join("sources");
        fs::create_dir(&unpacked)?;
        // As new as they are here: cargo goes by that.
        exec::output(Command::new("tar").arg("-xmf").arg(&archive).arg("-C").arg(&unpacked))?;
        // Complete or not there.
        fs::rename(&unpacked, &sources)?;
    }
    for file in EDITED {
        let path = sources.join(file);
        let text = fs::read_to_string(&path)?;
        put(&path, edited(file, &text, FROM_HISTORY)?.as_bytes())?;
    }
    Ok(Some(sources))
}

/// The checkout's own sources, edited.
fn from_checkout() -> Result<PathBuf> {
    let sources = below("checkout")?;
    copy(&workspace(), &sources, Path::new(""))?;
    Ok(sources)
}

/// Copies what differs, so that only that is built again.
fn copy(from: &Path, to: &Path, inside: &Path) -> Result<()> {
    for entry in fs::read_dir(from.join(inside))? {
        let entry = entry?;
        let name = inside.join(entry.file_name());
        if LEFT_OUT.iter().any(|left| name == Path::new(left)) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(from, to, &name)?;
            continue;
        }
        let bytes = fs::read(entry.path())?;
        let file = EDITED.iter().find(|edited| name == Path::new(edited));
        let bytes = match file {
            Some(file) => edited(file, &String::from_utf8(bytes)?, FROM_CHECKOUT)?.into_bytes(),
            None => bytes,
        };
        put(&to.join(name), &bytes)?;
    }
    Ok(())
}

/// Leaves alone what is so already: cargo goes by the time.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

const EDITED: [&str; 3] = ["Cargo.toml", "agent/Cargo.toml", "agent-ebpf/src/lib.rs"];

/// What makes it an earlier program: a version, a name for what is built, an ABI. What was edited stays as it is.
fn edited(file: &str, text: &str, version: &str) -> Result<String> {
    match file {
        "Cargo.toml" => with_line(text, "version = ", &format!("version = \"{version}\"")),
        "agent-ebpf/src/lib.rs" => {
            with_line(text, "pub const ABI: u32 = ", &format!("pub const ABI: u32 = {ABI};"))
        }
        _ if text.contains(PROGRAM) => Ok(text.to_owned()),
        _ => Ok(format!("{text}\n[[bin]]\nname = \"{PROGRAM}\"\npath = \"src/main.rs\"\n")),
    }
}

/// The text with another line in the place of the one that begins so.
fn with_line(text: &str, start: &str, line: &str) -> Result<String> {
    if text.lines().filter(|one| one.starts_with(start)).count() != 1 {
        bail!("not one line begins with `{start}`");
    }
    Ok(text.lines().map(|one| if one.starts_with(start) { line } else { one }.to_owned() + "\n").collect())
}

fn below(folder: &str) -> Result<PathBuf> {
    let folder = target().join("earlier").join(folder);
    fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
