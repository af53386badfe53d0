//! What stands before an MTA's own words: time, host, program and process.
//!
//! Owns: RFC 3164 as syslog daemons write it, the ISO time that rsyslog and journald write in its place, a priority before either,
//! and RFC 5424. Must not: know an MTA.

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

/// `[<PRIORITY>]TIME HOST PROGRAM[PID]: MESSAGE`, or RFC 5424's `<PRIORITY>1 TIME HOST PROGRAM PID MSGID DATA MESSAGE`.
pub(super) fn read<'t>(line: &'t str, clock: &Clock<'_>) -> Option<Headed<'t>> {
    let Some((priority, rest)) = line.strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
        return bsd_or_iso(line, clock);
    };
    if priority.is_empty() || priority.len() > 3 || !priority.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    rest.strip_prefix("1 ").map_or_else(|| bsd_or_iso(rest, clock), rfc5424)
}

/// Section 6 of RFC 5424.
fn rfc5424(text: &str) -> Option<Headed<'_>> {
    let mut words = text.splitn(6, ' ');
    let (time, _host, program) = (words.next()?, words.next()?, words.next()?);
    let (pid, _kind, rest) = (words.next()?, words.next()?, words.next()?);
    let message = after_data(rest)?.strip_prefix(' ')?;
    Some(Headed {
        at: time.parse().ok(),
        program,
        pid: pid.parse().ok(),
        message: message.strip_prefix('\u{feff}').unwrap_or(message),
    })
}

/// What follows structured data: `-`, or `[...]` once or more, in which `\]` ends nothing.
fn after_data(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('-') {
        return Some(rest);
    }
    let (mut rest, mut any) = (text, false);
    while let Some(inside) = rest.strip_prefix('[') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == ']' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        (rest, any) = (&inside[end + 1..], true);
    }
    any.then_some(rest)
}

/// `TIME HOST PROGRAM[PID]: MESSAGE`.
fn bsd_or_iso<'t>(line: &'t str, clock: &Clock<'_>) -> Option<Headed<'t>> {
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
