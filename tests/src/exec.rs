//! Runs a program to its end and says what it said when it failed. Owns: nothing. Must not: use the network.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` and returns its standard output.
///
/// # Errors
/// When it cannot be started, or ends with another code than 0; the error holds its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    read(&shown, &output)
}

/// Like [`output`], with `input` on standard input.
///
/// # Errors
/// As [`output`].
pub fn output_of(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    read(&shown, &child.wait_with_output()?)
}

fn read(shown: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
