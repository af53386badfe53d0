//! `cargo xtask deb`: the Debian package, the same to the byte for the same commit and tool chain.
//!
//! Owns: what lies where in it, and its fields. Must not: install anything. What happens at installation and removal is
//! in `systemd/deb`; dpkg-deb puts all of it together.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{man, run};

/// What to build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Packs the debug build: quick to make, for tests.
    #[arg(long)]
    debug_build: bool,
    /// The package's version; by default it comes from the workspace's and the commit.
    #[arg(long = "package-version", value_name = "VERSION")]
    version: Option<String>,
}

/// What goes where: from the workspace, or from what was made (`man/`); to the package; mode.
const FILES: &[(&str, &str)] = &[
    ("systemd/mailsteer.service", "usr/lib/systemd/system/mailsteer.service"),
    ("systemd/mailsteer-boot.service", "usr/lib/systemd/system/mailsteer-boot.service"),
    ("systemd/mailsteer.socket", "usr/lib/systemd/system/mailsteer.socket"),
    ("systemd/sysusers.d/mailsteer.conf", "usr/lib/sysusers.d/mailsteer.conf"),
    ("systemd/tmpfiles.d/mailsteer.conf", "usr/lib/tmpfiles.d/mailsteer.conf"),
    ("target/man/mailsteer.bash", "usr/share/bash-completion/completions/mailsteer"),
    ("target/man/_mailsteer", "usr/share/zsh/vendor-completions/_mailsteer"),
    ("target/man/mailsteer.fish", "usr/share/fish/vendor_completions.d/mailsteer.fish"),
    ("README.md", "usr/share/doc/mailsteer/README.md"),
    ("docs/start.md", "usr/share/doc/mailsteer/start.md"),
    ("docs/config.md", "usr/share/doc/mailsteer/config.md"),
    ("docs/feeds.md", "usr/share/doc/mailsteer/feeds.md"),
    ("docs/hooks.md", "usr/share/doc/mailsteer/hooks.md"),
    ("docs/operating.md", "usr/share/doc/mailsteer/operating.md"),
    ("docs/security.md", "usr/share/doc/mailsteer/security.md"),
    ("docs/capabilities.md", "usr/share/doc/mailsteer/capabilities.md"),
    ("docs/invariants.md", "usr/share/doc/mailsteer/invariants.md"),
    ("docs/limits.md", "usr/share/doc/mailsteer/limits.md"),
    ("config/default.toml", "usr/share/doc/mailsteer/examples/default.toml"),
    ("config/lists.toml", "usr/share/doc/mailsteer/examples/lists.toml"),
    ("config/providers.toml", "usr/share/doc/mailsteer/examples/providers.toml"),
    ("config/replies.toml", "usr/share/doc/mailsteer/examples/replies.toml"),
    ("config/prometheus/alertmanager.yml", "usr/share/doc/mailsteer/examples/alertmanager.yml"),
    ("config/prometheus/mailsteer.rules.yml", "usr/share/doc/mailsteer/examples/mailsteer.rules.yml"),
];

/// Builds it and says where it is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let commit = Commit::find();
    let version = args.version.clone().map_or_else(|| commit.version(), Ok)?;
    build(args)?;
    let pages = run::root().join("target/man");
    let write = if args.debug_build { man::write_by_built } else { man::write };
    write(&pages)?;
    let out = run::root().join("target/debian");
    let stage = out.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let architecture = ask("dpkg", &["--print-architecture"])?;
    fill(&stage, args, &commit)?;
    control(&stage, &version, &architecture)?;
    let package = out.join(format!("mailsteer_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build"]).env("SOURCE_DATE_EPOCH", &commit.seconds);
    // What is thrown away after a test need not be small.
    pack.arg(if args.debug_build { "-Zgzip" } else { "-Zxz" });
    if args.debug_build {
        pack.arg("-z1");
    }
    run::show(pack.arg(&stage).arg(&package))?;
    fs::remove_dir_all(&stage)?;
    println!("{}", package.display());
    Ok(())
}

/// A debug build together with all that the tests are built with: of the package alone each crate below would be another one, for it
/// alone asks for fewer features.
fn build(args: &Args) -> Result<()> {
    let what: &[&str] = if args.debug_build {
        &["--workspace", "--bin", "mailsteer", "--example", man::EXAMPLE]
    } else {
        &["--release", "--package", "mailsteer"]
    };
    run::show(run::cargo().args(["build", "--quiet", "--locked"]).args(what))
}

/// What is known of the sources: the time of the commit, so that every build of it says the same.
struct Commit {
    seconds: String,
    name: Option<String>,
}

impl Commit {
    /// Sources without a repository are as old as SOURCE_DATE_EPOCH says.
    fn find() -> Self {
        let git = |args: &[&str]| {
            let answer = run::ask(Command::new("git").args(args).current_dir(run::root()))?;
            Some(answer.trim().to_owned())
        };
        let given = std::env::var("SOURCE_DATE_EPOCH").ok();
        let seconds = given.or_else(|| git(&["log", "-1", "--format=%ct"])).unwrap_or_else(|| "0".to_owned());
        let tag = format!("v{}", env!("CARGO_PKG_VERSION"));
        let released =
            git(&["tag", "--points-at", "HEAD"]).is_some_and(|tags| tags.lines().any(|one| one == tag));
        let name = git(&["rev-parse", "--short=10", "HEAD"]).filter(|_| !released);
        Self { seconds, name }
    }

    /// A release has the workspace's version; what comes before it sorts before it, in the order of its commits.
    fn version(&self) -> Result<String> {
        let release = env!("CARGO_PKG_VERSION");
        let Some(name) = &self.name else { return Ok(release.to_owned()) };
        let time = ask("date", &["-u", "-d", &format!("@{}", self.seconds), "+%Y%m%d%H%M%S"])?;
        Ok(format!("{release}~{time}.g{name}"))
    }
}

fn fill(stage: &Path, args: &Args, commit: &Commit) -> Result<()> {
    let root = run::root();
    let program = stage.join("usr/bin/mailsteer");
    let built = run::built("mailsteer");
    let built = if args.debug_build {
        built
    } else {
        built.ancestors().nth(2).context("no target folder")?.join("release/mailsteer")
    };
    put(&built, &program, 0o755)?;
    run::show(Command::new("strip").arg(&program))?;
    for (from, to) in FILES {
        put(&root.join(from), &stage.join(to), 0o644)?;
    }
    let examples = stage.join("usr/share/doc/mailsteer/examples");
    for path in listed(&root.join("config/examples"))? {
        put(&path, &examples.join(path.file_name().unwrap_or_default()), 0o644)?;
    }
    for page in listed(&root.join("target/man"))? {
        if page.extension().is_some_and(|extension| extension == "1") {
            compressed(&page, &stage.join("usr/share/man/man1"), commit)?;
        }
    }
    compressed(&root.join("CHANGELOG.md"), &stage.join("usr/share/doc/mailsteer"), commit)?;
    let doc = stage.join("usr/share/doc/mailsteer");
    fs::rename(doc.join("CHANGELOG.md.gz"), doc.join("changelog.gz"))?;
    write(&doc.join("copyright"), &copyright(&root)?)?;
    // Where the config goes: only root and the agent's user have any business there.
    folder(&stage.join("etc/mailsteer"))
}

/// Both licences, each line indented as the format of that file wants it.
fn copyright(root: &Path) -> Result<String> {
    let mut text = fs::read_to_string(root.join("systemd/deb/copyright"))?;
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        text += " .\n";
        for line in fs::read_to_string(root.join(name))?.lines() {
            writeln!(text, " {}", if line.trim().is_empty() { "." } else { line })?;
        }
    }
    Ok(text)
}

fn control(stage: &Path, version: &str, architecture: &str) -> Result<()> {
    let size: u64 = files(stage)?.iter().map(|path| path.metadata().map_or(0, |data| data.len())).sum();
    let libc = newest_glibc(&stage.join("usr/bin/mailsteer"))?;
    let control = format!(
        "Package: mailsteer\nVersion: {version}\nArchitecture: {architecture}\nSection: mail\nPriority: optional\n\
         Maintainer: The mailsteer developers <maintainers@mailsteer.invalid>\nInstalled-Size: {}\n\
         Depends: libc6 (>= {libc}), libgcc-s1, adduser, nftables (>= 1.0.6)\nRecommends: systemd (>= 252)\n\
         Homepage: https://github.com/mailsteer/mailsteer\n\
         Description: chooses the address that each outbound SMTP connection leaves from\n \
         Beneath any MTA and without changing it: nftables rules choose and rewrite the\n \
         source address, and an eBPF guard stops what does not fit before it leaves.\n \
         Nothing runs and nothing changes before a config was written.\n",
        size.div_ceil(1024)
    );
    write(&stage.join("DEBIAN/control"), &control)?;
    let mut sums = String::new();
    for path in files(stage)?.iter().filter(|path| !path.starts_with(stage.join("DEBIAN"))) {
        let name = path.strip_prefix(stage)?.display().to_string();
        let sum = run::ask(Command::new("md5sum").arg(&name).current_dir(stage));
        sums += &sum.with_context(|| format!("md5sum {name}"))?;
    }
    write(&stage.join("DEBIAN/md5sums"), &sums)?;
    for script in ["postinst", "prerm", "postrm"] {
        put(&run::root().join("systemd/deb").join(script), &stage.join("DEBIAN").join(script), 0o755)?;
    }
    Ok(())
}

/// The newest version of the C library that the program asks for.
fn newest_glibc(program: &Path) -> Result<String> {
    let symbols =
        run::ask(Command::new("objdump").arg("-T").arg(program)).context("objdump: see cargo xtask setup")?;
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let text: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let numbers: Vec<u32> = text.split('.').filter_map(|part| part.parse().ok()).collect();
        (!numbers.is_empty()).then_some((numbers, text))
    });
    Ok(versions.max().context("it asks for no C library")?.1)
}

fn compressed(from: &Path, to: &Path, commit: &Commit) -> Result<()> {
    let target = to.join(from.file_name().unwrap_or_default());
    put(from, &target, 0o644)?;
    run::show(
        Command::new("gzip").args(["-9", "-n", "-f"]).arg(&target).env("SOURCE_DATE_EPOCH", &commit.seconds),
    )
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    to.parent().map_or(Ok(()), folder)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent().map_or(Ok(()), folder)?;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o644))?)
}

/// Its mode does not depend on who builds.
fn folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), folder)?;
    fs::create_dir(path)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>();
    let mut entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort();
    Ok(entries)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in listed(folder)? {
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn ask(program: &str, args: &[&str]) -> Result<String> {
    let answer =
        run::ask(Command::new(program).args(args)).with_context(|| format!("{program} {args:?} failed"))?;
    Ok(answer.trim().to_owned())
}
