//! Microsoft's Smart Network Data Services: what Outlook.com saw of an address on a day, and which addresses it blocks.
//!
//! Owns: the two tables that it gives to programs: no header, one row for each address and day; columns as collectors in the
//! open read them (undersfx/sndslib, read 2026-11). GREEN: less than 10 % was spam; YELLOW; RED: over 90 %. Only addresses that
//! sent 100 messages on a day are in it, so that absence says nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;

use super::{FeedError, Opinion, Reading, csv, shown};

/// Columns of `data`: address, begin and end of the activity, RCPT and DATA commands, recipients, filter result, complaint rate.
const DATA: usize = 8;
/// Columns of `ipStatus`: first and last address, Yes or No, reason.
const STATUS: usize = 3;

/// A range of addresses, and what they are blocked for; `None`: they are not.
pub type Status = (IpAddr, IpAddr, Option<String>);

/// The data table: of each address the latest day, and of two rows of one day the worse.
///
/// # Errors
/// [`FeedError::Format`] where any row is not one: half a table could hide the half that matters.
pub fn data(text: &str) -> Result<Vec<Reading>, FeedError> {
    let mut latest: BTreeMap<IpAddr, Reading> = BTreeMap::new();
    for (line, fields) in csv::lines(text) {
        let reading =
            row(fields.as_deref().unwrap_or_default()).map_err(|what| FeedError::Format { line, what })?;
        match latest.get(&reading.address) {
            Some(known) if (known.at, known.opinion) >= (reading.at, reading.opinion) => {}
            _ => drop(latest.insert(reading.address, reading)),
        }
    }
    Ok(latest.into_values().collect())
}

fn row(fields: &[String]) -> Result<Reading, &'static str> {
    if fields.len() < DATA {
        return Err("too few columns");
    }
    let field = |place: usize| fields.get(place).map_or("", |field| field.trim());
    let address: IpAddr = field(0).parse().map_err(|_invalid| "no address in the first column")?;
    let at = time(field(2)).ok_or("no time in the third column")?;
    let colour = field(6);
    let opinion = match colour {
        "GREEN" => Opinion::Good,
        "YELLOW" => Opinion::Middling,
        "RED" => Opinion::Bad,
        _ => return Err("neither GREEN, YELLOW nor RED in the seventh column"),
    };
    let complaints = field(7);
    let rate = if complaints.is_empty() { String::new() } else { format!(", complaints {complaints}") };
    Ok(Reading { address, at, opinion, words: shown(&format!("{colour}{rate}")) })
}

/// `11/27/2026 8:00 PM`. It does not say which zone; by UTC it is wrong by hours, of data that are late by days.
fn time(text: &str) -> Option<Timestamp> {
    let mut words = text.split_whitespace();
    let (day, clock, half) = (words.next()?, words.next()?, words.next()?);
    let mut day = day.splitn(3, '/').map(|part| part.parse::<i16>().ok());
    let (month, of_month, year) = (day.next()??, day.next()??, day.next()??);
    let (hour, minute) = clock.split_once(':')?;
    // Some give seconds.
    let minute = minute.split(':').next()?;
    let (hour, minute): (i8, i8) = (hour.parse().ok()?, minute.parse().ok()?);
    let hour = match (half, hour) {
        ("AM", 12) => 0,
        ("AM", 1..=11) | ("PM", 12) => hour,
        ("PM", 1..=11) => hour + 12,
        _ => return None,
    };
    let known = (1900..=9000).contains(&year);
    let (month, of_month) = (i8::try_from(month).ok()?, i8::try_from(of_month).ok()?);
    let day = jiff::civil::Date::new(if known { year } else { return None }, month, of_month).ok()?;
    let time = jiff::civil::Time::new(hour, minute, 0, 0).ok()?;
    let zoned = TimeZone::UTC.to_timestamp(DateTime::from_parts(day, time)).ok()?;
    let earliest =
        TimeZone::UTC.to_timestamp(date(1990, 1, 1).to_datetime(jiff::civil::Time::midnight())).ok()?;
    (zoned >= earliest).then_some(zoned)
}

/// The status table: ranges that it blocks, and those that it does not.
///
/// # Errors
/// As [`data`].
pub fn statuses(text: &str) -> Result<Vec<Status>, FeedError> {
    csv::lines(text)
        .map(|(line, fields)| {
            status(fields.as_deref().unwrap_or_default()).map_err(|what| FeedError::Format { line, what })
        })
        .collect()
}

fn status(fields: &[String]) -> Result<Status, &'static str> {
    if fields.len() < STATUS {
        return Err("too few columns");
    }
    let field = |place: usize| fields.get(place).map_or("", |field| field.trim());
    let parsed =
        |place| field(place).parse::<IpAddr>().map_err(|_invalid| "no address in the first two columns");
    let (first, last) = (parsed(0)?, parsed(1)?);
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err("no range of addresses in the first two columns");
    }
    match field(2) {
        "Yes" => Ok((first, last, Some(shown(field(3))))),
        "No" => Ok((first, last, None)),
        _ => Err("neither Yes nor No in the third column"),
    }
}

/// What both say of some addresses. A block holds when it is read: it has no day of its own.
#[must_use]
pub fn readings(data: Vec<Reading>, statuses: &[Status], of: &[IpAddr], now: Timestamp) -> Vec<Reading> {
    let mut known: BTreeMap<IpAddr, Reading> = data
        .into_iter()
        .filter(|reading| of.contains(&reading.address))
        .map(|reading| (reading.address, reading))
        .collect();
    for address in of {
        let holds = |(first, last, _): &&Status| first <= address && address <= last;
        let blocked = statuses.iter().filter(holds).find_map(|(_, _, reason)| reason.as_ref());
        if let Some(reason) = blocked {
            let words = if reason.is_empty() { "blocked".to_owned() } else { format!("blocked: {reason}") };
            let reading = Reading { address: *address, at: now, opinion: Opinion::Bad, words };
            known.insert(*address, reading);
        }
    }
    known.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: &str = "203.0.113.10,11/27/2026 12:00 AM,11/27/2026 8:30 PM,1200,1100,1190,RED,0.4%,,,3,mail.example.com,\
                       a@example.com,\"spam, they say\"\r\n\
                       203.0.113.11,11/26/2026 12:00 AM,11/26/2026 11:00 PM,500,490,495,GREEN,< 0.1%,,,0,,,\r\n\
                       203.0.113.11,11/27/2026 12:00 AM,11/27/2026 12:05 AM,500,490,495,YELLOW,< 0.1%,,,0,,,\r\n";

    fn address(last: u8) -> IpAddr {
        [203, 0, 113, last].into()
    }

    #[test]
    fn the_latest_day_of_each_address_counts() {
        let read = data(DAY).unwrap();
        let told: Vec<_> = read
            .iter()
            .map(|one| (one.address, one.opinion, one.at.to_string(), one.words.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (address(10), Opinion::Bad, "2026-11-27T20:30:00Z".to_owned(), "RED, complaints 0.4%"),
                (
                    address(11),
                    Opinion::Middling,
                    "2026-11-27T00:05:00Z".to_owned(),
                    "YELLOW, complaints < 0.1%"
                ),
            ]
        );
        assert_eq!(data(""), Ok(vec![]), "nobody sent 100 messages");
    }

    #[test]
    fn whatever_is_no_table_is_an_error_and_not_half_a_table() {
        for bad in [
            "<html><body>Invalid key</body></html>",
            "203.0.113.10,yesterday,today,1,1,1,RED,",
            "203.0.113.10,11/27/2026 1:00 AM,11/27/2026 13:00 PM,1,1,1,RED,",
            "203.0.113.10,11/27/2026 1:00 AM,11/27/2026 2:00 AM,1,1,1,PURPLE,",
            "mail.example.com,11/27/2026 1:00 AM,11/27/2026 2:00 AM,1,1,1,RED,",
            "203.0.113.10,11/27/2026 1:00 AM,2/30/2026 2:00 AM,1,1,1,RED,",
        ] {
            assert!(data(&format!("{DAY}{bad}\r\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_block_is_bad_now_and_its_absence_says_nothing() {
        let text = "203.0.113.0,203.0.113.10,Yes,\"Blocked due to user complaints, or other evidence\"\r\n\
                    203.0.113.11,203.0.113.11,No,\r\n2001:db8::,2001:db8::ff,Yes,\r\n";
        let ranges = statuses(text).unwrap();
        let now: Timestamp = "2026-11-29T09:00:00Z".parse().unwrap();
        let six: IpAddr = "2001:db8::7".parse().unwrap();
        let of = [address(10), address(11), address(12), six];
        let told = readings(data(DAY).unwrap(), &ranges, &of, now);
        let told: Vec<_> = told.iter().map(|one| (one.address, one.opinion, one.at == now)).collect();
        assert_eq!(
            told,
            [
                (address(10), Opinion::Bad, true),
                (address(11), Opinion::Middling, false),
                (six, Opinion::Bad, true)
            ]
        );
        for bad in [
            "203.0.113.1,2001:db8::1,Yes,",
            "203.0.113.9,203.0.113.1,No,",
            "203.0.113.1,203.0.113.1,Perhaps,",
            "x",
        ] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }
}
