//! What becomes of a connection: the simulated internet.
//!
//! Owns: the truth, of which the agent sees only signs. Must not: know the agent.

use fastrand::Rng;
use mailsteer_core::model::Sign;

use super::spec::{How, Spec, What};

/// From a SYN to its answer.
const ROUND_TRIP: i64 = 20;
/// Linux sends the second SYN after so long, and the third after three times that (before 6.5).
const AGAIN: i64 = 1_000;
/// The agent waits as long for the answer to the second.
const DOUBT: i64 = 300;

/// What is seen of one connection, and when after its begin.
pub(crate) type Signs = Vec<(i64, Sign)>;

/// Begins a connection from a source to a receiver.
pub(crate) fn connect(
    spec: &Spec,
    rng: &mut Rng,
    at: i64,
    source: usize,
    (provider, receiver): (usize, usize),
) -> Signs {
    if let Some(how) = failure(spec, at, source, provider, receiver) {
        return fails(spec, how);
    }
    let refused = sum(spec, at, |what| if let What::Refusals(rate) = what { *rate } else { 0 });
    if rng.u32(0..1_000) < refused {
        return fails(spec, How::Refused);
    }
    let rate = sum(spec, at, |what| if let What::Loss(rate) = what { *rate } else { 0 });
    // A SYN or its answer is lost.
    let lost = |rng: &mut Rng| rng.u32(0..1_000) < rate || rng.u32(0..1_000) < rate;
    let mut signs = Vec::new();
    let mut tries = 0;
    let mut answered = ROUND_TRIP;
    while lost(rng) && tries < 4 {
        tries += 1;
        answered = AGAIN * ((1 << tries) - 1) + ROUND_TRIP;
    }
    if tries > 1 {
        signs.push((AGAIN + DOUBT, Sign::Silent));
    }
    if tries < 4 {
        signs.push((answered, Sign::Established));
    }
    signs
}

/// What a probe comes to.
pub(crate) fn probe(spec: &Spec, rng: &mut Rng, at: i64, source: usize, to: (usize, usize)) -> (i64, Sign) {
    let signs = connect(spec, rng, at, source, to);
    match signs.last() {
        Some((after, Sign::Established)) => (*after, Sign::ProbeGreeted),
        Some((after, sign)) => ((*after).max(10_000), Sign::ProbeFailed { why: format!("{sign:?}") }),
        None => (10_000, Sign::ProbeFailed { why: "no answer".into() }),
    }
}

fn fails(spec: &Spec, how: How) -> Signs {
    let later = ROUND_TRIP + spec.greets_after;
    match how {
        How::Silent => vec![(AGAIN + DOUBT, Sign::Silent)],
        How::Refused => vec![(ROUND_TRIP, Sign::Refused)],
        How::Unreachable => vec![(ROUND_TRIP, Sign::Unreachable)],
        How::Reset => vec![(ROUND_TRIP, Sign::Established), (later, Sign::Reset)],
        How::Greeted => greets(later, 554, "5.7.1 blocked"),
        How::Deferred => greets(later, 421, "4.7.0 too many connections"),
    }
}

fn greets(later: i64, code: u16, text: &str) -> Signs {
    let said = Sign::Said { code, text: text.into(), greeting: true };
    vec![(ROUND_TRIP, Sign::Established), (later, said)]
}

/// How a connection that begins now fails, if it does; random loss aside.
fn failure(spec: &Spec, at: i64, source: usize, provider: usize, receiver: usize) -> Option<How> {
    let meets = |what: &What| match *what {
        What::Source { source: of, provider: there, how } => {
            (of == source && there.is_none_or(|there| there == provider)).then_some(how)
        }
        What::Network { network, provider: there, how } => {
            (spec.sources[source].network == network && there == provider).then_some(how)
        }
        What::Half { provider: there, how } => (source.is_multiple_of(2) && there == provider).then_some(how),
        What::Receiver { provider: there, receiver: one } => {
            ((there, one) == (provider, receiver)).then_some(How::Silent)
        }
        What::Provider { provider: there, how } => (there == provider).then_some(how),
        What::Uplink(uplink) | What::Link(uplink) => {
            (spec.sources[source].uplink == uplink).then_some(How::Silent)
        }
        What::Address(of) => (of == source).then_some(How::Silent),
        What::Loss(_) | What::Refusals(_) | What::Stall | What::Clock(_) | What::NoTraffic => None,
    };
    spec.faults.iter().filter(|fault| fault.is_on(at)).find_map(|fault| meets(&fault.what))
}

/// What all faults of now add up to.
fn sum(spec: &Spec, at: i64, of: impl Fn(&What) -> u32) -> u32 {
    spec.faults.iter().filter(|fault| fault.is_on(at)).map(|fault| of(&fault.what)).sum()
}

/// Whether a source was at fault at a provider at some time from `since` to `until`: not only a receiver, and not the
/// whole provider.
pub(crate) fn was_guilty(
    spec: &Spec,
    source: usize,
    provider: Option<usize>,
    since: i64,
    until: i64,
) -> bool {
    let own = |what: &What| match *what {
        What::Source { source: of, provider: there, .. } => {
            of == source && (there.is_none() || provider.is_none() || there == provider)
        }
        What::Network { network, provider: there, .. } => {
            spec.sources[source].network == network && (provider.is_none() || provider == Some(there))
        }
        What::Half { provider: there, .. } => {
            source.is_multiple_of(2) && (provider.is_none() || provider == Some(there))
        }
        What::Uplink(uplink) | What::Link(uplink) => spec.sources[source].uplink == uplink,
        What::Address(of) => of == source,
        _ => false,
    };
    spec.faults.iter().any(|fault| fault.from <= until && fault.until >= since && own(&fault.what))
}

/// Whether connections failed at random at some time from `since` to `until`.
pub(crate) fn was_noisy(spec: &Spec, since: i64, until: i64) -> bool {
    let noisy = |what: &What| matches!(what, What::Loss(_) | What::Refusals(_));
    spec.faults.iter().any(|fault| fault.from <= until && fault.until >= since && noisy(&fault.what))
}

/// Whether a provider greeted everybody with 554 at some time from `since` to `until`.
pub(crate) fn turned_away(spec: &Spec, provider: usize, since: i64, until: i64) -> bool {
    let all = |what: &What| *what == What::Provider { provider, how: How::Greeted };
    spec.faults.iter().any(|fault| fault.from <= until && fault.until >= since && all(&fault.what))
}
