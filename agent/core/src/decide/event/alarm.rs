//! Which events there are by name, and which of them tell of trouble.
//!
//! Owns: the list of names, which configs may use, and what somebody has to be told of without having asked. Must not: tell
//! anybody.

use super::EventKind;
use crate::decide::Reason;
use crate::decide::traffic::State;

/// The names of all kinds of events, as [`EventKind::name`] gives them.
pub const EVENT_KINDS: [&str; 43] = [
    "action-failed",
    "bypass-ended",
    "bypass-started",
    "carried-over",
    "clock-jumped",
    "config-loaded",
    "config-refused",
    "delisted",
    "disturbed",
    "dns-lost",
    "dns-restored",
    "exhausted",
    "feed-back",
    "feed-bad",
    "feed-better",
    "feed-failed",
    "flip-withheld",
    "flipped",
    "fuse-blown",
    "fuse-hot",
    "guard-first-again",
    "hold-ended",
    "hold-started",
    "list-back",
    "list-set-aside",
    "list-unknown",
    "listed",
    "log-missed",
    "log-read",
    "log-unread",
    "network-isolated",
    "port25-blocked",
    "port25-open",
    "resumed",
    "return-held",
    "source-eligible",
    "source-ineligible",
    "state-damaged",
    "state-failed",
    "state-recovered",
    "suspended",
    "table-repaired",
    "verdict",
];

impl EventKind {
    /// Whether it tells of trouble that somebody should look at. What the operator does, what ends, and what is done because
    /// of something that was told already does not.
    #[must_use]
    pub const fn is_alarm(&self) -> bool {
        match self {
            Self::SourceIneligible { reason, .. } => {
                // A block of port 25 has an event of its own; who waits for its preflight is in no trouble.
                !matches!(
                    reason,
                    Reason::Suspended { .. }
                        | Reason::WeightZero
                        | Reason::Untried
                        | Reason::PortBlocked { .. }
                )
            }
            Self::Verdict { to, .. } => matches!(to, State::Isolated { .. }),
            Self::FlipWithheld { .. }
            | Self::Port25Blocked { .. }
            | Self::DnsLost { .. }
            | Self::LogUnread { .. }
            | Self::LogMissed { .. }
            | Self::NetworkIsolated { .. }
            | Self::FuseBlown { .. }
            | Self::Listed { .. }
            | Self::ListSetAside { .. }
            | Self::FeedBad { .. }
            | Self::FeedFailed { .. }
            | Self::Exhausted { .. }
            | Self::TableRepaired { .. }
            | Self::GuardFirstAgain { .. }
            | Self::Disturbed { .. }
            | Self::ActionFailed { .. }
            | Self::StateFailed { .. }
            | Self::StateDamaged { .. }
            | Self::ConfigRefused { .. } => true,
            Self::ConfigLoaded { .. }
            | Self::Port25Open { .. }
            | Self::DnsRestored { .. }
            | Self::LogRead { .. }
            | Self::SourceEligible { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::BypassStarted { .. }
            | Self::BypassEnded { .. }
            | Self::HoldStarted { .. }
            | Self::HoldEnded { .. }
            | Self::Flipped { .. }
            | Self::FuseHot { .. }
            | Self::Delisted { .. }
            | Self::ListBack { .. }
            | Self::FeedBetter { .. }
            | Self::FeedBack { .. }
            | Self::ReturnHeld { .. }
            | Self::ListUnknown { .. }
            | Self::CarriedOver { .. }
            | Self::StateRecovered
            | Self::ClockJumped { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The match in `name` is exhaustive, so its words are all there are.
    #[test]
    fn every_name_of_an_event_is_in_the_list_and_no_other() {
        let source = include_str!("names.rs");
        let body =
            source.split("pub const fn name").nth(1).and_then(|rest| rest.split("pub fn subject").next());
        let mut names: Vec<&str> =
            body.unwrap().lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
        names.sort_unstable();
        assert_eq!(names, EVENT_KINDS);
    }
}
