//! How a lane's slots are shared out.
//!
//! Owns: the number of slots and who holds which. Shares are exact: with all sources eligible, every run of as
//! many slots as the weights add up to holds each source exactly as often as its weight says, evenly spread. When
//! a source falls out, only its own slots change hands, so that a flip is small and `sticky` keeps the
//! destinations of all others; and the number of slots never depends on who is eligible, so that a flip never
//! changes a rule. Must not: know why a source is eligible.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Most slots that a lane may have for one family. The kernel draws from any number equally fast; what grows is
/// the time to load them (measured: 262,144 elements in 1.2 s).
pub const MAX_SLOTS: u32 = 4096;

/// A lane has a multiple of this many slots where that fits, so that up to six equal survivors of a flip still
/// have exactly equal shares.
const SPREAD: u32 = 60;

/// How many slots serve these weights: a multiple of their reduced sum, or [`MAX_SLOTS`] where that is larger and
/// shares are rounded.
#[must_use]
pub fn slot_count(weights: &[u32]) -> u32 {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight));
    if divisor == 0 {
        return 1;
    }
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
    let Ok(sum) = u32::try_from(sum) else { return MAX_SLOTS };
    if sum > MAX_SLOTS {
        return MAX_SLOTS;
    }
    let spread = sum / gcd(sum, SPREAD) * SPREAD;
    if spread <= MAX_SLOTS { spread } else { sum * (MAX_SLOTS / sum) }
}

/// The number of slots that serves both tiers of a pool: exact for both where that fits, for the primary else.
pub(super) fn slot_count_of_tiers(primary: &[u32], spare: &[u32]) -> u32 {
    let first = slot_count(primary);
    let second = slot_count(spare);
    let both = u64::from(first / gcd(first, second)) * u64::from(second);
    u32::try_from(both).ok().filter(|&both| both <= MAX_SLOTS).unwrap_or(first)
}

/// Who holds which of `count` slots: an index into `weights` each. `eligible` says who may hold any; `None` where
/// nobody may.
pub(super) fn share_out(count: u32, weights: &[u32], eligible: &[bool]) -> Option<Vec<usize>> {
    let of_eligible = |index: usize| if eligible[index] { weights[index] } else { 0 };
    let survivors: Vec<u32> = (0..weights.len()).map(of_eligible).collect();
    if survivors.iter().all(|&weight| weight == 0) {
        return None;
    }
    let mut heirs = Rota::new(&survivors);
    let heir = |holder: usize| if eligible[holder] { Some(holder) } else { heirs.next() };
    Rota::new(weights).take(count as usize).map(heir).collect()
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An endless, evenly spread sequence in which each index comes as often as its weight says.
struct Rota(BinaryHeap<Reverse<Turn>>);

/// The `n`th turn of an index falls due at `(2n + 1) / (2 * weight)`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Turn {
    odd: u64,
    weight: u32,
    index: usize,
}

impl Rota {
    fn new(weights: &[u32]) -> Self {
        let turn =
            |(index, &weight): (usize, &u32)| (weight > 0).then_some(Reverse(Turn { odd: 1, weight, index }));
        Self(weights.iter().enumerate().filter_map(turn).collect())
    }
}

impl Iterator for Rota {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let Reverse(turn) = self.0.pop()?;
        self.0.push(Reverse(Turn { odd: turn.odd + 2, ..turn }));
        Some(turn.index)
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let here = u128::from(self.odd) * u128::from(other.weight);
        let there = u128::from(other.odd) * u128::from(self.weight);
        here.cmp(&there).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(slots: &[usize], sources: usize) -> Vec<u32> {
        let mut counts = vec![0; sources];
        slots.iter().for_each(|&index| counts[index] += 1);
        counts
    }

    #[test]
    fn weights_of_three_to_one_are_spread_and_not_in_blocks() {
        let slots = share_out(8, &[3, 1], &[true, true]).unwrap();
        assert_eq!(slots, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn numbers_of_slots() {
        assert_eq!(slot_count(&[1, 1, 1, 1]), 60);
        assert_eq!(slot_count(&[2, 2]), 60);
        assert_eq!(slot_count(&[1; 7]), 420);
        assert_eq!(slot_count(&[1; 1024]), 4096);
        assert_eq!(slot_count(&[1; 1000]), 3000);
        assert_eq!(slot_count(&[0, 0]), 1);
        assert_eq!(slot_count(&[9_999, 1]), MAX_SLOTS);
        assert_eq!(slot_count_of_tiers(&[1; 7], &[1; 4]), 420);
    }

    #[test]
    fn nobody_eligible_means_no_slots() {
        assert_eq!(share_out(60, &[1, 1], &[false, false]), None);
        assert_eq!(share_out(60, &[0, 0], &[true, true]), None);
    }

    proptest! {
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..20, 1..12)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let count = slot_count(&weights);
            let total: u32 = weights.iter().sum();
            let slots = share_out(count, &weights, &vec![true; weights.len()]).unwrap();
            for (index, held) in counts(&slots, weights.len()).into_iter().enumerate() {
                prop_assert_eq!(u64::from(held) * u64::from(total), u64::from(count) * u64::from(weights[index]));
            }
        }

        #[test]
        fn a_flip_moves_only_what_fell_out(
            weights in prop::collection::vec(1_u32..20, 2..12),
            fallen in prop::collection::vec(any::<bool>(), 12),
        ) {
            let eligible: Vec<bool> = (0..weights.len()).map(|index| !fallen[index]).collect();
            prop_assume!(eligible.contains(&true));
            let count = slot_count(&weights);
            let before = share_out(count, &weights, &vec![true; weights.len()]).unwrap();
            let after = share_out(count, &weights, &eligible).unwrap();
            for (was, is) in before.iter().zip(&after) {
                prop_assert!(eligible[*is]);
                prop_assert!(!eligible[*was] || was == is);
            }
        }

        #[test]
        fn any_run_is_even_for_two(weights in (1_u32..9, 1_u32..9), run in 1_usize..200) {
            let weights = [weights.0, weights.1];
            let slots = share_out(slot_count(&weights), &weights, &[true, true]).unwrap();
            let held = slots.iter().cycle().take(run).filter(|&&index| index == 0).count();
            let total = f64::from(weights[0] + weights[1]);
            let expected = f64::from(u32::try_from(run).unwrap()) * f64::from(weights[0]) / total;
            prop_assert!((f64::from(u32::try_from(held).unwrap()) - expected).abs() <= 1.0);
        }
    }
}
