//! What was counted, over reboots, as answers and metrics ask for it.
//!
//! Owns: the sums by name, and what they come to. Must not: read anything (`gather`), or add anything up: that is the
//! ledger's.

mod gather;
mod meters;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::view::SourceCounters;
use crate::state::{Growth, Name, Outcome};

pub(super) use gather::Gatherer;

/// What was counted, over reboots.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    sums: Arc<BTreeMap<Name, u64>>,
    /// By what is counted, over all sources, streams and providers.
    totals: Arc<BTreeMap<Outcome, u64>>,
    /// Connections that are open now, by public address: those of before a reboot never end.
    open: BTreeMap<IpAddr, u64>,
    /// Share of the conntrack table in use.
    pub(super) conntrack_used: Option<f64>,
    /// Packets of steered connections that left with a wrong address.
    pub(super) wrong: Growth,
    /// Those that bore one and were stopped, by the guard or by the table.
    pub(super) stopped: Growth,
    /// Counted by the table alone, for there is no eBPF: what it cannot see is not known.
    pub(super) partial: bool,
    /// What could not be read.
    pub(super) faults: Vec<String>,
}

/// Whose connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Pair<'a> {
    /// Public address; `None`: not steered.
    pub(super) source: Option<IpAddr>,
    /// Empty: matched by none.
    pub(super) stream: &'a str,
    /// Who receives.
    pub(super) provider: &'a str,
}

impl Counts {
    /// Whether anybody counts that: without eBPF there is the table alone.
    pub(super) const fn sees(&self, outcome: Outcome) -> bool {
        !self.partial || matches!(outcome, Outcome::Attempted | Outcome::Established | Outcome::Refused)
    }

    /// The sum over all sources, streams and providers.
    pub(super) fn total(&self, outcome: Outcome) -> u64 {
        self.totals.get(&outcome).copied().unwrap_or_default()
    }

    /// These sums instead; where they are the same as before, so are their totals.
    fn with_sums(self, sums: &Arc<BTreeMap<Name, u64>>, before: &Self) -> Self {
        let totals = if Arc::ptr_eq(sums, &before.sums) {
            Arc::clone(&before.totals)
        } else {
            let mut totals: BTreeMap<Outcome, u64> = BTreeMap::new();
            sums.iter().for_each(|(name, sum)| *totals.entry(name.outcome).or_default() += sum);
            Arc::new(totals)
        };
        Self { sums: Arc::clone(sums), totals, ..self }
    }

    /// Packets held, by reason; those of which there were none, too.
    pub(super) fn held(&self) -> BTreeMap<&'static str, u64> {
        let reasons = Outcome::ALL.iter().filter_map(|outcome| outcome.held());
        let mut held: BTreeMap<_, _> = reasons.map(|reason| (reason, 0)).collect();
        for (name, sum) in self.sums.iter() {
            if let Some(reason) = name.outcome.held() {
                *held.entry(reason).or_default() += sum;
            }
        }
        held
    }

    /// What the rules refused, by stream and reason.
    pub(super) fn refused(&self) -> BTreeMap<(&str, &'static str), u64> {
        let mut refused = BTreeMap::new();
        for (name, sum) in self.sums.iter() {
            if let Some(reason) = name.outcome.refused_for() {
                *refused.entry((&*name.stream, reason)).or_default() += sum;
            }
        }
        refused
    }

    /// Connections of which no SYN left, by stream. Those whose records were lost, or come in a moment, are local and
    /// of no stream.
    pub(super) fn untold(&self, outcome: Outcome) -> BTreeMap<&str, u64> {
        let mut told: BTreeMap<&str, u64> = BTreeMap::from([("", 0)]);
        for (name, sum) in self.sums.iter().filter(|(name, _)| name.outcome == outcome) {
            *told.entry(&name.stream).or_default() += sum;
        }
        if outcome == Outcome::Local {
            let known = self.total(Outcome::Local) + self.total(Outcome::Policy);
            *told.entry("").or_default() += self.total(Outcome::NotSent).saturating_sub(known);
        }
        told
    }

    /// What became of connections of which a SYN left.
    pub(super) fn pairs(&self) -> BTreeMap<Pair<'_>, BTreeMap<Outcome, u64>> {
        let mut pairs: BTreeMap<Pair<'_>, BTreeMap<Outcome, u64>> = BTreeMap::new();
        for (name, sum) in self.sums.iter().filter(|(name, _)| name.outcome <= Outcome::Retransmits) {
            let pair = Pair { source: name.source, stream: &name.stream, provider: &name.provider };
            pairs.entry(pair).or_default().insert(name.outcome, *sum);
        }
        pairs
    }

    /// A source's counters over all streams.
    pub(super) fn of_source(&self, public: IpAddr) -> SourceCounters {
        let open = self.open.get(&public).copied().unwrap_or_default();
        let mut counters = SourceCounters { open, partial: self.partial, ..SourceCounters::default() };
        let first = Name {
            source: Some(public),
            stream: Arc::default(),
            provider: Arc::default(),
            outcome: Outcome::Attempted,
        };
        let own = self.sums.range(first..).take_while(|(name, _)| name.source == Some(public));
        for (name, sum) in own {
            match name.outcome {
                Outcome::Attempted => counters.attempts += sum,
                Outcome::Established => counters.established += sum,
                Outcome::Refused => counters.refused += sum,
                Outcome::Unreachable => counters.unreachable += sum,
                Outcome::Reset => counters.reset += sum,
                Outcome::Unanswered => counters.unanswered += sum,
                Outcome::BytesOut => counters.bytes_out += sum,
                Outcome::BytesIn => counters.bytes_in += sum,
                _ => {}
            }
        }
        counters
    }

    /// As if this had been counted: source, stream, what, and how often.
    #[cfg(test)]
    pub(super) fn of<'a>(counted: impl IntoIterator<Item = (Option<IpAddr>, &'a str, Outcome, u64)>) -> Self {
        let sums = counted.into_iter().map(|(source, stream, outcome, sum)| {
            (Name { source, stream: stream.into(), provider: "other".into(), outcome }, sum)
        });
        Self::default().with_sums(&Arc::new(sums.collect()), &Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_yet_is_local_and_of_no_stream() {
        let counts = Counts::of([
            (None, "", Outcome::NotSent, 9),
            (None, "mail", Outcome::Local, 2),
            (None, "mail", Outcome::Policy, 4),
        ]);
        assert_eq!(counts.untold(Outcome::Local), BTreeMap::from([("", 3), ("mail", 2)]));
        assert_eq!(counts.untold(Outcome::Policy), BTreeMap::from([("", 0), ("mail", 4)]));
    }
}
