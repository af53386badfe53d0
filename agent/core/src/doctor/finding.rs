//! A judgement on one thing: how bad it is, what it costs, and what to do.

use serde::Serialize;

use super::about::group;
use super::findings::Unread;

/// How bad it is, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    /// Somebody should look.
    Warn,
    /// mailsteer cannot work like this, or loses mail.
    Bad,
}

impl Level {
    /// Every level, worst first.
    pub const WORST_FIRST: [Self; 4] = [Self::Bad, Self::Warn, Self::Note, Self::Ok];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }

    /// Exit status of a command that found nothing worse.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Ok | Self::Note => 0,
            Self::Warn => 1,
            Self::Bad => 2,
        }
    }
}

/// One judgement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The check's name, one of [`super::CHECKS`].
    pub check: &'static str,
    /// What the check belongs to.
    pub group: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// What it costs; empty where nothing.
    pub cost: String,
    /// What to do; empty where nothing.
    pub advice: String,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, what, "", "")
    }

    /// A judgement.
    #[must_use]
    pub fn new(
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        cost: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            group: group(check),
            level,
            what: what.into(),
            cost: cost.into(),
            advice: advice.into(),
        }
    }

    /// What could not be seen is worth a note, and proves nothing.
    #[must_use]
    pub fn unread(check: &'static str, subject: &str, unread: &Unread) -> Self {
        let advice = if unread.needs_root { "Run `mailsteer doctor` as root to see it." } else { "" };
        let what = format!("not seen: {subject} ({})", unread.why);
        Self::new(check, Level::Note, what, "Nothing is known of it, neither good nor bad.", advice)
    }
}
