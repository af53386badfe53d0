//! What is known of addresses, and by whom: replies and logs, DNS lists, the DNS, names of receivers, feeds; and who is told.
//!
//! Owns: which sample each of these becomes. Must not: count, as its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::signal::dns::{Checked, Outcome as Verdict};
use mailsteer_core::signal::reply::Class;

use super::Samples;
use crate::daemon::learner;
use crate::daemon::shared::{Published, Shared};
use crate::telemetry::metrics::Metric;

impl Samples {
    pub(super) fn replies(&mut self, shared: &Shared, published: &Published) {
        let heard = shared.outcomes.heard();
        for stream in &published.world.config().streams {
            let blown = published.world.fuses().filter(|(of, ..)| *of == stream.name).count();
            self.count(Metric::FuseBlown, &[&stream.name], u64::try_from(blown).unwrap_or(u64::MAX));
        }
        // From 0 on: an increase from nothing is none to Prometheus.
        for (provider, _) in published.world.config().all_providers() {
            for class in Class::ALL {
                let replies = heard.replies.get(&(provider.to_owned(), class)).copied().unwrap_or_default();
                self.count(Metric::Replies, &[provider, &class.to_string()], replies);
            }
        }
        self.count(Metric::Unjoined, &["ambiguous"], heard.ambiguous);
        self.count(Metric::Unjoined, &["unknown"], heard.unknown);
        for (name, now) in shared.logs() {
            // Before the first look nothing is known of it.
            if let Some(up) = now.up {
                self.add(Metric::LogUp, &[&name], f64::from(u8::from(up)));
            }
            let counts = heard.logs.get(&name).map(|log| log.counts).unwrap_or_default();
            self.count(Metric::LogLines, &[&name], counts.lines);
            self.count(Metric::LogMissed, &[&name], counts.missed);
            for (why, lines) in counts.odd() {
                self.count(Metric::LogOdd, &[&name, why], lines);
            }
            if let Some(behind) = now.behind {
                self.count(Metric::LogBehind, &[&name], behind);
            }
        }
    }

    pub(super) fn lists(&mut self, shared: &Shared, published: &Published) {
        let lists = shared.lists();
        for list in lists.iter() {
            // Before its first round nothing is known of it.
            if list.standing.tested || list.standing.aside.is_some() {
                let up = f64::from(u8::from(list.standing.aside.is_none()));
                self.add(Metric::ListUp, &[&list.name], up);
            }
            for answer in ["clean", "listed", "unknown"] {
                let count = list.standing.answers.get(answer).copied().unwrap_or_default();
                self.count(Metric::ListAnswers, &[&list.name, answer], count);
            }
        }
        if lists.is_empty() {
            return;
        }
        let sources: BTreeMap<&str, IpAddr> =
            published.world.pool_sources().map(|source| (source.name.as_str(), source.public)).collect();
        for (name, public) in sources {
            let on = lists.iter().filter(|list| list.listed.contains(&public)).count();
            self.count(Metric::SourceListed, &[name], u64::try_from(on).unwrap_or(u64::MAX));
        }
    }

    /// What is unknown has no series.
    pub(super) fn dns(&mut self, shared: &Shared) {
        let report = shared.dns();
        let of = |name: &str, checks: &[Checked], metric: Metric, samples: &mut Self| {
            for checked in checks.iter().filter(|checked| checked.outcome != Verdict::Unknown) {
                let holds = f64::from(u8::from(checked.outcome == Verdict::Ok));
                samples.add(metric, &[name, checked.check.as_str()], holds);
            }
        };
        report.sources.iter().for_each(|row| of(&row.name, &row.checks, Metric::DnsCheck, self));
        report.domains.iter().for_each(|row| of(&row.name, &row.checks, Metric::DnsDomainCheck, self));
    }

    pub(super) fn hooks(&mut self, shared: &Shared) {
        for (hook, counted) in shared.hooks.counted() {
            // From 0 on: an increase from nothing is none to Prometheus.
            for (result, count) in counted.each() {
                self.count(Metric::HookDeliveries, &[&hook, result], count);
            }
        }
    }

    pub(super) fn receivers(&mut self, shared: &Shared, published: &Published) {
        let known = &published.decision.desired.receivers;
        for provider in published.world.config().providers.iter().filter(|provider| provider.named) {
            let addresses = known.get(&provider.name).map_or(0, std::collections::BTreeSet::len);
            self.count(Metric::Receivers, &[&provider.name], u64::try_from(addresses).unwrap_or(u64::MAX));
        }
        let Some(standing) = shared.learning() else { return };
        self.count(Metric::ReceiversDisputed, &[], u64::try_from(standing.conflicts).unwrap_or(u64::MAX));
        self.count(Metric::NamesRefused, &[], standing.refused);
        self.flag(Metric::NamesUp, learner::fault(&standing).is_none());
    }

    pub(super) fn feeds(&mut self, shared: &Shared, published: &Published) {
        let up = shared.feeds_up();
        for (feed, is_up) in &up {
            self.add(Metric::FeedUp, &[feed], f64::from(u8::from(*is_up)));
        }
        if up.is_empty() {
            return;
        }
        let mut bad: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, source, _) in published.world.bad_words() {
            *bad.entry(source).or_default() += 1;
        }
        let names: BTreeSet<&str> =
            published.world.pool_sources().map(|source| source.name.as_str()).collect();
        for name in names {
            self.count(Metric::FeedBad, &[name], bad.get(name).copied().unwrap_or_default());
        }
    }
}
