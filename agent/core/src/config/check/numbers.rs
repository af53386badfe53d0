//! Numbers with a range and a default.
//!
//! Owns: what is said of one that is out of its range. Must not: know what it means.

use std::ops::RangeInclusive;

use crate::config::problem::Problem;
use crate::config::read::At;

/// A whole number of a range; the default where none is written, or one that cannot be.
pub(super) fn whole(
    written: Option<&At<i64>>,
    range: RangeInclusive<i64>,
    default: i64,
    (key, code): (&str, &'static str),
    problems: &mut Vec<Problem>,
) -> i64 {
    let Some(written) = written else { return default };
    if range.contains(&written.value) {
        return written.value;
    }
    problems.push(
        Problem::error(code, format!("`{key}` cannot be {}", written.value))
            .at(&written.span, format!("{} to {}", range.start(), range.end()))
            .help(format!("Leave the key out for {default}; docs/config.md says what it means.")),
    );
    default
}
