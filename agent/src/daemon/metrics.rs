//! Everything that Prometheus is told, gathered at scrape.
//!
//! Owns: which sample each count becomes. Must not: count; the kernel and the tallies do.

mod connections;
mod reputation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mailsteer_core::config::Tier;
use mailsteer_core::decide::Withheld;
use mailsteer_core::model::Family;

use super::counts::Counts;
use super::shared::{Published, Shared};
use super::status;
use crate::api::view::{SourceState, StreamMode};
use crate::state::Outcome;
use crate::telemetry::metrics::{Metric, MetricsSource, Snapshot};

/// The daemon as a source of metrics.
pub(super) struct Source {
    shared: Arc<Shared>,
}

impl Source {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl MetricsSource for Source {
    fn snapshot(&self) -> Snapshot {
        let Some(published) = self.shared.published() else { return Snapshot::default() };
        let counts = self.shared.counts();
        let mut samples = Samples(Snapshot::default());
        samples.health(&self.shared, &published, &counts);
        samples.streams(&published);
        samples.pools(&published);
        samples.sources(&published);
        samples.replies(&self.shared, &published);
        samples.lists(&self.shared, &published);
        samples.dns(&self.shared);
        samples.hooks(&self.shared);
        samples.receivers(&self.shared, &published);
        samples.feeds(&self.shared, &published);
        samples.connections(&published, &counts);
        samples.handshakes(&self.shared, &published);
        samples.0
    }
}

struct Samples(Snapshot);

impl Samples {
    fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        self.0.add(metric, labels, value);
    }

    fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, number(value));
    }

    fn flag(&mut self, metric: Metric, value: bool) {
        self.add(metric, &[], f64::from(u8::from(value)));
    }

    fn health(&mut self, shared: &Shared, published: &Published, counts: &Counts) {
        let tallies = shared.tallies();
        let locks = &published.locks;
        self.count(Metric::Locks, &[], locks.held().into());
        if locks.guard_error.is_none() {
            self.flag(Metric::GuardArmed, locks.guard && locks.guard_armed);
        }
        self.flag(Metric::ConfigOk, published.config_error.is_none());
        self.flag(Metric::StateOk, shared.store.fault().is_none());
        if let Some(settled) = published.settled {
            self.add(Metric::ReconcileAge, &[], settled.elapsed().as_secs_f64());
        }
        self.count(Metric::TableRepairs, &[], tallies.repairs);
        self.add(Metric::Unguarded, &[], tallies.unguarded.as_secs_f64());
        self.count(Metric::GuardRepairs, &[], tallies.guard_repairs);
        if counts.sees(Outcome::Unfollowed) {
            self.count(Metric::Unfollowed, &[], counts.total(Outcome::Unfollowed));
        }
        if let Some(used) = counts.conntrack_used {
            self.add(Metric::ConntrackUsed, &[], used);
        }
        self.add(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        for (reason, packets) in counts.held() {
            self.count(Metric::Held, &[reason], packets);
        }
        self.count(Metric::PendingMoved, &[], tallies.moved);
        self.count(Metric::LiveEnded, &[], tallies.ended);
        // From 0 on: an increase from nothing is none to Prometheus.
        for reason in Withheld::ALL.map(Withheld::as_str) {
            let withheld = tallies.withheld.get(reason).copied().unwrap_or_default();
            self.count(Metric::FlipsWithheld, &[reason], withheld);
        }
        for ((stream, cause), flips) in &tallies.flips {
            self.count(Metric::Flips, &[stream, cause], *flips);
        }
    }

    fn streams(&mut self, published: &Published) {
        // A stream is in one mode at all providers.
        let mut told = BTreeSet::new();
        let lanes = published.decision.desired.lanes.iter();
        for lane in lanes.filter(|lane| told.insert(lane.stream.as_str())) {
            let (now, _) = status::mode(lane.steering);
            for mode in StreamMode::ALL {
                self.add(Metric::Streams, &[&lane.stream, mode.as_str()], f64::from(u8::from(mode == now)));
            }
        }
    }

    fn pools(&mut self, published: &Published) {
        for row in status::pools(&published.world) {
            let tier = match row.tier {
                Tier::Primary => "primary",
                Tier::Spare => "spare",
            };
            let family = match row.family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            self.add(Metric::PoolEligible, &[&row.pool, tier, family], f64::from(row.eligible));
        }
    }

    fn sources(&mut self, published: &Published) {
        let world = &published.world;
        let mut states = BTreeMap::new();
        for pool in world.config().pools.values() {
            for source in &pool.sources {
                let (public, local) = (source.public.to_string(), source.local.to_string());
                self.add(Metric::SourceInfo, &[&source.name, &public, &local, &pool.name], 1.0);
                states.entry(source.name.as_str()).or_insert_with(|| status::state(world, source));
            }
        }
        // Those that may not serve first: should there be no room for all, they are what somebody looks for.
        let mut states: Vec<_> = states.into_iter().collect();
        states.sort_by_key(|(_, state)| *state == SourceState::Healthy);
        for (name, now) in states {
            for state in SourceState::ALL {
                self.add(Metric::SourceState, &[name, state.as_str()], f64::from(u8::from(state == now)));
            }
        }
    }
}

/// Counters stay far below 2^53, where an f64 is exact.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floating point")]
const fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use jiff::Timestamp;
    use mailsteer_core::config::{self, HostView};
    use mailsteer_core::decide::{self, World};
    use mailsteer_core::signal::dns::{Check, Checked, Dnssec, Outcome as Verdict, Report, Row};

    use super::connections::OUTCOMES;
    use super::*;
    use crate::api::view::Locks;
    use crate::daemon::Options;
    use crate::state::Store;
    use crate::telemetry::metrics::{MAX_SERIES, render};

    const STREAMS: u16 = 64;
    const SOURCES: u16 = 1000;

    /// 64 streams, each of which has used each of 1,000 sources, so that every series is above 0.
    fn a_thousand_sources_in_64_lanes() -> Arc<Shared> {
        let mut text =
            "mode = \"enforce\"\n[pool.main]\naddresses = [\"2001:db8::1-2001:db8::3e8\"]\n".to_owned();
        for n in 0..STREAMS {
            text.push_str(&format!("[stream.s{n}]\nuid = {}\npool = \"main\"\n", 2000 + n));
        }
        let checked = config::load("test", &text, &HostView::default());
        let config = checked.config.unwrap_or_else(|| panic!("{:?}", checked.problems));
        let now = Timestamp::UNIX_EPOCH;
        let world = World::new(config, now);
        let decision = decide::desired(&world, now);
        let sources: Vec<IpAddr> = world.pool_sources().map(|source| source.public).collect();
        assert_eq!(sources.len(), usize::from(SOURCES));
        let streams: Vec<String> = world.config().streams.iter().map(|stream| stream.name.clone()).collect();
        assert_eq!(streams.len(), usize::from(STREAMS));
        let each = [
            (Outcome::Attempted, 21),
            (Outcome::Established, 1),
            (Outcome::Refused, 2),
            (Outcome::Unreachable, 3),
            (Outcome::Reset, 4),
            (Outcome::Unanswered, 5),
            (Outcome::Wrong, 6),
        ];
        let mut counted = Vec::new();
        for stream in &streams {
            for source in &sources {
                counted.extend(each.map(|(outcome, sum)| (Some(*source), stream.as_str(), outcome, sum)));
            }
            counted.push((None, stream, Outcome::NotSent, 7));
            counted.push((None, stream, Outcome::Local, 7));
            counted.push((None, stream, Outcome::RefusedExhausted, 8));
        }
        let counts = Counts::of(counted);
        let options = Options {
            config: None,
            socket: "unused".into(),
            bpffs: "unused".into(),
            cgroup: None,
            state: "unused".into(),
        };
        let dir = tempfile::tempdir().unwrap();
        let (store, kept) = Store::open(dir.path(), config::Retention::default()).unwrap();
        let shared = Arc::new(Shared::new(options, store, kept.events));
        shared.publish(Published {
            known: crate::daemon::signals::Known::of(&world),
            world,
            decision,
            pending: Vec::new(),
            locks: Locks { guard: true, guard_armed: true, ..Locks::default() },
            config_error: None,
            config_loaded: now,
            faults: Vec::new(),
            settled: None,
        });
        shared.set_counts(counts);
        shared
    }

    #[test]
    fn what_nobody_sees_without_ebpf_has_no_series() {
        let shared = a_thousand_sources_in_64_lanes();
        let mut counts = (*shared.counts()).clone();
        counts.partial = true;
        shared.set_counts(counts);
        let source: Arc<dyn MetricsSource> = Arc::new(Source::new(shared));
        let text = render(&source).unwrap();
        for unseen in ["unreachable", "reset", "unanswered", "local", "policy"] {
            assert!(!text.contains(&format!("outcome=\"{unseen}\"")), "{unseen}");
        }
        assert!(!text.contains("mailsteer_wrong_source_total{"));
        assert!(!text.contains("\nmailsteer_unfollowed_total "));
        let of = "mailsteer_stream_connections_total{outcome=\"refused\",stream=\"s7\"} 2000\n";
        assert!(text.contains(of), "what the table counts is there");
    }

    #[test]
    fn a_dns_check_of_which_nothing_is_known_has_no_series() {
        let shared = a_thousand_sources_in_64_lanes();
        let checked = |check, outcome| Checked { check, outcome, what: String::new(), advice: String::new() };
        let checks = vec![
            checked(Check::Ptr, Verdict::Ok),
            checked(Check::Forward, Verdict::Failed),
            checked(Check::Spf, Verdict::Unknown),
        ];
        let address = IpAddr::from([192, 0, 2, 1]);
        let source = Row { name: "main-1".into(), address, checks, dnssec: Dnssec::Unsigned };
        shared.set_dns(Report { sources: vec![source], domains: vec![] });
        let source: Arc<dyn MetricsSource> = Arc::new(Source::new(shared));
        let text = render(&source).unwrap();
        let of = |line: &&str| line.starts_with("mailsteer_dns_check{");
        assert_eq!(
            text.lines().filter(of).collect::<Vec<_>>(),
            [
                "mailsteer_dns_check{check=\"forward\",source=\"main-1\"} 0",
                "mailsteer_dns_check{check=\"ptr\",source=\"main-1\"} 1"
            ]
        );
    }

    #[test]
    fn a_thousand_sources_in_64_lanes_stay_within_the_limit_and_lose_no_sum() {
        let shared = a_thousand_sources_in_64_lanes();
        let source: Arc<dyn MetricsSource> = Arc::new(Source::new(shared));
        let text = render(&source).unwrap();
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(series.len(), MAX_SERIES);
        let value = |series: &str| text.lines().find_map(|line| line.strip_prefix(series)).map(str::trim);
        assert_eq!(value("mailsteer_guard_armed"), Some("1"));
        for stream in (0..STREAMS).map(|n| format!("stream=\"s{n}\"")) {
            assert_eq!(value(&format!("mailsteer_wrong_source_total{{{stream}}}")), Some("6000"));
            let refused = format!("mailsteer_refused_total{{reason=\"exhausted\",{stream}}}");
            assert_eq!(value(&refused), Some("8"));
            for (outcome, sum) in [("attempted", "21000"), ("unanswered", "5000"), ("local", "7")] {
                let of = format!("mailsteer_stream_connections_total{{outcome=\"{outcome}\",{stream}}}");
                assert_eq!(value(&of), Some(sum), "{of}");
            }
        }
        let count = |name: &str| series.iter().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        assert_eq!(count("mailsteer_source_info"), usize::from(SOURCES));
        // The states that a source is not in went before any state that it is in.
        let states = series.iter().filter(|line| line.starts_with("mailsteer_source_state{"));
        assert_eq!(states.map(|line| line.ends_with(" 1")).collect::<Vec<_>>(), [true; SOURCES as usize]);
        // Every series is either here or counted: all of connections, and two more states of each source.
        let connections = usize::from(STREAMS) * (usize::from(SOURCES) * OUTCOMES.len() + 1) + 2;
        let states = usize::from(SOURCES) * (SourceState::ALL.len() - 1);
        let left_out = connections - count("mailsteer_connections_total") + states;
        assert_eq!(value("mailsteer_series_left_out"), Some(left_out.to_string().as_str()));
    }
}
