use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn receiver(n: u8) -> IpAddr {
    IpAddr::from([20, 0, 0, n])
}

fn stood(second: i64, pid: u32, port: u16, to: u8, source: u8) -> Stood {
    Stood {
        at: at(second),
        pid: Some(pid),
        cookie: Some(port.into()),
        local_port: Some(port),
        destination: receiver(to),
        stream: "mail".into(),
        source: IpAddr::from([192, 0, 2, source]),
        provider: "other".into(),
    }
}

fn sought(second: i64, pid: Option<u32>, port: Option<u16>, to: u8) -> Sought {
    Sought {
        at: at(second),
        within: SignedDuration::ZERO,
        pid,
        handed: false,
        connecting: None,
        local_port: port,
        destination: receiver(to),
    }
}

fn source(found: Found<'_>) -> Option<u8> {
    match found {
        Found::One(Stood { source: IpAddr::V4(address), .. }) => Some(address.octets()[3]),
        _ => None,
    }
}

#[test]
fn a_port_or_a_process_tells_which() {
    let mut all = Connections::default();
    all.stood(stood(0, 7, 4001, 1, 11));
    all.stood(stood(1, 8, 4002, 1, 12));
    all.stood(stood(2, 7, 4003, 2, 13));
    all.stood(stood(13, 7, 4004, 1, 14));
    assert_eq!(source(all.find(&sought(15, None, Some(4002), 1))), Some(12));
    assert_eq!(source(all.find(&sought(15, Some(8), None, 1))), Some(12));
    assert_eq!(source(all.find(&sought(15, Some(7), None, 1))), Some(14), "its last one");
    assert_eq!(source(all.find(&sought(2, Some(7), None, 1))), Some(11), "as it was then");
    assert_eq!(all.find(&sought(5, None, Some(4009), 1)), Found::None);
}

#[test]
fn what_could_be_several_is_not_guessed() {
    let mut all = Connections::default();
    all.stood(stood(0, 7, 4001, 1, 11));
    all.stood(stood(1, 8, 4002, 1, 12));
    all.stood(stood(1, 8, 4003, 2, 13));
    all.stood(stood(2, 9, 4004, 2, 13));
    assert_eq!(all.find(&sought(5, Some(99), None, 1)), Found::Ambiguous);
    assert_eq!(source(all.find(&sought(5, Some(99), None, 2))), Some(13), "all of them left alike");
    assert_eq!(all.find(&sought(5, None, None, 3)), Found::None);
    assert_eq!(all.find(&sought(2_000, Some(7), None, 1)), Found::None, "too long ago");
}

/// A log of whole seconds leaves open which of a second's connections it was.
#[test]
fn within_the_time_that_the_log_leaves_open_nothing_is_guessed() {
    let mut all = Connections::default();
    all.stood(stood(0, 7, 4001, 1, 11));
    all.stood(Stood { at: at(5) + SignedDuration::from_millis(500), ..stood(5, 7, 4002, 1, 12) });
    let whole =
        |second| Sought { within: SignedDuration::from_millis(999), ..sought(second, Some(7), None, 1) };
    assert_eq!(all.find(&whole(5)), Found::Ambiguous);
    assert_eq!(source(all.find(&whole(4))), Some(11));
    assert_eq!(source(all.find(&whole(6))), Some(12));
    assert_eq!(source(all.find(&sought(5, Some(7), None, 1))), Some(11), "its time is exact");
}

#[test]
fn memory_is_bounded_and_the_oldest_go_first() {
    let mut all = Connections::default();
    for n in 0..u32::try_from(REMEMBERED).unwrap() + 500 {
        all.stood(stood(i64::from(n / 1000), n, 4001, 1, 11));
    }
    assert!(all.len() <= REMEMBERED);
    all.stood(stood(100_000, 1, 4001, 2, 11));
    assert_eq!(all.len(), 1);
}

fn turn(second: i64, pid: u32, port: u16, to: u8) -> Turn {
    Turn { at: at(second), pid, cookie: port.into(), destination: receiver(to) }
}

fn handed(second: i64, pid: u32) -> Sought {
    Sought { handed: true, ..sought(second, Some(pid), None, 1) }
}

/// Postfix's cache: two processes open connections, and others use them again.
#[test]
fn a_connection_that_is_handed_on_is_its_last_writers() {
    let mut all = Connections::default();
    all.stood(stood(0, 7, 4001, 1, 11));
    all.stood(stood(1, 8, 4002, 1, 12));
    assert_eq!(all.find(&handed(5, 7)), Found::Ambiguous, "who writes is not told");
    all.begin(at(0), true);
    all.stood(stood(0, 7, 4001, 1, 11));
    all.stood(stood(1, 8, 4002, 1, 12));
    all.turned(turn(4, 9, 4001, 1));
    all.turned(turn(6, 7, 4002, 1));
    all.turned(turn(8, 7, 4001, 1));
    assert_eq!(source(all.find(&handed(5, 9))), Some(11));
    assert_eq!(source(all.find(&handed(6, 7))), Some(12));
    assert_eq!(source(all.find(&handed(9, 7))), Some(11), "its own again");
    assert_eq!(all.find(&handed(9, 9)), Found::Ambiguous, "it has none any more");
    assert_eq!(source(all.find(&handed(3, 8))), Some(12));
    assert_eq!(all.find(&handed(7, 8)), Found::Ambiguous, "its only one is another's");
    all.turned(turn(10, 9, 4999, 1));
    assert_eq!(all.find(&handed(11, 9)), Found::None, "nobody knows what that was");
    all.has_many(7);
    assert_eq!(all.find(&handed(9, 7)), Found::Ambiguous);
}

/// OpenSMTPD: one process, and the log says when each session began.
#[test]
fn a_session_is_the_connection_that_was_begun_just_after_it_said_so() {
    let mut all = Connections::default();
    let later = |second, micros, port, source| Stood {
        at: at(second) + SignedDuration::from_micros(micros),
        ..stood(second, 7, port, 1, source)
    };
    all.stood(later(0, 5_300, 4001, 11));
    all.stood(later(0, 9_300, 4002, 12));
    all.stood(later(0, 9_700, 4003, 13));
    let session = |micros, within| Sought {
        connecting: Some((at(0) + SignedDuration::from_micros(micros), SignedDuration::from_millis(within))),
        ..sought(60, Some(7), None, 1)
    };
    assert_eq!(source(all.find(&session(5_200, 0))), Some(11));
    assert_eq!(all.find(&session(9_200, 0)), Found::Ambiguous, "two at the same time");
    assert_eq!(all.find(&session(0, 999)), Found::Ambiguous, "a log of whole seconds");
    assert_eq!(all.find(&session(500_000, 0)), Found::None);
    assert_eq!(all.find(&Sought { pid: Some(8), ..session(5_200, 0) }), Found::None, "another's");
}

#[test]
fn where_not_all_is_known_only_a_port_tells() {
    let mut all = Connections::default();
    all.begin(at(10), true);
    all.stood(stood(9, 7, 4001, 1, 11));
    assert_eq!(all.find(&sought(9, Some(7), None, 1)), Found::None);
    assert_eq!(source(all.find(&sought(11, Some(7), None, 1))), Some(11));
    all.lost(at(20));
    assert_eq!(all.find(&sought(21, Some(7), None, 1)), Found::None);
    assert_eq!(source(all.find(&sought(21, None, Some(4001), 1))), Some(11));
    all.stood(stood(1_000, 7, 4002, 1, 12));
    assert_eq!(source(all.find(&sought(1_000, Some(7), None, 1))), Some(12), "all of before is over");
}
