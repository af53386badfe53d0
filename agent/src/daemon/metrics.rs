//! Everything that Prometheus is told, gathered at scrape.
//!
//! Owns: which sample each count becomes. Must not: count; the kernel and the tallies do.

mod reputation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mailsteer_core::config::{OTHER, Tier};
use mailsteer_core::decide::Withheld;
use mailsteer_core::model::Family;

use super::counts::{Counts, Pair};
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

    /// Of sources that neither the config nor a live connection names any more, and of streams likewise, series end; what
    /// was counted of them stays in the sums by provider, which must not fall. What nobody sees has no series: 0 would say
    /// that there was none.
    fn connections(&mut self, published: &Published, counts: &Counts) {
        let names = Names::of(published);
        let mut sums = Sums::default();
        for (pair, outcomes) in counts.pairs() {
            sums.add(&names, pair, &outcomes);
        }
        for outcome in [Outcome::Local, Outcome::Policy].into_iter().filter(|outcome| counts.sees(*outcome)) {
            for (stream, value) in counts.untold(outcome) {
                if names.streams.contains(stream) {
                    *sums.streams.entry((stream, outcome)).or_default() += value;
                    self.count(Metric::Connections, &[stream, "", outcome.as_str()], value);
                }
            }
        }
        let attempted = |one: &(&str, Outcome)| one.1 == Outcome::Attempted;
        let all: u64 = sums.providers.iter().filter(|(one, _)| attempted(one)).map(|(_, value)| value).sum();
        if all > 0 {
            let other = sums.providers.get(&(OTHER, Outcome::Attempted)).copied().unwrap_or_default();
            self.add(Metric::OtherShare, &[], number(other) / number(all));
        }
        for (metric, by) in
            [(Metric::StreamConnections, &sums.streams), (Metric::ProviderConnections, &sums.providers)]
        {
            for ((name, outcome), value) in by.iter().filter(|((_, outcome), _)| counts.sees(*outcome)) {
                self.count(metric, &[name, outcome.as_str()], *value);
            }
        }
        for ((stream, source), values) in &sums.sources {
            for (outcome, value) in
                OUTCOMES.into_iter().zip(values).filter(|(outcome, _)| counts.sees(*outcome))
            {
                self.count(Metric::Connections, &[stream, source, outcome.as_str()], *value);
            }
        }
        for (stream, packets) in sums.wrong.into_iter().filter(|_| counts.sees(Outcome::Wrong)) {
            self.count(Metric::WrongSource, &[stream], packets);
        }
        self.refused(&names, counts);
    }

    /// Those of which there were none, too: a series that begins above 0 hides its first count from `rate()`.
    fn refused(&mut self, names: &Names, counts: &Counts) {
        let mut refused = counts.refused();
        for stream in names.streams.iter().filter(|stream| !stream.is_empty()) {
            for reason in Outcome::ALL.iter().filter_map(|outcome| outcome.refused_for()) {
                refused.entry((stream, reason)).or_default();
            }
        }
        for ((stream, reason), refused) in refused {
            if names.streams.contains(stream) {
                self.count(Metric::Refused, &[stream, reason], refused);
            }
        }
    }
}

/// What became of connections of which a SYN left.
const OUTCOMES: [Outcome; 6] = [
    Outcome::Attempted,
    Outcome::Established,
    Outcome::Refused,
    Outcome::Unreachable,
    Outcome::Reset,
    Outcome::Unanswered,
];

/// The counters of streams, sources and providers, each summed over the others.
#[derive(Default)]
struct Sums<'a> {
    sources: BTreeMap<(&'a str, &'a str), [u64; 6]>,
    streams: BTreeMap<(&'a str, Outcome), u64>,
    providers: BTreeMap<(&'a str, Outcome), u64>,
    wrong: BTreeMap<&'a str, u64>,
}

impl<'a> Sums<'a> {
    fn add(&mut self, names: &'a Names, pair: Pair<'a>, outcomes: &BTreeMap<Outcome, u64>) {
        let value = |outcome: Outcome| outcomes.get(&outcome).copied().unwrap_or_default();
        let values = OUTCOMES.map(value);
        for (outcome, value) in OUTCOMES.into_iter().zip(values) {
            *self.providers.entry((pair.provider, outcome)).or_default() += value;
        }
        if !names.streams.contains(pair.stream) {
            return;
        }
        for (outcome, value) in OUTCOMES.into_iter().zip(values) {
            *self.streams.entry((pair.stream, outcome)).or_default() += value;
        }
        *self.wrong.entry(pair.stream).or_default() += value(Outcome::Wrong);
        if let Some(source) = names.source(pair.source) {
            let sums = self.sources.entry((pair.stream, source)).or_default();
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// Words that the config, or a number that a live connection may bear, still stands for.
struct Names {
    streams: BTreeSet<String>,
    sources: BTreeMap<IpAddr, String>,
}

impl Names {
    fn of(published: &Published) -> Self {
        let world = &published.world;
        // The empty one: matched by no stream.
        let streams = world.ids().lanes().map(|(_, (stream, _))| stream.clone()).chain([String::new()]);
        let mut sources: BTreeMap<IpAddr, String> =
            world.ids().sources().map(|(_, address, _)| (address, address.to_string())).collect();
        sources.extend(world.pool_sources().map(|source| (source.public, source.name.clone())));
        Self { streams: streams.collect(), sources }
    }

    /// The empty word: not steered.
    fn source(&self, public: Option<IpAddr>) -> Option<&str> {
        public.map_or(Some(""), |public| self.sources.get(&public).map(String::as_str))
    }
}

/// Counters stay far below 2^53, where an f64 is exact.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floating point")]
const fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use mailsteer_core::config::{self, HostView};
    use mailsteer_core::decide::{self, World};
    use mailsteer_core::signal::dns::{Check, Checked, Dnssec, Outcome as Verdict, Report, Row};

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
