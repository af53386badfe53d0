//! What feeds answer: tables of SNDS and JSON, or any other bytes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::signal::feeds::{self, FeedError, JsonRule, Reading};

/// A word that no error may repeat: keys come back in pages that say that they are wrong.
const KEY: &str = "5eCret-kEy";

/// Reads it as each kind of feed.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let of: Vec<IpAddr> = [[203, 0, 113, 10], [203, 0, 113, 11]].map(IpAddr::from).to_vec();
    let (rows, ranges) = (feeds::data(&text), feeds::statuses(&text));
    if let Ok(rows) = &rows {
        sound(rows, None);
    }
    let told = feeds::readings(
        rows.clone().unwrap_or_default(),
        ranges.as_deref().unwrap_or_default(),
        &of,
        Timestamp::UNIX_EPOCH,
    );
    sound(&told, Some(&of));
    for (good, bad) in [(80.0, 50.0), (0.001, 0.003)] {
        for pointer in ["/score", "/data/0/score", "", "/a~1b"] {
            let rule = JsonRule { pointer: pointer.to_owned(), good, bad };
            match rule.read(&text, of[0], Timestamp::UNIX_EPOCH) {
                Ok(reading) => {
                    assert!(reading.words.parse::<f64>().is_ok_and(f64::is_finite), "{reading:?}");
                }
                Err(error) => silent(&text, &error),
            }
        }
    }
    let failed = [rows.err(), ranges.err()];
    failed.iter().flatten().for_each(|error| silent(&text, error));
}

fn sound(readings: &[Reading], of: Option<&[IpAddr]>) {
    let addresses: BTreeSet<IpAddr> = readings.iter().map(|reading| reading.address).collect();
    assert_eq!(addresses.len(), readings.len(), "{readings:?}");
    for reading in readings {
        assert!(of.is_none_or(|of| of.contains(&reading.address)), "{reading:?}");
        assert!(!reading.words.contains(char::is_control), "{reading:?}");
        assert!(!reading.words.is_empty() && reading.words.chars().count() <= 220, "{reading:?}");
    }
}

fn silent(text: &str, error: &FeedError) {
    assert!(!text.contains(KEY) || !error.to_string().contains(KEY), "{error}");
}
