//! `cargo xtask ebpf`: builds the eBPF object, and verifies that the committed one comes from the sources.
//!
//! Owns: the one recipe by which the object is made, and the note of the tool chain that made it. Must not: install
//! anything; `cargo xtask setup` does. Paths are taken out of the object, so that two builds in two folders are the
//! same to the byte.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// `cargo xtask ebpf ...`
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Build the object from source and put it in agent-ebpf/prebuilt/.
    Build,
    /// Build it again and compare it with the committed one.
    Verify,
}

/// What `verify` found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verified {
    /// The committed object is what the sources give.
    Identical,
    /// Another tool chain is installed than the one that made the committed object, so the bytes say nothing: this
    /// rebuilt object is to be tested instead.
    OtherToolchain {
        /// The rebuilt object.
        object: PathBuf,
    },
}

/// The tool chain that made an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Toolchain {
    rustc: String,
    bpf_linker: String,
}

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "mailsteer-programs";
const NOTE_HEAD: &str = "# What made mailsteer.bpf.o. Written by `cargo xtask ebpf build`.\n";

/// Runs the command.
///
/// # Errors
/// Where the build fails, or the committed object is not what the sources give.
pub(crate) fn run(args: &Args) -> Result<()> {
    match args.what {
        What::Build => build(),
        What::Verify => match verify()? {
            Verified::Identical => {
                println!("agent-ebpf/prebuilt/mailsteer.bpf.o is what the sources give, to the byte.");
                Ok(())
            }
            Verified::OtherToolchain { object } => {
                println!(
                    "The rebuilt object cannot be compared. Test it in place of the committed one:\n    \
                     MAILSTEER_BPF_OBJECT={} cargo test -p mailsteer --test bpf",
                    object.display()
                );
                Ok(())
            }
        },
    }
}

/// Builds the object and puts it, with a note of the tool chain, in place of the committed one.
///
/// # Errors
/// Where the tool chain is missing or the build fails.
pub(crate) fn build() -> Result<()> {
    let root = root()?;
    let object = compile(&root)?;
    let prebuilt = root.join("agent-ebpf/prebuilt");
    fs::create_dir_all(&prebuilt)?;
    fs::copy(&object, prebuilt.join("mailsteer.bpf.o"))?;
    let note = format!("{NOTE_HEAD}{}", toml::to_string(&installed()?)?);
    fs::write(prebuilt.join("TOOLCHAIN.toml"), note)?;
    println!("agent-ebpf/prebuilt/mailsteer.bpf.o is built.");
    Ok(())
}

/// Builds the object again and compares it with the committed one.
///
/// # Errors
/// Where the same tool chain gives other bytes: the committed object does not come from these sources.
pub(crate) fn verify() -> Result<Verified> {
    let root = root()?;
    let prebuilt = root.join("agent-ebpf/prebuilt");
    let note = fs::read_to_string(prebuilt.join("TOOLCHAIN.toml")).context("no note of the tool chain")?;
    let made_by: Toolchain = toml::from_str(&note)?;
    let installed = installed()?;
    let object = compile(&root)?;
    if installed != made_by {
        println!("The committed object was made by {made_by:?};\nthis machine has {installed:?}.");
        return Ok(Verified::OtherToolchain { object });
    }
    let committed = fs::read(prebuilt.join("mailsteer.bpf.o"))?;
    if fs::read(&object)? != committed {
        bail!(
            "agent-ebpf/prebuilt/mailsteer.bpf.o is not what the sources give: run `cargo xtask ebpf build` and \
             commit the result. The rebuilt object is {}",
            object.display()
        );
    }
    Ok(Verified::Identical)
}

/// Compiles the programs; returns where the object is.
fn compile(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/bpf");
    let status = cargo()
        .current_dir(root)
        .args(["build", "--release", "--locked", "--package", "mailsteer-ebpf", "--features", "bpf"])
        .args(["--bin", BINARY, "-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTC", rustc())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root)?)
        .env("PATH", path_with_linker())
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .status()
        .context("cannot run cargo for the eBPF target")?;
    if !status.success() {
        bail!(
            "the eBPF build failed; `cargo xtask setup` installs its tool chain (a rustc with rust-src, bpf-linker)"
        );
    }
    Ok(target.join(TARGET).join("release").join(BINARY))
}

fn flags(root: &Path) -> Result<OsString> {
    let sysroot = said(Command::new(rustc()).args(["--print", "sysroot"]))?;
    let home = cargo_home();
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [
        // Atomic instructions on 32 bits: kernel 5.12 and later.
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        remap(root, "/mailsteer"),
        remap(&home.join("registry/src"), "/cargo"),
        remap(&Path::new(&sysroot).join("lib/rustlib/src/rust"), "/rust"),
    ];
    Ok(flags.join("\u{1f}").into())
}

fn installed() -> Result<Toolchain> {
    Ok(Toolchain {
        rustc: said(Command::new(rustc()).arg("--version"))?,
        bpf_linker: said(Command::new("bpf-linker").arg("--version").env("PATH", path_with_linker()))
            .context("bpf-linker is not installed: `cargo xtask setup` does it")?,
    })
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Debian's compiler where there is one: it comes with core's source. `MAILSTEER_BPF_RUSTC` names another.
fn rustc() -> OsString {
    std::env::var_os("MAILSTEER_BPF_RUSTC").unwrap_or_else(|| debian_or("rustc"))
}

/// The cargo of that compiler. `MAILSTEER_BPF_CARGO` names another.
fn cargo() -> Command {
    Command::new(std::env::var_os("MAILSTEER_BPF_CARGO").unwrap_or_else(|| debian_or("cargo")))
}

fn debian_or(name: &str) -> OsString {
    let debian = Path::new("/usr/bin").join(name);
    if debian.exists() { debian.into() } else { name.into() }
}

fn cargo_home() -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// `cargo install` puts bpf-linker where the caller's PATH may not lead.
fn path_with_linker() -> OsString {
    let mut path = cargo_home().join("bin").into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(Path::to_path_buf).context("xtask has no parent folder")
}
