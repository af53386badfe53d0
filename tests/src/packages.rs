//! Debian packages, downloaded and unpacked below `target/debs`: nothing is installed, so no service of theirs starts.
//!
//! Owns: those files. Must not: know what they are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec;

/// Where the unpacked `usr` of these packages is, in the cache under this name, unpacking it first where that was not done yet.
///
/// # Errors
/// When apt cannot download, or dpkg cannot unpack.
pub(crate) fn unpack(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = cache()?.join(name);
    if root.is_dir() {
        return Ok(root);
    }
    let fresh = tempfile::tempdir_in(cache()?)?;
    exec::output(Command::new("apt-get").arg("download").args(packages).current_dir(fresh.path()))
        .with_context(|| {
            format!(
                "cannot download {}: run `cargo xtask setup`, or `apt-get update` as root",
                packages.join(" ")
            )
        })?;
    let unpacked = fresh.path().join("root");
    for deb in fs::read_dir(fresh.path())?.collect::<Result<Vec<_>, _>>()? {
        exec::output(Command::new("dpkg").arg("-x").arg(deb.path()).arg(&unpacked))?;
    }
    // Debian 12 has one /usr; these packages still name /lib.
    let libraries = unpacked.join("lib/x86_64-linux-gnu");
    if libraries.is_dir() {
        exec::output(Command::new("cp").args(["-a"]).arg(&libraries).arg(unpacked.join("usr/lib")))?;
    }
    // Complete or not there: another test may look at this moment, or have been first.
    if let Err(e) = fs::rename(&unpacked, &root)
        && !root.is_dir()
    {
        return Err(e.into());
    }
    Ok(root)
}

fn cache() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let cache = workspace.join("target/debs");
    fs::create_dir_all(&cache)?;
    Ok(cache)
}
