//! `init`: looks for what a config needs, lets the core write it, puts it where it is wanted.
//!
//! Owns: the file. Must not: decide what stands in it, or overwrite one unasked.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use mailsteer_core::init;

use super::commands::put;
use crate::observe::init::look;

/// Writes the config to a file, or prints it.
pub(super) fn init(output: Option<&Path>, force: bool, json: bool) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(look(Path::new("/"))).context("cannot look at this host")?;
    let text = init::write(&facts);
    let Some(file) = output.filter(|file| *file != Path::new("-")) else {
        let answer = serde_json::json!({ "config": text });
        put(&if json { serde_json::to_string_pretty(&answer)? + "\n" } else { text })?;
        return Ok(0);
    };
    write(file, &text, force)?;
    let answer = serde_json::json!({ "file": file });
    let said = format!("{0} is written; next: mailsteer check {0}\n", file.display());
    put(&if json { serde_json::to_string_pretty(&answer)? + "\n" } else { said })?;
    Ok(0)
}

fn write(file: &Path, text: &str, force: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    // Whether it is there is the file system's word, at the moment of writing.
    let opened =
        if force { options.create(true).truncate(true) } else { options.create_new(true) }.open(file);
    match opened {
        Ok(mut opened) => {
            opened.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already, and was left alone: --force overwrites it", file.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", file.display())),
    }
}
