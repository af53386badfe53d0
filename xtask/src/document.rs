//! docs/performance.md: figures are written there by the commands that took them.
//!
//! Owns: the marks that each command writes between, and the words for the machine. Must not: know a figure.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

const DOCUMENT: &str = "docs/performance.md";

/// Writes what a command found between its marks.
///
/// # Errors
/// When the document cannot be read or written, or lacks the marks.
pub(crate) fn write(command: &str, found: &str) -> Result<()> {
    let path = run::root().join(DOCUMENT);
    let text = fs::read_to_string(&path)?;
    let new = between(&text, command, found)
        .with_context(|| format!("{DOCUMENT} has lost its marks {:?}", marks(command)))?;
    fs::write(&path, new)?;
    println!("written to {DOCUMENT}");
    Ok(())
}

fn marks(command: &str) -> (String, String) {
    (format!("<!-- {command} -->\n"), format!("<!-- end {command} -->\n"))
}

fn between(text: &str, command: &str, found: &str) -> Option<String> {
    let (begin, end) = marks(command);
    let (head, rest) = text.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}{found}{end}{tail}"))
}

/// Kernel, CPUs and date, as they stand above every table.
///
/// # Errors
/// When the machine does not tell.
pub(crate) fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let date = run::ask(Command::new("date").arg("+%F")).context("no date")?.trim().to_owned();
    let cpus = std::thread::available_parallelism()?.get();
    Ok(format!("Linux {kernel}, {cpus} CPUs, {date}"))
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn only_what_stands_between_its_marks_is_replaced() {
        let text = "a\n<!-- x -->\nold\n<!-- end x -->\nb\n<!-- y -->\nkept\n<!-- end y -->\n";
        let wanted = text.replace("old", "new");
        assert_eq!(between(text, "x", "new\n"), Some(wanted));
        assert_eq!(between(text, "z", "new\n"), None);
    }
}
