//! The first line of `status`: is every message leaving where it should, and if not, what to do.
//!
//! Owns: that judgement, as a pure function of the rest of the status. Must not: ask anything else.

use jiff::SignedDuration;

use super::view::{Headline, Level, PoolState, Status, StreamMode};

/// A reconcile older than this, in seconds, means that the agent no longer keeps watch.
const STALE: f64 = 120.0;
/// Share of the conntrack table from which it wants a look.
const CONNTRACK_HIGH: f64 = 0.8;
/// Share from which new connections are about to be lost.
const CONNTRACK_FULL: f64 = 0.95;
/// How long a packet with a wrong address counts as happening now: longer than two checks of a usual monitor.
const RECENT: SignedDuration = SignedDuration::from_mins(15);
/// How long it then wants a look; afterwards it is history, and stands in the counts.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// The first line, from the rest of the status. The worst finding is the sentence; how many others there are is said.
#[must_use]
pub fn headline(status: &Status) -> Headline {
    let mut findings = Vec::new();
    locks(status, &mut findings);
    streams(status, &mut findings);
    agent(status, &mut findings);
    operator(status, &mut findings);
    // Stable: among equals the first found is the one to start with.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let others = findings.len().saturating_sub(1);
    match findings.into_iter().next() {
        None => fine(status),
        Some(mut worst) => {
            match others {
                0 => {}
                1 => worst.sentence.push_str(" (and 1 more finding below)"),
                n => worst.sentence.push_str(&format!(" (and {n} more findings below)")),
            }
            worst
        }
    }
}

fn finding(level: Level, sentence: impl Into<String>, advice: impl Into<String>) -> Headline {
    Headline { level, sentence: sentence.into(), advice: advice.into() }
}

fn steers(status: &Status) -> bool {
    status.streams.iter().any(|s| matches!(s.mode, StreamMode::Enforce | StreamMode::Canary))
}

fn locks(status: &Status, findings: &mut Vec<Headline>) {
    wrong(status, findings);
    if !steers(status) {
        return;
    }
    let locks = &status.locks;
    let guarded = locks.guard && locks.guard_armed;
    if !locks.table {
        let held = if guarded { "steered mail is held by the guard" } else { "nothing steers the mail" };
        findings.push(finding(
            Level::Broken,
            format!("the nftables table is not in place: {held}"),
            "see `mailsteer events` for why the repair fails",
        ));
    }
    let level = if locks.table { Level::Attention } else { Level::Broken };
    if let Some(why) = &locks.guard_error {
        let flush = if locks.table_owned {
            "another program's flush skips the table while the agent runs; after its end one would let mail leave by a \
             wrong address"
        } else {
            "a flush of nftables lets mail leave by a wrong address until it is repaired"
        };
        findings.push(finding(
            level,
            format!("one lock only: there is no eBPF guard ({why})"),
            format!("{flush}; see docs/limits.md, \"Without eBPF\""),
        ));
    } else if !guarded {
        let why = if locks.guard { "not armed" } else { "not attached" };
        findings.push(finding(
            level,
            format!("one lock only: the eBPF guard does not hold ({why})"),
            "a flush of nftables would let mail leave by a wrong address: mend the guard",
        ));
    }
}

/// What left is worse than what was stopped, and what happens now is worse than what is over.
fn wrong(status: &Status, findings: &mut Vec<Headline>) {
    let totals = &status.totals;
    let advice = "see `mailsteer events`, and `nft list ruleset` for NAT that is not mailsteer's";
    let age = |last: Option<jiff::Timestamp>| last.map(|last| status.time.duration_since(last));
    let uptime = SignedDuration::from_secs(i64::try_from(status.uptime_seconds).unwrap_or(i64::MAX));
    let packets = |n: u64| if n == 1 { "1 packet".to_owned() } else { format!("{n} packets") };
    if totals.wrong > 0 {
        let left = format!("{} of steered connections left with a wrong address", packets(totals.wrong));
        match (totals.wrong_last, age(totals.wrong_last)) {
            (Some(last), Some(age)) if age < RECENT => {
                findings.push(finding(Level::Broken, format!("{left}, the last at {}", clock(last)), advice));
            }
            (Some(last), Some(age)) if age < REMEMBERED => {
                findings.push(finding(
                    Level::Attention,
                    format!("{left}, the last at {}", clock(last)),
                    advice,
                ));
            }
            (None, _) if uptime < REMEMBERED => findings.push(finding(
                Level::Attention,
                format!("{left}, all before this agent started"),
                "see the log of the agent before it: `journalctl -u mailsteer`",
            )),
            _ => {}
        }
    }
    if let Some(last) =
        totals.stopped_last.filter(|_| age(totals.stopped_last).is_some_and(|age| age < RECENT))
    {
        let bore = format!("{} with a wrong address were stopped on this host", packets(totals.stopped));
        findings.push(finding(Level::Attention, format!("{bore}, the last at {}", clock(last)), advice));
    }
}

/// The time as people read it; `Z` says that it is UTC.
fn clock(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn streams(status: &Status, findings: &mut Vec<Headline>) {
    let steered = |mode| matches!(mode, StreamMode::Enforce | StreamMode::Canary);
    for stream in status.streams.iter().filter(|s| steered(s.mode) && !s.exhausted.is_empty()) {
        let families: Vec<_> = stream.exhausted.iter().map(ToString::to_string).collect();
        findings.push(finding(
            Level::Broken,
            format!(
                "stream {} has no eligible {} source in pool {}",
                stream.name,
                families.join(" or "),
                stream.pool
            ),
            "see `mailsteer sources` for why, and `mailsteer resume SOURCE` for what the operator suspended",
        ));
    }
    // What is not steered needs no source; what the operator suspended needs no look.
    let in_use = |name: &str| status.streams.iter().any(|s| steered(s.mode) && s.pool == name);
    let lacks = |p: &&PoolState| p.eligible.saturating_add(p.suspended) < p.total;
    for pool in status.pools.iter().filter(|p| in_use(&p.pool)).filter(lacks) {
        let tier = format!("{:?}", pool.tier).to_lowercase();
        findings.push(finding(
            Level::Attention,
            format!(
                "pool {}: {} of {} {tier} {} sources are eligible",
                pool.pool, pool.eligible, pool.total, pool.family
            ),
            "see `mailsteer sources` for why",
        ));
    }
}

fn agent(status: &Status, findings: &mut Vec<Headline>) {
    if status.config.error.is_some() {
        findings.push(finding(
            Level::Attention,
            "the config on disk is bad; the one before it is in force",
            "mend it, see `mailsteer check FILE`, then `mailsteer reload`",
        ));
    }
    if status.reconcile_age_seconds.is_none_or(|age| age > STALE) {
        let said = status.reconcile_age_seconds.map_or_else(
            || "the agent has not yet reconciled".to_owned(),
            |age| format!("the agent has not reconciled for {age:.0} s"),
        );
        findings.push(finding(Level::Attention, said, "see the agent's log: `journalctl -u mailsteer`"));
    }
    for fault in &status.faults {
        findings.push(finding(Level::Attention, fault.clone(), "see `mailsteer events`"));
    }
    if let Some(used) = status.conntrack_used_ratio.filter(|used| *used >= CONNTRACK_HIGH) {
        let level = if used >= CONNTRACK_FULL { Level::Broken } else { Level::Attention };
        findings.push(finding(
            level,
            format!("the conntrack table is {:.0} % full", used * 100.0),
            "raise net.netfilter.nf_conntrack_max: a full table refuses new connections",
        ));
    }
}

fn operator(status: &Status, findings: &mut Vec<Headline>) {
    for bypass in &status.bypasses {
        findings.push(finding(
            Level::Attention,
            format!(
                "stream {} passes unsteered until {} ({})",
                bypass.stream,
                clock(bypass.until),
                bypass.reason
            ),
            format!("end it with `mailsteer bypass {} --end --reason TEXT`", bypass.stream),
        ));
    }
}

fn fine(status: &Status) -> Headline {
    let count = |mode| status.streams.iter().filter(|s| s.mode == mode).count();
    let (enforce, canary) = (count(StreamMode::Enforce), count(StreamMode::Canary));
    if !steers(status) {
        return finding(
            Level::Ok,
            "nothing is steered: every stream is observed and leaves as it would without mailsteer",
            "to steer, set `mode = \"enforce\"` (or a canary) in the config and `mailsteer reload`",
        );
    }
    let mut parts = Vec::new();
    if enforce > 0 {
        parts.push(format!("{enforce} enforced"));
    }
    if canary > 0 {
        parts.push(format!("{canary} as a canary"));
    }
    let observed = count(StreamMode::Observe);
    if observed > 0 {
        parts.push(format!("{observed} observed"));
    }
    let suspended = match status.suspended.len() {
        0 => String::new(),
        1 => "; 1 source suspended".to_owned(),
        n => format!("; {n} sources suspended"),
    };
    let hold = if status.hold.is_some() { "; on hold" } else { "" };
    let streams = parts.join(", ");
    let sentence = format!("every message leaves where it should (streams: {streams}{suspended}{hold})");
    finding(Level::Ok, sentence, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{BypassState, Locks, StreamState, Suspension};
    use mailsteer_core::config::Tier;
    use mailsteer_core::model::Family;

    fn steering() -> Status {
        Status {
            reconcile_age_seconds: Some(1.0),
            locks: Locks {
                table: true,
                table_owned: true,
                guard: true,
                guard_armed: true,
                guard_error: None,
            },
            streams: vec![StreamState {
                name: "bulk".into(),
                pool: "b".into(),
                mode: StreamMode::Enforce,
                share: 1000,
                ..StreamState::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn all_well() {
        let said = headline(&steering());
        assert_eq!(
            (said.level, said.sentence.as_str()),
            (Level::Ok, "every message leaves where it should (streams: 1 enforced)")
        );
        assert!(said.advice.is_empty());
    }

    #[test]
    fn observing_is_ok_and_says_how_to_steer() {
        let mut status = steering();
        status.streams[0].mode = StreamMode::Observe;
        status.locks = Locks::default();
        let said = headline(&status);
        assert_eq!(said.level, Level::Ok);
        assert!(said.advice.contains("enforce"));
    }

    #[test]
    fn one_lock_is_attention_none_is_broken() {
        let mut status = steering();
        status.locks.guard = false;
        status.locks.guard_error = Some("no BTF".into());
        let said = headline(&status);
        assert_eq!(said.level, Level::Attention);
        assert!(said.sentence.contains("no BTF"), "{}", said.sentence);
        status.locks.table = false;
        assert_eq!(headline(&status).level, Level::Broken);
    }

    #[test]
    fn without_ebpf_the_advice_says_what_a_flush_does() {
        let mut status = steering();
        (status.locks.guard, status.locks.guard_armed) = (false, false);
        status.locks.guard_error = Some("not permitted".into());
        assert_eq!((status.locks.held(), status.locks.unseen().len()), (1, 5));
        let said = headline(&status);
        assert_eq!(said.sentence, "one lock only: there is no eBPF guard (not permitted)");
        assert!(said.advice.starts_with("another program's flush skips the table"), "{}", said.advice);
        status.locks.table_owned = false;
        let said = headline(&status);
        assert!(said.advice.starts_with("a flush of nftables lets mail leave"), "{}", said.advice);
        status.streams[0].mode = StreamMode::Observe;
        assert_eq!(headline(&status).level, Level::Ok, "nothing to lock");
    }

    #[test]
    fn the_worst_comes_first() {
        let mut status = steering();
        status.faults.push("the disk is full".into());
        status.pools.push(PoolState {
            pool: "b".into(),
            tier: Tier::Primary,
            family: Family::V4,
            eligible: 1,
            total: 2,
            suspended: 0,
        });
        assert_eq!(headline(&status).level, Level::Attention);
        status.streams[0].exhausted = vec![Family::V4];
        let said = headline(&status);
        assert_eq!(said.level, Level::Broken);
        assert!(said.sentence.starts_with("stream bulk has no eligible IPv4 source"), "{}", said.sentence);
        assert!(said.sentence.ends_with("(and 2 more findings below)"), "{}", said.sentence);
    }

    #[test]
    fn conntrack_and_silence() {
        let mut status = steering();
        status.conntrack_used_ratio = Some(0.96);
        assert_eq!(headline(&status).level, Level::Broken);
        status.conntrack_used_ratio = Some(0.81);
        assert_eq!(headline(&status).level, Level::Attention);
        let mut status = steering();
        status.reconcile_age_seconds = None;
        assert_eq!(headline(&status).level, Level::Attention);
    }

    #[test]
    fn a_wrong_address_is_broken_now_then_wants_a_look_then_is_history() {
        let mut status = steering();
        status.totals.wrong = 1;
        status.totals.wrong_last = Some(jiff::Timestamp::UNIX_EPOCH);
        let mut after = |minutes| {
            status.time = jiff::Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
            headline(&status)
        };
        assert_eq!(after(14).level, Level::Broken);
        let said = after(16);
        assert_eq!(said.level, Level::Attention);
        assert_eq!(
            said.sentence,
            "1 packet of steered connections left with a wrong address, the last at 1970-01-01 00:00:00Z"
        );
        assert_eq!(after(60 * 24 + 1).level, Level::Ok);
    }

    #[test]
    fn wrong_addresses_of_an_earlier_agent_want_a_look_for_a_day() {
        let mut status = steering();
        status.totals.wrong = 2;
        status.uptime_seconds = 60;
        let said = headline(&status);
        assert_eq!(said.level, Level::Attention);
        assert!(said.sentence.ends_with("all before this agent started"), "{}", said.sentence);
        status.uptime_seconds = 86_401;
        assert_eq!(headline(&status).level, Level::Ok);
    }

    #[test]
    fn what_was_stopped_wants_a_look_while_it_is_recent() {
        let mut status = steering();
        status.totals.stopped = 7;
        assert_eq!(headline(&status).level, Level::Ok, "before this agent, and stopped: nothing to do");
        status.totals.stopped_last = Some(jiff::Timestamp::UNIX_EPOCH);
        let said = headline(&status);
        assert_eq!(said.level, Level::Attention);
        assert!(
            said.sentence.starts_with("7 packets with a wrong address were stopped"),
            "{}",
            said.sentence
        );
        status.time = jiff::Timestamp::UNIX_EPOCH + SignedDuration::from_mins(16);
        assert_eq!(headline(&status).level, Level::Ok);
    }

    #[test]
    fn what_the_operator_suspended_is_said_and_fine() {
        let mut status = steering();
        let pool = PoolState {
            pool: "b".into(),
            tier: Tier::Primary,
            family: Family::V4,
            eligible: 1,
            total: 2,
            suspended: 1,
        };
        status.pools.push(pool);
        let time = jiff::Timestamp::UNIX_EPOCH;
        status.suspended.push(Suspension {
            source: "b-1".into(),
            reason: "moving".into(),
            since: time,
            until: None,
        });
        let said = headline(&status);
        assert_eq!(said.level, Level::Ok);
        assert!(said.sentence.ends_with("1 enforced; 1 source suspended)"), "{}", said.sentence);
        status.pools[0].suspended = 0;
        assert_eq!(headline(&status).level, Level::Attention, "a fact is another matter");
    }

    #[test]
    fn a_stream_that_is_not_steered_needs_no_source() {
        let mut status = steering();
        status.streams[0].mode = StreamMode::Observe;
        status.streams[0].exhausted = vec![Family::V4];
        status.pools.push(PoolState {
            pool: "b".into(),
            tier: Tier::Primary,
            family: Family::V4,
            eligible: 0,
            total: 2,
            suspended: 0,
        });
        assert_eq!(headline(&status).level, Level::Ok);
    }

    #[test]
    fn a_bypass_is_said() {
        let mut status = steering();
        status.bypasses.push(BypassState {
            stream: "bulk".into(),
            reason: "moving".into(),
            until: jiff::Timestamp::UNIX_EPOCH,
        });
        let said = headline(&status);
        assert_eq!(said.level, Level::Attention);
        assert!(said.advice.contains("bypass bulk --end"));
    }
}
