//! What became of mail: the fuse, and replies that are about the address.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::{HostView, load};
use mailsteer_core::decide::{Command, EVERYWHERE, Event, EventKind, Observation, State, World, desired};
use mailsteer_core::model::{
    Address, AddressState, Delivered, Family, Host, Link, RefuseReason, Route, SlotTarget,
};
use mailsteer_core::signal::reply::{Class, DEFAULT, Reply, ReplyTable};
use proptest::prelude::*;

const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11", "198.51.100.11", "203.0.113.11", "203.0.112.11"]
[stream.news]
uid = 1001
pool = "main"
[stream.mail]
uid = 1002
pool = "main"
"#;

const GOOD: &str = "250 2.0.0 ok";
const UNKNOWN_USER: &str = "550 5.1.1 user unknown";
const BLOCKED: &str = "550 5.7.1 Unfortunately, messages from [192.0.2.11] weren't sent. Part of their network is on our block list (S3150).";
const LISTED: &str = "554 5.7.1 Service unavailable; Client host [192.0.2.11] blocked using zen.spamhaus.org";
const SLOW: &str = "421 4.7.0 [TSS04] Messages from 192.0.2.11 temporarily deferred due to unexpected volume or user complaints";
const CONTENT: &str = "554 5.7.1 message classified as spam";

static TABLE: LazyLock<ReplyTable> = LazyLock::new(|| ReplyTable::load("default", DEFAULT).table.unwrap());

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn source(n: usize) -> IpAddr {
    ["192.0.2.11", "198.51.100.11", "203.0.113.11", "203.0.112.11"][n].parse().unwrap()
}

struct Play {
    world: World,
    second: i64,
    events: Vec<Event>,
}

impl Play {
    fn new(more: &str) -> Self {
        let config = load("test", &format!("{CONFIG}{more}"), &HostView::default()).config.unwrap();
        let mut world = World::new(config, at(0));
        let link = Link { index: 2, name: "eth0".into(), up: true, loopback: false, point_to_point: false };
        let address =
            |address| Address { ifindex: 2, address, prefix_len: 32, state: AddressState::Ready, ours: true };
        let route = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("192.0.2.1".parse().unwrap()),
            ifindex: 2,
            metric: 0,
        };
        let addresses = (0..4).map(|n| address(source(n))).collect();
        world.apply(Observation::Host(Host { links: vec![link], addresses, routes: vec![route] }), at(0));
        Self { world, second: 0, events: vec![] }
    }

    /// One message of a stream from source 0, a second later; to another receiver each time.
    fn send(&mut self, stream: &str, provider: &str, reply: &str) {
        self.second += 1;
        let read = Reply::read(reply).unwrap();
        let one = Delivered {
            at: at(self.second),
            stream: stream.to_owned(),
            source: source(0),
            provider: provider.to_owned(),
            destination: IpAddr::from([20, 0, 0, u8::try_from(self.second % 200).unwrap()]),
            judgement: TABLE.judge(&read, Some(provider)),
            permanent: read.code >= 500,
            complaint: false,
            reply: reply.to_owned(),
        };
        let now = at(self.second);
        self.events.extend(self.world.apply(Observation::Delivered(vec![one]), now));
    }

    /// A recipient complains of what a stream sent from source 0.
    fn complain(&mut self, stream: &str) {
        self.second += 1;
        let one = Delivered {
            at: at(self.second),
            stream: stream.to_owned(),
            source: source(0),
            provider: "other".to_owned(),
            destination: IpAddr::from([20, 0, 0, 1]),
            judgement: TABLE.judge(&Reply::read(GOOD).unwrap(), None),
            permanent: false,
            complaint: true,
            reply: String::new(),
        };
        self.events.extend(self.world.apply(Observation::Delivered(vec![one]), at(self.second)));
    }

    /// So many, with this many of them bad, the bad ones evenly spread.
    fn send_many(&mut self, stream: &str, all: usize, bad: usize, reply: &str) {
        for n in 0..all {
            let is_bad = (n + 1) * bad / all > n * bad / all;
            self.send(stream, "other", if is_bad { reply } else { GOOD });
        }
    }

    /// So many refusals of long ago, as a log of another day has them.
    fn send_old(&mut self, stream: &str, count: usize, hours: i64) {
        let now = at(self.second);
        for n in 0..count {
            let read = Reply::read(BLOCKED).unwrap();
            let one = Delivered {
                at: now - SignedDuration::from_hours(hours),
                stream: stream.to_owned(),
                source: source(0),
                provider: "other".to_owned(),
                destination: IpAddr::from([20, 0, 0, u8::try_from(n % 200).unwrap()]),
                judgement: TABLE.judge(&read, None),
                permanent: true,
                complaint: false,
                reply: BLOCKED.to_owned(),
            };
            self.events.extend(self.world.apply(Observation::Delivered(vec![one]), now));
        }
    }

    /// How the slots of a stream are held: by source, and by refusal.
    fn slots(&self, stream: &str) -> BTreeMap<String, usize> {
        let decision = desired(&self.world, at(self.second));
        let lane = decision.desired.lanes.iter().find(|lane| lane.stream == stream).unwrap();
        let mut held = BTreeMap::new();
        for slot in &lane.slots[&Family::V4].0 {
            let word = match slot {
                SlotTarget::Source(id, _) => {
                    let (_, address, _) = self.world.ids().sources().find(|(of, ..)| of == id).unwrap();
                    address.to_string()
                }
                SlotTarget::Refuse(RefuseReason::Fuse) => "fuse".to_owned(),
                other => format!("{other:?}"),
            };
            *held.entry(word).or_insert(0) += 1;
        }
        held
    }

    fn kinds(&self, name: &str) -> usize {
        self.events.iter().filter(|event| event.kind.name() == name).count()
    }

    fn state(&self, provider: &str) -> &'static str {
        let found = self.world.verdicts().find(|(local, there, _)| *local == source(0) && *there == provider);
        found.map_or("healthy", |(_, _, verdict)| verdict.state.name())
    }
}

#[test]
fn five_per_cent_at_200_attempts_blows_and_the_siblings_get_none_of_it() {
    let mut play = Play::new("");
    let before = play.slots("news");
    play.send_many("news", 199, 9, UNKNOWN_USER);
    assert_eq!((play.kinds("fuse-blown"), play.slots("news")), (0, before.clone()));
    play.send("news", "other", UNKNOWN_USER);
    assert_eq!(play.kinds("fuse-blown"), 1, "{:?}", play.events);
    let after = play.slots("news");
    assert_eq!(after.get("fuse"), before.get("192.0.2.11"), "all that was its own is refused");
    for sibling in 1..4 {
        let sibling = source(sibling).to_string();
        assert_eq!(after.get(&sibling), before.get(&sibling), "and not moved");
    }
    assert_eq!(play.slots("mail").get("192.0.2.11"), Some(&15), "another stream is left alone");
}

#[test]
fn less_than_five_per_cent_does_not_blow_and_a_few_attempts_are_only_said() {
    let mut play = Play::new("");
    play.send_many("news", 1_000, 49, UNKNOWN_USER);
    assert_eq!((play.kinds("fuse-blown"), play.kinds("fuse-hot")), (0, 0), "{:?}", play.events);
    let mut few = Play::new("");
    few.send_many("news", 20, 20, UNKNOWN_USER);
    assert_eq!((few.kinds("fuse-blown"), few.kinds("fuse-hot")), (0, 1), "{:?}", few.events);
    assert!(few.slots("news").contains_key("192.0.2.11"));
    let mut asked = Play::new("[fuse]\nattempts = 20\n");
    asked.send_many("news", 20, 1, UNKNOWN_USER);
    assert_eq!(asked.kinds("fuse-blown"), 1);
}

#[test]
fn what_is_out_of_the_window_does_not_count() {
    let mut play = Play::new("[fuse]\nwindow_hours = 1\n");
    play.send_many("news", 150, 9, UNKNOWN_USER);
    play.second += 3_700;
    play.send_many("news", 199, 9, UNKNOWN_USER);
    assert_eq!(play.kinds("fuse-blown"), 0);
}

#[test]
fn what_fuses_have_counted_outlives_the_agent_and_nothing_of_it_lies_ahead() {
    let mut play = Play::new("");
    play.send_many("news", 150, 9, UNKNOWN_USER);
    let mut next = Play::new("");
    next.second = 600;
    next.world.restore_fuse_windows(play.world.fuse_windows().clone());
    next.send_many("news", 49, 0, UNKNOWN_USER);
    assert_eq!(next.kinds("fuse-blown"), 0);
    next.send("news", "other", UNKNOWN_USER);
    assert_eq!(next.kinds("fuse-blown"), 1, "ten of 200: {:?}", next.events);
    // Kept by a clock that was a year ahead.
    let mut ahead = Play::new("");
    ahead.second = 31_536_000;
    ahead.send_many("news", 150, 9, UNKNOWN_USER);
    let mut now = Play::new("");
    now.world.restore_fuse_windows(ahead.world.fuse_windows().clone());
    now.send_many("news", 50, 1, UNKNOWN_USER);
    assert_eq!(now.kinds("fuse-blown"), 0, "{:?}", now.events);
}

#[test]
fn a_blown_fuse_outlives_the_agent_and_ends_with_resume() {
    let mut play = Play::new("");
    play.send_many("news", 200, 20, UNKNOWN_USER);
    let kept = serde_json::to_string(&play.world.beliefs()).unwrap();
    let mut next = Play::new("");
    next.world.restore_beliefs(serde_json::from_str(&kept).unwrap());
    assert_eq!(next.slots("news").get("fuse"), Some(&15));
    let resume = Command::Resume { source: "main-1".into(), reason: "list cleaned".into() };
    next.world.command(resume.clone(), at(10)).unwrap();
    assert_eq!(next.slots("news").get("fuse"), None);
    assert!(next.world.command(resume, at(11)).is_err(), "there is nothing left to resume");
    // Measured anew.
    next.send_many("news", 199, 9, UNKNOWN_USER);
    assert_eq!(next.kinds("fuse-blown"), 0);
}

#[test]
fn complaints_and_blocks_have_shares_of_their_own() {
    let mut play = Play::new("");
    play.send_many("news", 400, 0, GOOD);
    play.complain("news");
    assert_eq!(play.kinds("fuse-blown"), 0, "one of 400 is less than 0.3 %");
    play.complain("news");
    assert_eq!(play.kinds("fuse-blown"), 1, "{:?}", play.events);
    let mut blocked = Play::new("");
    blocked.send_many("news", 300, 29, BLOCKED);
    assert_eq!(blocked.kinds("fuse-blown"), 0, "blocks are no bounces");
    blocked.send_many("news", 100, 20, BLOCKED);
    assert_eq!(blocked.kinds("fuse-blown"), 1, "{:?}", blocked.events);
}

#[test]
fn a_log_of_another_day_says_nothing_of_today() {
    let mut play = Play::new("");
    play.send_old("mail", 400, 25);
    assert_eq!((play.kinds("verdict"), play.kinds("fuse-blown")), (0, 0), "{:?}", play.events);
    play.send_old("mail", 10, 1);
    assert_eq!(play.kinds("verdict"), 0, "an hour ago is no evidence now");
}

#[test]
fn three_replies_about_the_address_isolate_it_there_and_nowhere_else() {
    let mut play = Play::new("");
    play.send("mail", "microsoft", BLOCKED);
    play.send("mail", "microsoft", GOOD);
    play.send("mail", "microsoft", BLOCKED);
    assert_eq!(play.state("microsoft"), "healthy");
    play.send("mail", "microsoft", BLOCKED);
    assert_eq!((play.state("microsoft"), play.state(EVERYWHERE)), ("isolated", "healthy"));
    let words = play.events.iter().any(|event| event.kind.to_string().contains("receivers refuse it"));
    assert!(words, "{:?}", play.events);
}

#[test]
fn a_few_receivers_among_many_that_take_its_mail_isolate_nobody() {
    let mut play = Play::new("");
    for n in 0..100 {
        play.send("mail", "other", if n % 5 == 0 { BLOCKED } else { GOOD });
    }
    assert_eq!(play.state("other"), "healthy", "one in five refuses it");
}

#[test]
fn three_receivers_that_name_a_list_which_many_use_isolate_it_everywhere() {
    let mut play = Play::new("");
    for provider in ["a", "b", "c"] {
        play.send("mail", provider, GOOD);
        play.send("mail", provider, LISTED);
    }
    assert_eq!(play.state(EVERYWHERE), "isolated");
}

#[test]
fn asked_to_slow_down_it_keeps_a_tenth_and_asked_again_nothing() {
    let mut play = Play::new("");
    for _ in 0..3 {
        play.send("mail", "other", SLOW);
    }
    let slots = play.slots("mail");
    assert_eq!((play.state("other"), slots.get("192.0.2.11")), ("probation", Some(&2)), "{slots:?}");
    play.second += 120;
    for _ in 0..3 {
        play.send("mail", "other", SLOW);
    }
    assert_eq!((play.state("other"), play.slots("mail").get("192.0.2.11")), ("isolated", None));
    // An hour and more later it is on its way back by itself.
    play.second += 7_200;
    play.events.extend(play.world.apply(Observation::Tick, at(play.second)));
    assert_eq!(play.state("other"), "probation");
}

proptest! {
    /// Invariant 5: whatever is said of content, domain, authentication or recipient, and whatever nobody understands, never
    /// makes a verdict.
    #[test]
    fn what_is_not_about_the_address_moves_nothing(replies in prop::collection::vec(0_usize..5, 1..150)) {
        let all = [GOOD, UNKNOWN_USER, CONTENT, "550 5.7.26 unauthenticated", "451 4.7.1 try again later"];
        let mut play = Play::new("[fuse]\nattempts = 1000\n");
        for reply in replies {
            play.send("mail", "google", all[reply]);
        }
        prop_assert_eq!(play.kinds("verdict"), 0);
        prop_assert_eq!(play.state("google"), "healthy");
    }

    /// However replies come, verdicts come of no fewer than three, and memory stays bounded by what is kept of ten minutes.
    #[test]
    fn no_two_replies_make_a_verdict(first in 0_usize..4, second in 0_usize..4, apart in 0_i64..1_000) {
        let all = [BLOCKED, LISTED, SLOW, CONTENT];
        let mut play = Play::new("");
        play.send("mail", "other", all[first]);
        play.second += apart;
        play.send("mail", "other", all[second]);
        prop_assert_eq!(play.kinds("verdict"), 0);
    }
}

#[test]
fn an_isolation_by_replies_says_which_class_and_rule() {
    let mut play = Play::new("");
    for _ in 0..3 {
        play.send("mail", "other", BLOCKED);
    }
    let rule = play.events.iter().find_map(|event| match &event.kind {
        EventKind::Verdict { to: State::Isolated { cause, until }, .. } => Some((cause.clone(), *until)),
        _ => None,
    });
    let (cause, until) = rule.unwrap();
    assert!(until >= at(play.second) + SignedDuration::from_mins(30));
    assert!(format!("{cause:?}").contains("microsoft-block-list"), "{cause:?}");
    assert_eq!(TABLE.judge(&Reply::read(BLOCKED).unwrap(), None).class, Class::IsolateHere);
}
