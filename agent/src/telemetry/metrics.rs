//! The metrics: one table of names with their help, and the way from plain data to text at scrape.
//!
//! Owns: names, labels, help, and the cap on series: what is left out first, and that it is counted. Must not: count
//! anything else; the daemon gives a [`Snapshot`].

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};

use super::histogram::{self, Histogram, Histograms};

/// No scrape has more series than this; what is left out is counted.
pub const MAX_SERIES: usize = 10_000;

/// How a metric is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// Every metric. A sample names one of these, so none can be without help.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// Every metric, most important first: the cap leaves out from the end, see [`Snapshot`].
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            const fn parts(self) -> (Kind, &'static str, &'static [&'static str], &'static str) {
                match self {
                    $(Self::$variant => (Kind::$kind, $name, &[$($label),*], $help),)*
                }
            }
        }
    };
}

metrics! {
    WrongSource Counter "mailsteer_wrong_source_total" ["stream"] "Packets of steered connections that left with another source address than was chosen. Must stay 0.";
    Held Counter "mailsteer_held_total" ["reason"] "Packets to a steered port that were dropped because nothing vouched for them (gaps).";
    Refused Counter "mailsteer_refused_total" ["stream", "reason"] "Connections refused by decision; the MTA defers.";
    Locks Gauge "mailsteer_locks" [] "How many locks keep mail from a wrong address: 2 with table and eBPF guard, 1 without eBPF.";
    GuardArmed Gauge "mailsteer_guard_armed" [] "1 while the eBPF guard is attached and drops what has no right to leave. Absent where there is no eBPF.";
    ConfigOk Gauge "mailsteer_config_ok" [] "1 while the config on disk is the one in force.";
    StateOk Gauge "mailsteer_state_ok" [] "1 while the state database takes what there is to keep; 0: it is kept in memory only.";
    ReconcileAge Gauge "mailsteer_reconcile_age_seconds" [] "Seconds since the last full reconcile that ended well.";
    TableRepairs Counter "mailsteer_table_repairs_total" [] "How often the nftables table was changed by a stranger and mended.";
    Unguarded Counter "mailsteer_unguarded_seconds_total" [] "Seconds in which no lock held steered mail, from the notice of a change to the table to its repair. Only where there is no eBPF guard.";
    GuardRepairs Counter "mailsteer_guard_repairs_total" [] "How often a stranger's program stood before the guard and the guard was put first again.";
    Unfollowed Counter "mailsteer_unfollowed_total" [] "Connections that could not be followed, so that what became of them is not counted.";
    ConntrackUsed Gauge "mailsteer_conntrack_used_ratio" [] "Share of the conntrack table in use, 0 to 1.";
    Streams Gauge "mailsteer_streams" ["stream", "mode"] "1 for the mode that a stream is in.";
    BuildInfo Gauge "mailsteer_build_info" ["version"] "Always 1; the version of the agent.";
    PoolEligible Gauge "mailsteer_pool_eligible" ["pool", "tier", "family"] "Sources of a pool that may serve.";
    Flips Counter "mailsteer_flips_total" ["stream", "cause"] "Changes of slots because a source stopped or started to be eligible.";
    PendingMoved Counter "mailsteer_pending_moved_total" [] "Connections that nobody had answered yet when their source lost its slots, and that took another source with their next SYN.";
    LiveEnded Counter "mailsteer_live_ended_total" [] "Live connections that were ended because their source lost its slots (on_flip).";
    FlipsWithheld Counter "mailsteer_flips_withheld_total" ["reason"] "Sources that seemed to fail and went on, by the guard rail that held the flip.";
    ListUp Gauge "mailsteer_list_up" ["list"] "1 while a DNS list passes its tests; 0: it is set aside, and nobody looks whether sources are on it.";
    ListAnswers Counter "mailsteer_list_answers_total" ["list", "answer"] "Answers of DNS lists, test points included, by what they mean; unknown changes nothing.";
    FuseBlown Gauge "mailsteer_fuse_blown" ["stream"] "Sources whose fuse for a stream is blown: too much of what it sent from them came back.";
    FeedUp Gauge "mailsteer_feed_up" ["feed"] "1 while a feed can be read; 0 after three tries that came to nothing, and then its last words stand.";
    HookDeliveries Counter "mailsteer_hook_deliveries_total" ["hook", "result"] "Events for a hook: delivered; failed and given up; to be tried again; dropped because too many waited; left out as a repeat.";
    Replies Counter "mailsteer_replies_total" ["provider", "class"] "Replies to messages by who received and what they ask for, as far as they could be joined to a source.";
    Unjoined Counter "mailsteer_replies_unjoined_total" ["why"] "Replies to messages that could be several connections', or no steered one's. They say nothing.";
    LogUp Gauge "mailsteer_log_up" ["log"] "1 while a log is read; 0: it cannot be, and what receivers say there is not heard.";
    LogLines Counter "mailsteer_log_lines_total" ["log"] "Lines of a log that were taken in, since it was first followed.";
    LogOdd Counter "mailsteer_log_odd_lines_total" ["log", "why"] "Of these, lines that say nothing for certain: fields that could be a stranger's, lines that are too long, are not UTF-8, or have no envelope.";
    LogMissed Counter "mailsteer_log_missed_total" ["log"] "How often part of a log was gone before it was read.";
    LogBehind Gauge "mailsteer_log_behind_bytes" ["log"] "Bytes of a log that are not taken in yet. Absent for the journal.";
    StreamConnections Counter "mailsteer_stream_connections_total" ["stream", "outcome"] "Connections by stream and what became of them, over all sources.";
    ProviderConnections Counter "mailsteer_provider_connections_total" ["provider", "outcome"] "Connections by who receives and what became of them.";
    ProviderHandshake Histogram "mailsteer_provider_handshake_seconds" ["provider"] "From connect() to the answer of the receiver's host, of steered connections that were answered, by who receives. Since the agent started; absent where there is no eBPF.";
    DnsDomainCheck Gauge "mailsteer_dns_domain_check" ["domain", "check"] "1 while a DNS check of a domain holds, 0 while it fails. Absent where a lookup failed, and where nobody looks.";
    OtherShare Gauge "mailsteer_provider_other_ratio" [] "Share of connections, since counting began, to receivers of no provider, 0 to 1. Absent before the first.";
    Receivers Gauge "mailsteer_receivers" ["provider"] "Addresses of receivers that are known by name, by whose they are.";
    ReceiversDisputed Gauge "mailsteer_receivers_disputed" [] "Addresses that names of two providers lead to: nobody's. Absent where no names are looked up.";
    NamesRefused Counter "mailsteer_names_refused_total" [] "Names of mail servers in logs that do not lead to the address beside them, and were not believed.";
    NamesUp Gauge "mailsteer_names_up" [] "1 while the resolver answers what names of mail servers lead to; 0: what is known stays as it is.";
    SourceState Gauge "mailsteer_source_state" ["source", "state"] "1 for the state that a source is in.";
    SourceInfo Gauge "mailsteer_source_info" ["source", "public", "local", "pool"] "Always 1; the addresses and the pool of a source.";
    SourceListed Gauge "mailsteer_source_listed" ["source"] "On how many DNS lists a source's public address is. Absent where no list is asked.";
    DnsCheck Gauge "mailsteer_dns_check" ["source", "check"] "1 while a DNS check of a source holds, 0 while it fails. Absent where a lookup failed, and where nobody looks.";
    FeedBad Gauge "mailsteer_source_feed_bad" ["source"] "How many feeds say bad of a source, freshly enough to count. Absent where no feed is read.";
    Connections Counter "mailsteer_connections_total" ["stream", "source", "outcome"] "Connections by stream, source and what became of them.";
    SourceHandshake Histogram "mailsteer_source_handshake_seconds" ["source"] "The same by source.";
}

impl Metric {
    /// Whether it has series for each source: thousands, of which those at 0 say nothing that the others do not.
    const fn is_detail(self) -> bool {
        matches!(
            self,
            Self::SourceState
                | Self::SourceInfo
                | Self::SourceListed
                | Self::FeedBad
                | Self::Connections
                | Self::SourceHandshake
        )
    }
}

/// What a scrape says of a metric with certain labels.
#[derive(Clone, PartialEq, Debug)]
struct Sample {
    labels: Vec<String>,
    value: Value,
}

#[derive(Clone, PartialEq, Debug)]
enum Value {
    Number(f64),
    Times(Box<Histogram>),
}

impl Value {
    /// How many series that is.
    const fn series(&self) -> usize {
        match self {
            Self::Number(_) => 1,
            Self::Times(_) => histogram::SERIES,
        }
    }

    const fn number(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Times(_) => 0.0,
        }
    }
}

/// Every series at the time of a scrape, as plain data.
///
/// Where there are more than [`MAX_SERIES`], the last of this order are left out, and counted: every metric without a
/// source in the order of [`Metric::ALL`]; then the states, infos and connections of each source; then those of
/// the states and connections that are 0. Within a metric, what was added last goes first. A sum over sources is a
/// series of its own, so it stays exact whatever is left out.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    samples: BTreeMap<(bool, Metric), Vec<Sample>>,
    beyond: usize,
}

impl Snapshot {
    /// Adds a series. `labels` are the values of the metric's labels, in the table's order.
    pub fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        self.put(metric.is_detail() && value <= 0.0, metric, labels, Value::Number(value));
    }

    /// The same of a histogram.
    pub fn add_times(&mut self, metric: Metric, labels: &[&str], times: Histogram) {
        self.put(false, metric, labels, Value::Times(Box::new(times)));
    }

    fn put(&mut self, is_last: bool, metric: Metric, labels: &[&str], value: Value) {
        let samples = self.samples.entry((is_last, metric)).or_default();
        // Not kept only to be left out later: there may be a hundred thousand.
        if samples.len() == MAX_SERIES {
            self.beyond += value.series();
            return;
        }
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        samples.push(Sample { labels, value });
    }

    /// What a scrape has room for, by metric, and how many series it has not.
    fn fit(self) -> (BTreeMap<Metric, Vec<Sample>>, usize) {
        // One place is kept for the count itself.
        let (mut room, mut left_out) = (MAX_SERIES - 1, self.beyond);
        let mut fitting: BTreeMap<Metric, Vec<Sample>> = BTreeMap::new();
        for ((_, metric), mut samples) in self.samples {
            let before = samples.len();
            // All of a metric are of one kind.
            let each = samples.first().map_or(1, |sample| sample.value.series());
            samples.truncate(room / each);
            left_out += (before - samples.len()) * each;
            room -= samples.len() * each;
            if !samples.is_empty() {
                fitting.entry(metric).or_default().append(&mut samples);
            }
        }
        (fitting, left_out)
    }
}

/// Where a scrape's data comes from.
pub trait MetricsSource: Send + Sync + 'static {
    /// Every series, now.
    fn snapshot(&self) -> Snapshot;
}

/// The text of a scrape.
///
/// # Errors
/// A sample does not have its metric's labels.
pub fn render(source: &Arc<dyn MetricsSource>) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let (fitting, left_out) = source.snapshot().fit();
    for (metric, samples) in fitting {
        registry.register(family(metric, &samples)?)?;
    }
    let help = "Series left out of this scrape because there were more than 10,000.";
    let gauge = prometheus::Gauge::new("mailsteer_series_left_out", help)?;
    gauge.set(f64::from(u32::try_from(left_out).unwrap_or(u32::MAX)));
    registry.register(Box::new(gauge))?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn family(metric: Metric, samples: &[Sample]) -> Result<Box<dyn Collector>, prometheus::Error> {
    let (kind, name, labels, help) = metric.parts();
    let opts = Opts::new(name, help);
    match kind {
        Kind::Counter => {
            let vec = CounterVec::new(opts, labels)?;
            for Sample { labels, value } in samples {
                vec.get_metric_with_label_values(labels)?.inc_by(value.number().max(0.0));
            }
            Ok(Box::new(vec))
        }
        Kind::Gauge => {
            let vec = GaugeVec::new(opts, labels)?;
            for Sample { labels, value } in samples {
                vec.get_metric_with_label_values(labels)?.set(value.number());
            }
            Ok(Box::new(vec))
        }
        Kind::Histogram => {
            let times = samples.iter().filter_map(|sample| match &sample.value {
                Value::Times(times) => Some((sample.labels.clone(), **times)),
                Value::Number(_) => None,
            });
            Ok(Box::new(Histograms::new(name, help, labels, times.collect())?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Snapshot);
    impl MetricsSource for Fixed {
        fn snapshot(&self) -> Snapshot {
            self.0.clone()
        }
    }

    #[test]
    fn every_metric_renders_with_help() {
        let mut snapshot = Snapshot::default();
        for metric in Metric::ALL {
            let labels: Vec<String> = metric.parts().2.iter().map(|l| format!("a-{l}")).collect();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            if metric.parts().0 == Kind::Histogram {
                snapshot.add_times(*metric, &labels, Histogram::default());
            } else {
                snapshot.add(*metric, &labels, 1.0);
            }
        }
        let source: Arc<dyn MetricsSource> = Arc::new(Fixed(snapshot));
        let text = render(&source).unwrap();
        for metric in Metric::ALL {
            let (kind, name, _, help) = metric.parts();
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        }
    }

    /// Names, labels and help are an interface: dashboards and alerts break when they change. Change the file too, and
    /// say so in the release notes.
    #[test]
    fn the_metrics_are_as_they_were_written_down() {
        let mut text = String::new();
        for metric in Metric::ALL {
            let (kind, name, labels, help) = metric.parts();
            text.push_str(&format!("{name} {kind:?} {{{}}} {help}\n", labels.join(",")));
        }
        assert_eq!(text, include_str!("metrics.txt"));
    }

    fn rendered(snapshot: Snapshot) -> Vec<String> {
        let source: Arc<dyn MetricsSource> = Arc::new(Fixed(snapshot));
        let text = render(&source).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_too_much_is_left_out_and_counted() {
        let mut snapshot = Snapshot::default();
        for n in 0..2 * MAX_SERIES {
            snapshot.add(Metric::Connections, &["s", &n.to_string(), "established"], 1.0);
        }
        snapshot.add(Metric::WrongSource, &["s"], 0.0);
        let lines = rendered(snapshot);
        assert_eq!(lines.len(), MAX_SERIES);
        assert!(lines.contains(&format!("mailsteer_series_left_out {}", MAX_SERIES + 2)));
        assert!(
            lines.contains(&"mailsteer_wrong_source_total{stream=\"s\"} 0".to_owned()),
            "the important stays"
        );
    }

    #[test]
    fn a_histogram_is_there_whole_or_not_at_all() {
        let mut snapshot = Snapshot::default();
        let left = histogram::SERIES + 7;
        for n in 0..MAX_SERIES - 1 - left {
            snapshot.add(Metric::Connections, &["s", &n.to_string(), "reset"], 1.0);
        }
        for source in ["a", "b"] {
            snapshot.add_times(Metric::SourceHandshake, &[source], Histogram::default());
        }
        let lines = rendered(snapshot);
        let of =
            |source: &str| lines.iter().filter(|line| line.contains(&format!("source=\"{source}\""))).count();
        assert_eq!((of("a"), of("b")), (histogram::SERIES, 0));
        assert!(lines.contains(&format!("mailsteer_series_left_out {}", histogram::SERIES)));
    }

    #[test]
    fn what_is_0_of_a_source_goes_before_what_is_not() {
        let mut snapshot = Snapshot::default();
        for n in 0..MAX_SERIES / 2 {
            let source = n.to_string();
            snapshot.add(Metric::SourceState, &[&source, "healthy"], 1.0);
            snapshot.add(Metric::SourceState, &[&source, "suspended"], 0.0);
            snapshot.add(Metric::Connections, &["s", &source, "reset"], 1.0);
        }
        let lines = rendered(snapshot);
        let of = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        assert_eq!((of("healthy"), of("suspended"), of("reset")), (MAX_SERIES / 2, 0, MAX_SERIES / 2 - 1));
        assert!(lines.contains(&format!("mailsteer_series_left_out {}", MAX_SERIES / 2 + 1)));
    }
}
