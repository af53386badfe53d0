//! How long something took, as Prometheus keeps it: how often it took at most so long, for a few bounds.
//!
//! Owns: counting into the bounds, and their way into a scrape. Must not: know what took so long. The library's own histogram
//! counts where it is registered; ours are plain data, taken as they are at a scrape.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

/// Bounds of a handshake, in seconds. Those below 1 tell near from far; the others tell how often a SYN was sent: again after 1, 3,
/// 7, 15 and 31 s (Linux' `TCP_TIMEOUT_INIT`, doubled each time; RFC 6298 sections 2 and 5).
pub const BOUNDS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// How many series one is: its bounds, no bound, the sum and the count.
pub(super) const SERIES: usize = BOUNDS.len() + 3;

/// One histogram.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Those above the bound before and not above this one.
    counts: [u64; BOUNDS.len()],
    above: u64,
    /// Seconds.
    sum: f64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.sum += seconds;
        match BOUNDS.iter().position(|bound| seconds <= *bound) {
            Some(place) => self.counts[place] += 1,
            None => self.above += 1,
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    fn told(&self) -> proto::Histogram {
        let mut below = 0;
        let buckets = BOUNDS.iter().zip(self.counts).map(|(bound, count)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut told = proto::Histogram::default();
        told.set_bucket(buckets.collect());
        told.set_sample_count(self.count());
        told.set_sample_sum(self.sum);
        told
    }
}

/// The histograms of one metric, each with the values of its labels.
pub(super) struct Histograms {
    desc: Desc,
    labels: &'static [&'static str],
    each: Vec<(Vec<String>, Histogram)>,
}

impl Histograms {
    pub(super) fn new(
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        each: Vec<(Vec<String>, Histogram)>,
    ) -> Result<Self, prometheus::Error> {
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, Default::default())?;
        if let Some((values, _)) = each.iter().find(|(values, _)| values.len() != labels.len()) {
            return Err(prometheus::Error::InconsistentCardinality {
                expect: labels.len(),
                got: values.len(),
            });
        }
        Ok(Self { desc, labels, each })
    }
}

impl Collector for Histograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.each.iter().map(|(values, histogram)| {
            let pairs = self.labels.iter().zip(values).map(|(label, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*label).to_owned());
                pair.set_value(value.clone());
                pair
            });
            let mut metric = proto::Metric::from_label(pairs.collect());
            metric.set_histogram(histogram.told());
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_those_below_it_and_each_counts_those_before() {
        let mut histogram = Histogram::default();
        for milliseconds in [1, 10, 11, 1_000, 1_043, 3_060, 32_000, 33_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let told = histogram.told();
        let below: Vec<_> =
            told.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count())).collect();
        let wanted = [2, 3, 3, 3, 3, 3, 4, 5, 6, 6, 6, 7];
        assert_eq!(below, BOUNDS.into_iter().zip(wanted).collect::<Vec<_>>());
        assert_eq!((histogram.count(), told.get_sample_count()), (8, 8));
        assert!((told.get_sample_sum() - 70.125).abs() < 1e-9, "{}", told.get_sample_sum());
    }
}
