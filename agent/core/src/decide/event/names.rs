//! What happened, in one word, and about whom or what.
//!
//! Owns: the words that answers, metrics and configs know events by. Must not: change one that was released.

use super::EventKind;

impl EventKind {
    /// The word for it in answers and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ConfigLoaded { .. } => "config-loaded",
            Self::SourceEligible { .. } => "source-eligible",
            Self::SourceIneligible { .. } => "source-ineligible",
            Self::Port25Blocked { .. } => "port25-blocked",
            Self::Port25Open { .. } => "port25-open",
            Self::Suspended { .. } => "suspended",
            Self::Resumed { .. } => "resumed",
            Self::BypassStarted { .. } => "bypass-started",
            Self::BypassEnded { .. } => "bypass-ended",
            Self::HoldStarted { .. } => "hold-started",
            Self::HoldEnded { .. } => "hold-ended",
            Self::Flipped { .. } => "flipped",
            Self::Verdict { .. } => "verdict",
            Self::FlipWithheld { .. } => "flip-withheld",
            Self::NetworkIsolated { .. } => "network-isolated",
            Self::FuseBlown { .. } => "fuse-blown",
            Self::FuseHot { .. } => "fuse-hot",
            Self::Listed { .. } => "listed",
            Self::Delisted { .. } => "delisted",
            Self::ListSetAside { .. } => "list-set-aside",
            Self::ListBack { .. } => "list-back",
            Self::ListUnknown { .. } => "list-unknown",
            Self::DnsLost { .. } => "dns-lost",
            Self::DnsRestored { .. } => "dns-restored",
            Self::FeedBad { .. } => "feed-bad",
            Self::FeedBetter { .. } => "feed-better",
            Self::FeedFailed { .. } => "feed-failed",
            Self::FeedBack { .. } => "feed-back",
            Self::ReturnHeld { .. } => "return-held",
            Self::CarriedOver { .. } => "carried-over",
            Self::Exhausted { .. } => "exhausted",
            Self::TableRepaired { .. } => "table-repaired",
            Self::GuardFirstAgain { .. } => "guard-first-again",
            Self::Disturbed { .. } => "disturbed",
            Self::ActionFailed { .. } => "action-failed",
            Self::StateFailed { .. } => "state-failed",
            Self::StateRecovered => "state-recovered",
            Self::StateDamaged { .. } => "state-damaged",
            Self::LogUnread { .. } => "log-unread",
            Self::LogRead { .. } => "log-read",
            Self::LogMissed { .. } => "log-missed",
            Self::ClockJumped { .. } => "clock-jumped",
            Self::ConfigRefused { .. } => "config-refused",
        }
    }

    /// Whom or what it is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::ConfigLoaded { .. } | Self::ConfigRefused { .. } => "config",
            Self::SourceEligible { source, .. }
            | Self::SourceIneligible { source, .. }
            | Self::Port25Blocked { source, .. }
            | Self::Port25Open { source, .. }
            | Self::Suspended { source, .. }
            | Self::Verdict { source, .. }
            | Self::FlipWithheld { source, .. }
            | Self::Listed { source, .. }
            | Self::Delisted { source, .. }
            | Self::FeedBad { source, .. }
            | Self::FeedBetter { source, .. }
            | Self::ReturnHeld { source, .. }
            | Self::Resumed { source, .. } => source,
            Self::BypassStarted { stream, .. }
            | Self::BypassEnded { stream, .. }
            | Self::Flipped { stream, .. }
            | Self::FuseBlown { stream, .. }
            | Self::FuseHot { stream, .. }
            | Self::Exhausted { stream, .. } => stream,
            Self::HoldStarted { .. } | Self::HoldEnded { .. } => "hold",
            Self::NetworkIsolated { provider, .. } => provider,
            Self::ListSetAside { list, .. } | Self::ListBack { list } | Self::ListUnknown { list, .. } => {
                list
            }
            Self::FeedFailed { feed, .. } | Self::FeedBack { feed } => feed,
            Self::DnsLost { name, .. } | Self::DnsRestored { name, .. } => name,
            Self::LogUnread { log, .. } | Self::LogRead { log, .. } | Self::LogMissed { log, .. } => log,
            Self::CarriedOver { .. } => "connections",
            Self::TableRepaired { .. } => "table",
            Self::GuardFirstAgain { interface } => interface,
            Self::Disturbed { .. } => "host",
            Self::ActionFailed { .. } => "agent",
            Self::StateFailed { .. } | Self::StateRecovered | Self::StateDamaged { .. } => "state",
            Self::ClockJumped { .. } => "clock",
        }
    }
}
