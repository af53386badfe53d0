//! What stands before an MTA's own words: time, host, program and process.
//!
//! Owns: RFC 3164 as syslog daemons write it, and the ISO time that rsyslog and journald write in its place. Must not: know
//! an MTA.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};

use super::Clock;

/// The head of a line, and what follows.
pub(super) struct Headed<'t> {
    pub(super) at: Option<Timestamp>,
    pub(super) program: &'t str,
    pub(super) pid: Option<u32>,
    pub(super) message: &'t str,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `TIME HOST PROGRAM[PID]: MESSAGE`.
pub(super) fn read<'t>(line: &'t str, clock: &Clock<'_>) -> Option<Headed<'t>> {
    let (at, rest) = match line.as_bytes().first()? {
        b'0'..=b'9' => {
            let (time, rest) = line.split_once(' ')?;
            (time.parse().ok(), rest)
        }
        _ => {
            let (time, rest) = line.split_at_checked(15)?;
            (Some(bsd(time, clock)?), rest.strip_prefix(' ')?)
        }
    };
    let (_host, rest) = rest.split_once(' ')?;
    let (tag, message) = rest.split_once(": ")?;
    let (program, pid) = match tag.strip_suffix(']').and_then(|tag| tag.rsplit_once('[')) {
        Some((program, pid)) => (program, Some(pid.parse().ok()?)),
        None => (tag, None),
    };
    Some(Headed { at, program, pid, message })
}

/// `Nov  5 11:59:58`, in the year in which it is nearest to now.
fn bsd(text: &str, clock: &Clock<'_>) -> Option<Timestamp> {
    let month = MONTHS.iter().position(|month| text.get(..3) == Some(month))?;
    let number = |from: usize, to: usize| text.get(from..to)?.trim_start().parse::<i8>().ok();
    let time = Time::new(number(7, 9)?, number(10, 12)?, number(13, 15)?, 0).ok()?;
    let now = clock.now.to_zoned_datetime(clock.zone.clone());
    let in_year = |year: i16| {
        let date = Date::new(year, i8::try_from(month + 1).ok()?, number(4, 6)?).ok()?;
        let zoned = DateTime::from_parts(date, time).to_zoned_datetime(clock.zone.clone()).ok()?;
        Some(zoned.timestamp())
    };
    let years = [now.year() - 1, now.year(), now.year() + 1];
    years.into_iter().filter_map(in_year).min_by_key(|at| at.duration_since(clock.now).abs())
}
