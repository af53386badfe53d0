//! Months, in which entries of tables were last looked at.
//!
//! Owns: `2026-11` as a value, and when it is long ago. Must not: know what it is that was looked at.

use jiff::civil::Date;

use super::problem::{Problem, code};
use super::read::At;

/// Months after which somebody should look again: providers change their texts and lists their codes.
const STALE: i32 = 12;

/// A month of a year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Month {
    year: i16,
    month: i8,
}

impl Month {
    /// Whether it is more than a year before `today`.
    pub(crate) fn is_stale(self, today: Date) -> bool {
        let months = |year: i16, month: i8| i32::from(year) * 12 + i32::from(month);
        months(today.year(), today.month()) - months(self.year, self.month) > STALE
    }
}

/// Reads `2026-11`.
pub(crate) fn month(written: &At<String>, problems: &mut Vec<Problem>) -> Option<Month> {
    let read = written.value.split_once('-').and_then(|(year, month)| {
        Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok().filter(|_| year.len() == 4)
    });
    if read.is_none() {
        problems.push(
            Problem::error(code::MONTH_INVALID, format!("`{}` is no month", written.value))
                .at(&written.span, "")
                .help("Write the month in which its source was last looked at: \"2026-11\"."),
        );
    }
    read.map(|date| Month { year: date.year(), month: date.month() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_stale_after_a_year() {
        let read = |text: &str| month(&At { value: text.to_owned(), span: 0..0 }, &mut vec![]);
        let month = read("2025-11").unwrap();
        assert!(!month.is_stale(jiff::civil::date(2026, 11, 30)));
        assert!(month.is_stale(jiff::civil::date(2026, 12, 1)));
        for wrong in ["2025", "25-11", "2025-13", "2025-00", "", "x-y"] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
