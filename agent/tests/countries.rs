//! A database of countries: what is read of it, and that a broken one gives words and never a panic.

#[path = "../../tests/src/mmdb.rs"]
pub mod mmdb;

use std::collections::BTreeSet;

use mailsteer::observe::countries::of_bytes;

fn codes(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

fn sample() -> Vec<u8> {
    mmdb::database(&[
        ("192.0.2.0/25", "DE"),
        ("192.0.2.128/25", "FR"),
        ("198.51.100.7/32", "DE"),
        ("2001:db8:49::/48", "DE"),
        ("2001:db8:33::/48", "FR"),
        ("203.0.113.0/24", "US"),
    ])
}

#[test]
fn networks_of_both_families_are_read_and_others_left() {
    let found = of_bytes(sample(), &codes(&["DE", "FR", "XX"])).unwrap();
    let text = |code: &str| {
        let mut all: Vec<String> = found[code].iter().map(ToString::to_string).collect();
        all.sort();
        all
    };
    assert_eq!(text("DE"), ["192.0.2.0/25", "198.51.100.7/32", "2001:db8:49::/48"]);
    assert_eq!(text("FR"), ["192.0.2.128/25", "2001:db8:33::/48"]);
    assert_eq!(text("XX"), [""; 0]);
    assert_eq!(found.len(), 3);
}

#[test]
fn every_truncated_file_is_refused_in_words() {
    let whole = sample();
    for length in 0..whole.len() {
        if let Err(why) = of_bytes(whole[..length].to_vec(), &codes(&["DE"])) {
            assert!(!why.is_empty() && !why.contains("nobody expected"), "{length}: {why}");
        } else {
            // Of the end of the metadata a reader may miss the last value only where it needs none.
            assert!(length + 40 > whole.len(), "{length} of {} bytes were taken for whole", whole.len());
        }
    }
    assert!(of_bytes(vec![], &codes(&["DE"])).is_err());
}

/// One byte changed anywhere: networks or words.
#[test]
fn no_changed_byte_makes_it_panic_or_hang() {
    let whole = sample();
    for place in 0..whole.len() {
        for value in [0, 0xff, whole[place] ^ 1, whole[place] ^ 0x80] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            if let Err(why) = of_bytes(bytes, &codes(&["DE"])) {
                assert!(!why.contains("nobody expected"), "{place} = {value}: {why}");
            }
        }
    }
}
