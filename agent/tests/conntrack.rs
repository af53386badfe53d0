//! Healing of conntrack entries in a namespace of its own. Needs root and the `conntrack` program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod common;

use std::collections::BTreeMap;

use common::netns::{Pair, run};
use mailsteer::conntrack::{HealReport, heal, usage};
use mailsteer_core::model::SourceId;

/// Makes an entry: to whom, to which port, leaving from which address, with which mark.
fn insert(number: u16, to: &str, port: u16, leaves_from: &str, mark: u32) {
    let v6 = to.contains(':');
    let from = if v6 { "2001:db8::1" } else { "198.51.100.1" };
    let (near, far, mark) = ((40_000 + number).to_string(), port.to_string(), mark.to_string());
    run(&[
        "conntrack",
        "-I",
        "-p",
        "tcp",
        "-s",
        from,
        "-d",
        to,
        "--sport",
        &near,
        "--dport",
        &far,
        "-r",
        to,
        "-q",
        leaves_from,
        "--reply-port-src",
        &far,
        "--reply-port-dst",
        &near,
        "--state",
        "ESTABLISHED",
        "-u",
        "SEEN_REPLY,ASSURED",
        "-t",
        "300",
        "-m",
        &mark,
    ]);
}

fn left() -> Vec<u16> {
    let mut ports = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for line in run(&["conntrack", "-L", "-f", family, "-p", "tcp"]).lines() {
            let near = line.split_whitespace().find_map(|word| word.strip_prefix("sport=")).unwrap();
            ports.push(near.parse::<u16>().unwrap() - 40_000);
        }
    }
    ports.sort_unstable();
    ports
}

#[test]
fn only_what_is_wrong_is_deleted() {
    let _pair = Pair::new();
    insert(1, "192.0.2.1", 25, "198.51.100.1", 0); // unmarked: goes
    insert(2, "192.0.2.1", 25, "198.51.100.10", 0x4d00_1001); // right
    insert(3, "192.0.2.1", 25, "198.51.100.1", 0x4d00_1001); // not its mark's address: goes
    insert(4, "192.0.2.1", 25, "198.51.100.1", 0x4d00_1000); // stamped
    insert(5, "192.0.2.1", 80, "198.51.100.1", 0); // another port
    insert(6, "10.0.0.9", 25, "198.51.100.1", 0); // excluded
    insert(7, "127.0.0.2", 25, "198.51.100.1", 0); // local
    insert(8, "2001:db8:2::1", 25, "2001:db8::1", 0); // unmarked: goes
    insert(9, "2001:db8:2::1", 25, "2001:db8::10", 0x4d00_1002); // right
    insert(10, "192.0.2.1", 465, "198.51.100.1", 0); // the second steered port: goes
    let sources = BTreeMap::from([
        (SourceId(1), "198.51.100.10".parse().unwrap()),
        (SourceId(2), "2001:db8::10".parse().unwrap()),
    ]);
    let exclude = ["10.0.0.0/8".parse().unwrap()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(heal(&[25, 465], &exclude, &sources)).unwrap();
    assert_eq!(report, HealReport { examined: 9, deleted: 4 });
    assert_eq!(left(), [2, 4, 5, 6, 7, 9]);
    let again = runtime.block_on(heal(&[25, 465], &exclude, &sources)).unwrap();
    assert_eq!(again, HealReport { examined: 5, deleted: 0 });
    let (count, max) = usage().unwrap();
    assert!(count >= 6 && max > count, "{count} of {max}");
}
