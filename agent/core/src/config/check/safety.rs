//! What a belief may do.

use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::At;
use crate::config::settings::Safety;

/// More flips than there are sources would be none.
const FLIPS: std::ops::RangeInclusive<i64> = 0..=1000;

pub(super) fn safety(raw: &RawConfig, problems: &mut Vec<Problem>) -> Safety {
    let default = Safety::default();
    let Some(written) = raw.safety.as_ref().map(|safety| &safety.value) else { return default };
    let flips = written.flips_per_day.as_ref();
    Safety {
        flips_per_day: flips.map_or(default.flips_per_day, |flips| flips_per_day(flips, problems)),
        surge: share(written.surge.as_ref(), default.surge, (1.0, 10.0), "surge", problems),
        brake: share(written.brake.as_ref(), default.brake, (0.0, 1.0), "brake", problems),
    }
}

fn flips_per_day(written: &At<i64>, problems: &mut Vec<Problem>) -> u32 {
    if FLIPS.contains(&written.value) {
        return u32::try_from(written.value).unwrap_or_default();
    }
    problems.push(
        Problem::error(code::SAFETY_INVALID, format!("a stream cannot have {} flips a day", written.value))
            .at(&written.span, "0 to 1000")
            .help("Leave the key out for 3. With 0 no share moves because of a belief."),
    );
    Safety::default().flips_per_day
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
