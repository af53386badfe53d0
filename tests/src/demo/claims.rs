//! What the demo claims, each with the figure that was measured and whether it held.
//!
//! Owns: the list and its table. Must not: round a failure away.

use std::fmt::{Display, Write as _};

/// The summary.
#[derive(Default, Debug)]
pub(super) struct Claims {
    lines: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    what: String,
    expected: String,
    measured: String,
    held: bool,
}

impl Claims {
    /// Notes what was expected and what was measured.
    pub(super) fn add<T: Display>(
        &mut self,
        what: &str,
        expected: &str,
        measured: T,
        holds: impl FnOnce(&T) -> bool,
    ) {
        let held = holds(&measured);
        let (what, expected) = (what.to_owned(), expected.to_owned());
        self.lines.push(Claim { what, expected, measured: measured.to_string(), held });
    }

    /// Whether all held.
    pub(super) fn hold(&self) -> bool {
        self.lines.iter().all(|claim| claim.held)
    }

    /// One line each.
    pub(super) fn table(&self) -> String {
        let mut out = format!("{:<34}{:>18}{:>16}", "", "expected", "measured");
        for claim in &self.lines {
            let held = if claim.held { "ok" } else { "FAILED" };
            let _ = write!(out, "\n{:<34}{:>18}{:>16}  {held}", claim.what, claim.expected, claim.measured);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Claims;

    #[test]
    fn one_failure_is_said_and_fails_the_whole() {
        let mut claims = Claims::default();
        claims.add("wrong addresses", "0", 0, |n| *n == 0);
        assert!(claims.hold());
        claims.add("connections failed", "0", 3, |n| *n == 0);
        assert!(!claims.hold());
        let table = claims.table();
        assert!(table.lines().nth(1).unwrap().ends_with("0  ok"), "{table}");
        assert!(table.lines().nth(2).unwrap().ends_with("3  FAILED"), "{table}");
    }
}
