//! What a belief may do.

use std::ops::RangeInclusive;

use super::numbers::whole;
use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::At;
use crate::config::settings::Safety;

/// More flips than there are sources would be none.
const FLIPS: RangeInclusive<i64> = 0..=1000;
/// One failure is a receiver's bad moment; of more than the window holds none would ever isolate.
const FAILURES: RangeInclusive<i64> = 2..=20;
/// A day at most, as the doubled ones.
const MINUTES: RangeInclusive<i64> = 1..=1440;

pub(super) fn safety(raw: &RawConfig, problems: &mut Vec<Problem>) -> Safety {
    let default = Safety::default();
    let Some(written) = raw.safety.as_ref().map(|safety| &safety.value) else { return default };
    let mut number = |written: Option<&At<i64>>, range: RangeInclusive<i64>, default: u32, key: &str| {
        let number = whole(written, range, default.into(), (key, code::SAFETY_INVALID), problems);
        u32::try_from(number).unwrap_or(default)
    };
    let flips_per_day = number(written.flips_per_day.as_ref(), FLIPS, default.flips_per_day, "flips_per_day");
    let failures = number(written.failures.as_ref(), FAILURES, default.failures, "failures");
    let silent_minutes =
        number(written.silent_minutes.as_ref(), MINUTES, default.silent_minutes, "silent_minutes");
    let refused_minutes =
        number(written.refused_minutes.as_ref(), MINUTES, default.refused_minutes, "refused_minutes");
    Safety {
        flips_per_day,
        surge: share(written.surge.as_ref(), default.surge, (1.0, 10.0), "surge", problems),
        brake: share(written.brake.as_ref(), default.brake, (0.0, 1.0), "brake", problems),
        failures,
        silent_minutes,
        refused_minutes,
    }
}

/// A share or multiple as written, in thousandths.
fn share(
    written: Option<&At<f64>>,
    default: u32,
    (least, most): (f64, f64),
    key: &str,
    problems: &mut Vec<Problem>,
) -> u32 {
    let Some(written) = written else { return default };
    if (least..=most).contains(&written.value) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be small and positive"
        )]
        return (written.value * 1000.0).round() as u32;
    }
    problems.push(
        Problem::error(code::SAFETY_INVALID, format!("`{key}` cannot be {}", written.value))
            .at(&written.span, format!("{least} to {most}"))
            .help("Leave the key out for the default; docs/config.md says what it means."),
    );
    default
}
