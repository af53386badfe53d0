//! The metrics: one table of names with their help, and the way from plain data to text at scrape.
//!
//! Owns: names, labels, help, and the cap on series. Must not: count anything; the daemon gives a [`Snapshot`].

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};

/// No scrape has more series than this; what is left out is counted.
pub const MAX_SERIES: usize = 10_000;

/// Counter or gauge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Counter,
    Gauge,
}

macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// Every metric. A sample names one of these, so none can be without help.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// Every metric, most important first: the cap leaves out from the end.
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
    GuardArmed Gauge "mailsteer_guard_armed" [] "1 while the eBPF guard is attached and drops what has no right to leave.";
    ConfigOk Gauge "mailsteer_config_ok" [] "1 while the config on disk is the one in force.";
    ReconcileAge Gauge "mailsteer_reconcile_age_seconds" [] "Seconds since the last full reconcile that ended well.";
    TableRepairs Counter "mailsteer_table_repairs_total" [] "How often the nftables table was changed by a stranger and mended.";
    GuardRepairs Counter "mailsteer_guard_repairs_total" [] "How often a stranger's program stood before the guard and the guard was put first again.";
    Unfollowed Counter "mailsteer_unfollowed_total" [] "Connections that could not be followed, so that what became of them is not counted.";
    ConntrackUsed Gauge "mailsteer_conntrack_used_ratio" [] "Share of the conntrack table in use, 0 to 1.";
    Streams Gauge "mailsteer_streams" ["stream", "mode"] "1 for the mode that a stream is in.";
    BuildInfo Gauge "mailsteer_build_info" ["version"] "Always 1; the version of the agent.";
    PoolEligible Gauge "mailsteer_pool_eligible" ["pool", "tier", "family"] "Sources of a pool that may serve.";
    Flips Counter "mailsteer_flips_total" ["stream", "cause"] "Changes of slots because a source stopped or started to be eligible.";
    SourceState Gauge "mailsteer_source_state" ["source", "state"] "1 for the state that a source is in.";
    SourceInfo Gauge "mailsteer_source_info" ["source", "public", "local", "pool"] "Always 1; the addresses and the pool of a source.";
    ProviderConnections Counter "mailsteer_provider_connections_total" ["provider", "outcome"] "Connections by who receives and what became of them.";
    Connections Counter "mailsteer_connections_total" ["stream", "source", "outcome"] "Connections by stream, source and what became of them.";
}

/// One series at the time of a scrape.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Which metric.
    pub metric: Metric,
    /// Values of its labels, in the table's order.
    pub labels: Vec<String>,
    /// Its value.
    pub value: f64,
}

/// Every series at the time of a scrape, as plain data.
pub type Snapshot = Vec<Sample>;

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
    let mut samples = source.snapshot();
    samples.sort_by_key(|sample| sample.metric);
    // One place is kept for the count itself.
    let left_out = samples.len().saturating_sub(MAX_SERIES - 1);
    samples.truncate(MAX_SERIES - 1);
    for group in samples.chunk_by(|a, b| a.metric == b.metric) {
        if let Some(first) = group.first() {
            registry.register(family(first.metric, group)?)?;
        }
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
    let values = |s: &Sample| s.labels.clone();
    if kind == Kind::Counter {
        let vec = CounterVec::new(opts, labels)?;
        for sample in samples {
            vec.get_metric_with_label_values(&values(sample))?.inc_by(sample.value.max(0.0));
        }
        return Ok(Box::new(vec));
    }
    let vec = GaugeVec::new(opts, labels)?;
    for sample in samples {
        vec.get_metric_with_label_values(&values(sample))?.set(sample.value);
    }
    Ok(Box::new(vec))
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
        let one = |metric: &Metric| Sample {
            metric: *metric,
            labels: metric.parts().2.iter().map(|l| format!("a-{l}")).collect(),
            value: 1.0,
        };
        let source: Arc<dyn MetricsSource> = Arc::new(Fixed(Metric::ALL.iter().map(one).collect()));
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

    #[test]
    fn what_is_too_much_is_left_out_and_counted() {
        let sample = |n: usize| Sample {
            metric: Metric::Connections,
            labels: vec!["s".into(), n.to_string(), "established".into()],
            value: 1.0,
        };
        let mut all: Snapshot = (0..MAX_SERIES).map(sample).collect();
        all.push(Sample { metric: Metric::WrongSource, labels: vec!["s".into()], value: 0.0 });
        let source: Arc<dyn MetricsSource> = Arc::new(Fixed(all));
        let text = render(&source).unwrap();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), MAX_SERIES);
        assert!(text.contains("mailsteer_series_left_out 2\n"));
        assert!(text.contains("mailsteer_wrong_source_total"), "the important stays");
    }
}
