//! What goes over the wire comes back as it was: every struct of the view, with any content.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::config::Tier;
use mailsteer_core::model::Family;
use proptest::prelude::*;

use super::convert::Wire;
use super::v1;
use super::view::*;

/// A source of numbers (splitmix64): enough to fill a struct from one seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Something with content that depends on nothing but the numbers.
trait Filled: Sized {
    fn filled(from: &mut Numbers) -> Self;
}

impl Filled for u64 {
    fn filled(from: &mut Numbers) -> Self {
        // Both ends, and what lies between.
        match from.next() % 4 {
            0 => 0,
            1 => Self::MAX,
            _ => from.next(),
        }
    }
}

impl Filled for u32 {
    fn filled(from: &mut Numbers) -> Self {
        (u64::filled(from) >> 32) as Self
    }
}

impl Filled for u16 {
    fn filled(from: &mut Numbers) -> Self {
        (u64::filled(from) >> 48) as Self
    }
}

impl Filled for bool {
    fn filled(from: &mut Numbers) -> Self {
        from.next().is_multiple_of(2)
    }
}

impl Filled for f64 {
    fn filled(from: &mut Numbers) -> Self {
        from.next() as Self / 7.0
    }
}

impl Filled for String {
    fn filled(from: &mut Numbers) -> Self {
        ["", "main-1", "a \"b\"\n", "Ünïcødé €", "\u{0}"][(from.next() % 5) as usize].to_owned()
    }
}

impl Filled for IpAddr {
    fn filled(from: &mut Numbers) -> Self {
        if bool::filled(from) {
            return std::net::Ipv4Addr::from(u32::filled(from)).into();
        }
        std::net::Ipv6Addr::from((u128::from(u64::filled(from)) << 64) | u128::from(u64::filled(from))).into()
    }
}

impl Filled for Timestamp {
    fn filled(from: &mut Numbers) -> Self {
        let range = Self::MAX.as_nanosecond() - Self::MIN.as_nanosecond();
        let nanos = Self::MIN.as_nanosecond() + ((i128::from(from.next()) << 64 >> 1) % range).abs();
        Self::from_nanosecond(nanos).unwrap()
    }
}

impl Filled for serde_json::Value {
    fn filled(from: &mut Numbers) -> Self {
        serde_json::json!({ String::filled(from): [u64::filled(from), String::filled(from), null_or(from)] })
    }
}

fn null_or(from: &mut Numbers) -> Option<bool> {
    Option::filled(from)
}

impl Filled for BTreeMap<String, String> {
    fn filled(from: &mut Numbers) -> Self {
        (0..from.next() % 3).map(|_| (String::filled(from), String::filled(from))).collect()
    }
}

impl<T: Filled> Filled for Option<T> {
    fn filled(from: &mut Numbers) -> Self {
        bool::filled(from).then(|| T::filled(from))
    }
}

impl<T: Filled> Filled for Vec<T> {
    fn filled(from: &mut Numbers) -> Self {
        (0..from.next() % 3).map(|_| T::filled(from)).collect()
    }
}

macro_rules! filled_enums {
    ($($name:ident { $($variant:ident),* })*) => {$(
        impl Filled for $name {
            fn filled(from: &mut Numbers) -> Self {
                let all = [$(Self::$variant),*];
                all[(from.next() % all.len() as u64) as usize]
            }
        }
    )*};
}

filled_enums! {
    Level { Ok, Attention, Broken }
    StreamMode { Observe, Canary, Enforce, Bypass }
    SourceState { Healthy, Suspended, Ineligible, Suspect, Isolated, Probation }
    Outcome { Established, Refused, Unreachable, Unanswered, Local, Policy }
    Fate { Alone, Steered, Refused, Held }
    Tier { Primary, Spare }
    Family { V4, V6 }
}

macro_rules! filled {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl Filled for $name {
            fn filled(from: &mut Numbers) -> Self {
                Self { $($field: Filled::filled(from)),* }
            }
        })*

    };
}

filled! {
    Headline { level, sentence, advice }
    Status { headline, version, uptime_seconds, reconcile_age_seconds, config, locks, streams, pools, totals, conntrack_used_ratio, table_repairs, suspended, bypasses, hold, faults, time, cgroup_root }
    ConfigState { file, loaded, error }
    Locks { table, table_owned, guard, guard_armed, guard_error }
    StreamState { name, pool, mode, share, matches, exhausted, tags, uids, gids, cgroups, forwarded, marks }
    PoolState { pool, tier, family, eligible, total, suspended }
    Totals { wrong, held, refused, attempts, established, stopped, wrong_last, stopped_last }
    Suspension { source, reason, since, until }
    BypassState { stream, reason, until }
    HoldState { reason, since, until }
    SourceRow { name, public, local, pools, tier, weight, uplink, state, reason, counters }
    SourceCounters { attempts, established, refused, unreachable, reset, unanswered, open, bytes_out, bytes_in, partial }
    ConnectionRow { time, pid, uid, cgroup, stream, provider, wanted_source, wanted_address, real_address, destination, destination_port, local_port, cookie, outcome, handshake_ms, retransmits }
    EventRow { number, time, kind, subject, text, evidence }
    Who { uid, gid, cgroup, tag, subnet, mark, via }
    Destination { address, port }
    Explanation { who, destination, not_steered, streams, provider, provider_by, pool, family, sources, result, assumed, stream, fate, share }
    StreamStep { stream, matched, why }
    SourceStep { source, address, tier, share, why }
    PlanRow { text, action }
    ReloadReport { file, changed, warnings }
    Done { text, changed }
    OutcomeReport { time, destination, host, source, stream, pid, handed, connecting, local_port, reply, complaint }
    OutcomesTaken { joined, ambiguous, unknown, refused, sources }
    Report { from, to, kept_since, rows, notes }
    ReportRow { source, public, attempts, established, accepted, deferred, blocked, bounced, complaints, listed, listed_seconds, flips }
    TeardownReport { removed, left }
}

/// To the wire and back.
fn comes_back<T, P>(seed: u64)
where
    T: Filled + Wire<P> + Clone + PartialEq + std::fmt::Debug,
    P: prost::Message + Default,
{
    let sent = T::filled(&mut Numbers(seed));
    let bytes = sent.clone().to_wire().encode_to_vec();
    let received = T::from_wire(P::decode(bytes.as_slice()).unwrap()).unwrap();
    assert_eq!(received, sent);
}

proptest! {
    #[test]
    fn every_struct_comes_back(seed: u64) {
        comes_back::<Headline, v1::Headline>(seed);
        comes_back::<Status, v1::StatusReply>(seed);
        comes_back::<ConfigState, v1::ConfigState>(seed);
        comes_back::<Locks, v1::Locks>(seed);
        comes_back::<StreamState, v1::StreamState>(seed);
        comes_back::<PoolState, v1::PoolState>(seed);
        comes_back::<Totals, v1::Totals>(seed);
        comes_back::<Suspension, v1::Suspension>(seed);
        comes_back::<BypassState, v1::BypassState>(seed);
        comes_back::<HoldState, v1::HoldState>(seed);
        comes_back::<SourceRow, v1::Source>(seed);
        comes_back::<SourceCounters, v1::SourceCounters>(seed);
        comes_back::<ConnectionRow, v1::Connection>(seed);
        comes_back::<EventRow, v1::Event>(seed);
        comes_back::<Who, v1::Who>(seed);
        comes_back::<Destination, v1::Destination>(seed);
        comes_back::<Explanation, v1::Explanation>(seed);
        comes_back::<StreamStep, v1::StreamStep>(seed);
        comes_back::<SourceStep, v1::SourceStep>(seed);
        comes_back::<PlanRow, v1::PlanRow>(seed);
        comes_back::<ReloadReport, v1::ReloadReport>(seed);
        comes_back::<Done, v1::Done>(seed);
        comes_back::<OutcomeReport, v1::OutcomeReport>(seed);
        comes_back::<OutcomesTaken, v1::OutcomesTaken>(seed);
        comes_back::<Report, v1::ReportReply>(seed);
        comes_back::<ReportRow, v1::ReportRow>(seed);
        comes_back::<TeardownReport, v1::TeardownReport>(seed);
    }
}

#[test]
fn what_another_version_sends_is_said() {
    let bad = v1::Source { public: "no address".to_owned(), ..v1::Source::default() };
    let said = SourceRow::from_wire(bad).unwrap_err().to_string();
    assert_eq!(said, "Source.public: `no address` is no IP address");
    let missing = Status::from_wire(v1::StatusReply::default()).unwrap_err().to_string();
    assert_eq!(missing, "StatusReply.headline: Headline is missing");
    let level = v1::Headline::default();
    assert_eq!(Headline::from_wire(level).unwrap_err().to_string(), "Headline.level: Level cannot be 0");
}
