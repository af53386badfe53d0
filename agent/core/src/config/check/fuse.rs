//! The fuse: from which share on a stream's mail is stopped.

use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::numbers::whole;
use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::At;
use crate::config::settings::Fuse;

/// One bounce of one attempt is no share; more than a day's mail of the largest senders is never reached.
const ATTEMPTS: RangeInclusive<i64> = 10..=10_000_000;
/// An hour to a week.
const HOURS: RangeInclusive<i64> = 1..=168;

/// What `[fuse]` says.
pub(super) fn fuse(raw: &RawConfig, problems: &mut Vec<Problem>) -> Fuse {
    let default = Fuse::default();
    let Some(written) = raw.fuse.as_ref().map(|fuse| &fuse.value) else { return default };
    let bounces = share(written.bounces.as_ref(), default.bounces, "bounces", problems);
    let blocks = share(written.blocks.as_ref(), default.blocks, "blocks", problems);
    let complaints = share(written.complaints.as_ref(), default.complaints, "complaints", problems);
    let attempts =
        whole(written.attempts.as_ref(), ATTEMPTS, 200, ("attempts", code::FUSE_INVALID), problems);
    let hours =
        whole(written.window_hours.as_ref(), HOURS, 24, ("window_hours", code::FUSE_INVALID), problems);
    Fuse {
        bounces,
        blocks,
        complaints,
        attempts: u64::try_from(attempts).unwrap_or(default.attempts),
        window: SignedDuration::from_hours(hours),
    }
}

/// A share as written, in millionths.
fn share(written: Option<&At<f64>>, default: u32, key: &str, problems: &mut Vec<Problem>) -> u32 {
    let Some(written) = written else { return default };
    if written.value > 0.0 && written.value <= 1.0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be small and positive"
        )]
        return ((written.value * 1e6).round() as u32).max(1);
    }
    problems.push(
        Problem::error(code::FUSE_INVALID, format!("`{key}` cannot be {}", written.value))
            .at(&written.span, "above 0, up to 1")
            .help("Write a share: 0.05 is 5 %. 1 never blows before all of it fails."),
    );
    default
}
