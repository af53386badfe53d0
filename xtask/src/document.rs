//! Documents into which commands write what they found: docs/performance.md, docs/fuzzing.md.
//!
//! Owns: the marks that each command writes between, and the words for the machine. Must not: know a figure.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

const FIGURES: &str = "docs/performance.md";

/// Writes figures between a command's marks in docs/performance.md.
///
/// # Errors
/// As [`rewrite`].
pub(crate) fn write(command: &str, found: &str) -> Result<()> {
    rewrite(FIGURES, command, |_| found.to_owned())
}

/// Writes anew what stands between a command's marks in a document.
///
/// # Errors
/// When the document cannot be read or written, or lacks the marks.
pub(crate) fn rewrite(document: &str, command: &str, new: impl FnOnce(&str) -> String) -> Result<()> {
    let path = run::root().join(document);
    let text = fs::read_to_string(&path)?;
    let new = between(&text, command, new)
        .with_context(|| format!("{document} has lost its marks {:?}", marks(command)))?;
    fs::write(&path, new)?;
    println!("written to {document}");
    Ok(())
}

fn marks(command: &str) -> (String, String) {
    (format!("<!-- {command} -->\n"), format!("<!-- end {command} -->\n"))
}

fn between(text: &str, command: &str, new: impl FnOnce(&str) -> String) -> Option<String> {
    let (begin, end) = marks(command);
    let (head, rest) = text.split_once(&begin)?;
    let (old, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}{}{end}{tail}", new(old)))
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
        assert_eq!(between(text, "x", |old| old.replace("old", "new")), Some(wanted));
        assert_eq!(between(text, "z", str::to_owned), None);
    }
}
