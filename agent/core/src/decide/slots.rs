//! How a lane's slots are shared out.
//!
//! Owns: the number of slots and who holds which. Shares are exact: with all sources eligible, every run of as
//! many slots as the weights add up to holds each source exactly as often as its weight says, evenly spread. When
//! a source falls out, only its own slots change hands, so that a flip is small and `sticky` keeps the
//! destinations of all others; and the number of slots never depends on who is eligible, so that a flip never
//! changes a rule. Must not: know why a source is eligible.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use ipnet::IpNet;

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

/// One of those among whom a lane's slots are shared out.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its weight, by which slots are its own.
    pub(super) weight: u32,
    /// Its weight among those who take what others lost; 0: takes none.
    pub(super) heir: u32,
    /// How many of its own slots it holds, in thousandths.
    pub(super) keeps: u16,
    /// What becomes of the others.
    pub(super) rest: Rest,
    /// The network that receivers take it for.
    pub(super) network: IpNet,
}

/// What becomes of slots that their owner does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// They move: a fact, or the operator's word.
    Moves,
    /// They move because of a belief: to other networks first, and to nobody more than the surge limit.
    Surges,
    /// They are refused.
    Refused,
    /// They are refused because of what was sent, whoever else could serve.
    Fused,
}

/// Who holds a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// This member.
    Member(usize),
    /// Nobody: it is refused.
    Nobody,
    /// Nobody: what its owner sent comes back.
    Fused,
}

/// Who holds which of `count` slots; `None` where nobody may hold any. `surge`: what a member holds at most when slots move
/// because of a belief, in thousandths of its own.
pub(super) fn share_out(count: u32, members: &[Member], surge: u32) -> Option<Vec<Holder>> {
    if members.iter().all(|member| member.keeps == 0 && member.heir == 0 && member.rest != Rest::Fused) {
        return None;
    }
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    let owners = |count: u32| Rota::new(&weights).take(count as usize);
    let mut own = vec![0_u32; members.len()];
    owners(count).for_each(|owner| own[owner] += 1);
    let mut hands = Hands::new(members, own, count, surge);
    Some(owners(count).map(|owner| hands.deal(owner)).collect())
}

/// Slots, while they are dealt out.
struct Hands<'a> {
    members: &'a [Member],
    /// How many are whose.
    own: Vec<u32>,
    /// How many of its own each was asked for.
    asked: Vec<u32>,
    /// How many more each may take because of beliefs, and how many it took.
    room: Vec<u32>,
    taken: Vec<u32>,
    heirs: Rota,
}

impl<'a> Hands<'a> {
    fn new(members: &'a [Member], own: Vec<u32>, count: u32, surge: u32) -> Self {
        let heirs: Vec<u32> = members.iter().map(|member| member.heir).collect();
        let all: u64 = heirs.iter().map(|&heir| u64::from(heir)).sum();
        let room = |(member, &own): (&Member, &u32)| match member.heir {
            0 => 0,
            // A spare has nothing of its own: it may take its part of everything.
            heir if own == 0 => u32::try_from(u64::from(count) * u64::from(heir) / all).unwrap_or(count),
            _ => {
                u32::try_from(u64::from(own) * u64::from(surge.saturating_sub(1000)) / 1000).unwrap_or(count)
            }
        };
        let room = members.iter().zip(&own).map(room).collect();
        let none = vec![0; members.len()];
        Self { members, own, asked: none.clone(), room, taken: none, heirs: Rota::new(&heirs) }
    }

    /// Who holds the next slot of this owner.
    fn deal(&mut self, owner: usize) -> Holder {
        let (nth, all) = (u64::from(self.asked[owner]), u64::from(self.own[owner]));
        self.asked[owner] += 1;
        let member = &self.members[owner];
        let kept = (all * u64::from(member.keeps)).div_ceil(1000);
        // Evenly spread over its own.
        if (nth + 1) * kept / all > nth * kept / all {
            return Holder::Member(owner);
        }
        let heir = match member.rest {
            Rest::Moves => self.heirs.next(),
            Rest::Surges => self.surge(member.network),
            Rest::Refused => None,
            Rest::Fused => return Holder::Fused,
        };
        heir.map_or(Holder::Nobody, Holder::Member)
    }

    /// Who takes a slot because of a belief: who took least for its weight, in another network if there is one with room.
    fn surge(&mut self, network: IpNet) -> Option<usize> {
        let load = |&a: &usize, &b: &usize| {
            let (here, there) = (u64::from(self.taken[a] + 1), u64::from(self.taken[b] + 1));
            (here * u64::from(self.members[b].heir))
                .cmp(&(there * u64::from(self.members[a].heir)))
                .then(a.cmp(&b))
        };
        let open = |index: &usize| self.members[*index].heir > 0 && self.taken[*index] < self.room[*index];
        let elsewhere = |index: &usize| self.members[*index].network != network;
        let all = 0..self.members.len();
        let heir = all.clone().filter(open).filter(elsewhere).min_by(load);
        let heir = heir.or_else(|| all.filter(open).min_by(load))?;
        self.taken[heir] += 1;
        Some(heir)
    }
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

    fn counts(slots: &[Holder], sources: usize) -> Vec<u32> {
        let mut counts = vec![0; sources];
        for slot in slots {
            if let Holder::Member(index) = slot {
                counts[*index] += 1;
            }
        }
        counts
    }

    /// Each in a network of its own.
    fn members(weights: &[u32], eligible: &[bool]) -> Vec<Member> {
        let member = |(index, (&weight, &eligible)): (usize, (&u32, &bool))| Member {
            weight,
            heir: if eligible { weight } else { 0 },
            keeps: if eligible { 1000 } else { 0 },
            rest: Rest::Moves,
            network: format!("192.0.{index}.0/24").parse().unwrap(),
        };
        weights.iter().zip(eligible).enumerate().map(member).collect()
    }

    fn share(count: u32, weights: &[u32], eligible: &[bool]) -> Option<Vec<Holder>> {
        share_out(count, &members(weights, eligible), 1500)
    }

    fn isolate(members: &mut [Member], index: usize, keeps: u16) {
        let member = &mut members[index];
        (member.heir, member.keeps, member.rest) = (0, keeps, Rest::Surges);
    }

    #[test]
    fn a_belief_moves_half_of_a_share_more_to_each_sibling_and_no_more() {
        let mut two = members(&[1, 1], &[true, true]);
        isolate(&mut two, 0, 0);
        assert_eq!(counts(&share_out(60, &two, 1500).unwrap(), 2), [0, 45]);
        let mut four = members(&[1; 4], &[true; 4]);
        isolate(&mut four, 0, 0);
        assert_eq!(counts(&share_out(60, &four, 1500).unwrap(), 4), [0, 20, 20, 20]);
        isolate(&mut four, 1, 0);
        assert_eq!(counts(&share_out(60, &four, 1500).unwrap(), 4), [0, 0, 22, 22]);
    }

    #[test]
    fn a_belief_moves_to_another_network_first() {
        let mut three = members(&[1; 3], &[true; 3]);
        three[1].network = three[0].network;
        isolate(&mut three, 0, 0);
        assert_eq!(counts(&share_out(60, &three, 1500).unwrap(), 3), [0, 30, 30]);
        assert_eq!(counts(&share_out(60, &three, 2000).unwrap(), 3), [0, 20, 40]);
    }

    #[test]
    fn who_is_on_its_way_back_holds_a_little_of_its_own() {
        let mut four = members(&[1; 4], &[true; 4]);
        isolate(&mut four, 2, 100);
        assert_eq!(counts(&share_out(400, &four, 1500).unwrap(), 4), [130, 130, 10, 130]);
        isolate(&mut four, 2, 1);
        assert_eq!(counts(&share_out(60, &four, 1500).unwrap(), 4)[2], 1, "one slot at least");
    }

    #[test]
    fn what_may_not_move_is_refused() {
        let mut two = members(&[1, 1], &[true, true]);
        isolate(&mut two, 0, 0);
        two[0].rest = Rest::Refused;
        assert_eq!(counts(&share_out(60, &two, 1500).unwrap(), 2), [0, 30]);
    }

    #[test]
    fn weights_of_three_to_one_are_spread_and_not_in_blocks() {
        let slots = share(8, &[3, 1], &[true, true]).unwrap();
        assert_eq!(slots, [0, 0, 1, 0, 0, 0, 1, 0].map(Holder::Member));
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
        assert_eq!(share(60, &[1, 1], &[false, false]), None);
        assert_eq!(share(60, &[0, 0], &[false, false]), None);
    }

    proptest! {
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..20, 1..12)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let count = slot_count(&weights);
            let total: u32 = weights.iter().sum();
            let slots = share(count, &weights, &vec![true; weights.len()]).unwrap();
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
            let before = share(count, &weights, &vec![true; weights.len()]).unwrap();
            let after = share(count, &weights, &eligible).unwrap();
            for (was, is) in before.iter().zip(&after) {
                let (Holder::Member(was), Holder::Member(is)) = (was, is) else { panic!("a slot is nobody's") };
                prop_assert!(eligible[*is]);
                prop_assert!(!eligible[*was] || was == is);
            }
        }

        #[test]
        fn any_run_is_even_for_two(weights in (1_u32..9, 1_u32..9), run in 1_usize..200) {
            let weights = [weights.0, weights.1];
            let slots = share(slot_count(&weights), &weights, &[true, true]).unwrap();
            let held = slots.iter().cycle().take(run).filter(|&&holder| holder == Holder::Member(0)).count();
            let total = f64::from(weights[0] + weights[1]);
            let expected = f64::from(u32::try_from(run).unwrap()) * f64::from(weights[0]) / total;
            prop_assert!((f64::from(u32::try_from(held).unwrap()) - expected).abs() <= 1.0);
        }
    }
}
