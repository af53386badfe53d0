//! Our marks beside the marks of others: can a question about a mark be answered by one of ours?
//!
//! Owns: that arithmetic. The layout is that of docs/architecture.md, "The mark". Must not: know programs.

use std::ops::RangeInclusive;

use super::firewall::MarkTest;
use crate::config::Config;

/// First byte of a mark that a steered connection bears.
const FIRST_BYTE: u32 = 0x4d;
/// First bytes of ours: of a mark, of a slot key, and of a mark that a cgroup match sets.
const FIRST_BYTES: [u32; 3] = [FIRST_BYTE, 0x4e, 0x4c];
/// All that fit into the mark.
const MOST: Marks = Marks { uplinks: 15, lanes: 255, sources: 4079 };

/// The routing tables of ours: the fallback, and one for each uplink.
pub const TABLES: RangeInclusive<u32> = 19_712..=19_727;
/// Preferences of our rules that come before the main table: replies, then uplinks.
pub const PREFERENCES: RangeInclusive<u32> = 20_000..=20_115;
/// Preference of our rules that come after it.
pub const FALLBACK: u32 = 32_770;

/// How far the numbers in our marks go; each counts from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    uplinks: u32,
    lanes: u32,
    sources: u32,
}

impl Marks {
    /// Of a config; without one, all that fit. Twice as many sources and lanes as there are now, since a number is
    /// not given again at once.
    pub(super) fn of(config: Option<&Config>, uplinks: usize) -> Self {
        let Some(config) = config else { return MOST };
        let count = |n: usize, most: u32| u32::try_from(n).unwrap_or(most).clamp(1, most);
        let sources = config.pools.values().map(|pool| pool.sources.len()).sum::<usize>();
        Self {
            uplinks: count(config.uplinks.len().max(uplinks), MOST.uplinks),
            lanes: count(config.streams.len() * 2, MOST.lanes),
            sources: count(sources * 2, MOST.sources),
        }
    }

    /// Whether some mark of a steered connection has this value under this mask.
    pub(super) fn can_be(self, value: u32, mask: u32) -> bool {
        let field = |shift: u32, bits: u32, mut numbers: RangeInclusive<u32>| {
            let (value, mask) = ((value >> shift) & bits, (mask >> shift) & bits);
            numbers.any(|number| number & mask == value)
        };
        value & !mask == 0
            && field(24, 0xff, FIRST_BYTE..=FIRST_BYTE)
            && field(20, 0xf, 1..=self.uplinks)
            && field(12, 0xff, 1..=self.lanes)
            && field(0, 0xfff, 1..=self.sources)
    }

    /// Whether some mark of ours answers the question.
    pub(super) fn can_answer(self, test: MarkTest) -> bool {
        // To be anything but one value is easy for ours, unless nothing at all is asked.
        if test.inverted { test.mask != 0 } else { self.can_be(test.value, test.mask) }
    }
}

/// Whether a mark that others set would be taken for one of ours: they must not use our first bytes.
pub(super) fn poses_as_ours(value: u32, mask: u32) -> bool {
    mask & 0xff00_0000 == 0xff00_0000 && FIRST_BYTES.contains(&(value >> 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Marks = Marks { uplinks: 2, lanes: 4, sources: 8 };

    #[test]
    fn marks_of_others_beside_ours() {
        let cases = [
            // What asks, and whether a small and a full config can answer.
            ("Tailscale: uplink 0, which no mark of a source has", 0x0008_0000, 0x00ff_0000, false, false),
            ("kube-proxy, masquerade", 0x4000, 0x4000, true, true),
            ("kube-proxy, drop", 0x8000, 0x8000, false, true),
            ("mwan3", 0x0100, 0x3f00, false, true),
            ("wg-quick", 0xca6c, u32::MAX, false, false),
            ("our own", 0x4d10_0000, 0xfff0_0000, true, true),
            ("uplink 3 of ours", 0x4d30_0000, 0xfff0_0000, false, true),
            ("anything", 0, 0, true, true),
            ("a value beyond its mask", 0x1, 0x0, false, false),
        ];
        for (who, value, mask, small, full) in cases {
            assert_eq!(SMALL.can_be(value, mask), small, "{who}, small");
            assert_eq!(MOST.can_be(value, mask), full, "{who}, full");
        }
    }

    #[test]
    fn only_our_first_bytes_pose_as_ours() {
        assert!(poses_as_ours(0x4d00_0001, u32::MAX));
        assert!(!poses_as_ours(0x4d00_0001, 0xffff));
        assert!(!poses_as_ours(0x5d00_0001, u32::MAX));
    }
}
