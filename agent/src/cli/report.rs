//! `mailsteer report`: what each address did over some days, as a table.
//!
//! Owns: the text. Must not: ask, or count.

use std::fmt::Write as _;

use super::render::{table, wrapped};
use crate::api::view::{Report, ReportRow};

/// As people read it.
pub(super) fn shown(report: &Report) -> String {
    let Report { from, to, kept_since, rows, notes } = report;
    let mut out = format!("{from} to {to} (UTC)\n\n");
    let head = [
        "SOURCE",
        "PUBLIC",
        "TRIED",
        "OK",
        "ACCEPTED",
        "DEFERRED",
        "BLOCKED",
        "BOUNCED",
        "COMPLAINTS",
        "FLIPS",
        "LISTED",
    ];
    let mut cells: Vec<Vec<String>> = rows.iter().map(row).collect();
    if rows.len() > 1 {
        cells.push(sum(rows));
    }
    out.push_str(&table(&head, &[2, 3, 4, 5, 6, 7, 8, 9], &cells));
    match kept_since {
        Some(since) if since > from => {
            let _ = writeln!(out, "\nNothing is known of before {since}.");
        }
        None => out.push_str("\nNothing was counted yet.\n"),
        Some(_) => {}
    }
    let said = |row: &ReportRow| {
        [row.accepted, row.deferred, row.blocked, row.bounced].iter().any(|count| *count > 0)
    };
    if !rows.iter().any(said) {
        let words =
            "No reply was reported: `mailsteer report-outcome --log MTA` reads them in the MTA's log.";
        out.push_str(&format!("\n{}", wrapped("", words)));
    }
    for note in notes {
        out.push_str(&wrapped("note: ", note));
    }
    out
}

fn row(row: &ReportRow) -> Vec<String> {
    let name = if row.source.is_empty() { "-" } else { &row.source };
    let mut cells = vec![name.to_owned(), row.public.to_string()];
    cells.extend(counts(row).iter().map(u64::to_string));
    cells.push(listed(row.listed, row.listed_seconds));
    cells
}

const fn counts(row: &ReportRow) -> [u64; 8] {
    [
        row.attempts,
        row.established,
        row.accepted,
        row.deferred,
        row.blocked,
        row.bounced,
        row.complaints,
        row.flips,
    ]
}

fn sum(rows: &[ReportRow]) -> Vec<String> {
    let mut sums = [0_u64; 8];
    for row in rows {
        sums.iter_mut().zip(counts(row)).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }
    let mut cells = vec!["all".to_owned(), String::new()];
    cells.extend(sums.iter().map(u64::to_string));
    cells
}

/// `2 times, 5.0 h`: one that was listed before the first day is listed 0 times.
fn listed(times: u64, seconds: u64) -> String {
    match (times, seconds) {
        (0, 0) => "-".to_owned(),
        (times, seconds) => {
            let tenths = seconds.saturating_add(180) / 360;
            format!("{times} x, {}.{} h", tenths / 10, tenths % 10)
        }
    }
}
