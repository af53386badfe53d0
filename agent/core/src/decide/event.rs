//! What happened, as data that can be kept, shown and explained.

use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use ipnet::IpNet;

use super::Reason;
use super::fuse::Blown;
use super::traffic::{EVERYWHERE, Evidence, Failure, State, Withheld};
use crate::model::Family;
use crate::signal::lists::Action;

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum EventKind {
    /// A config was loaded.
    ConfigLoaded {
        /// How many streams it has.
        streams: usize,
        /// How many sources it has.
        sources: usize,
    },
    /// A source can serve again.
    SourceEligible {
        /// Its name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
    },
    /// A source can no longer serve.
    SourceIneligible {
        /// Its name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// Why.
        reason: Reason,
    },
    /// The operator suspended a source.
    Suspended {
        /// Its name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// In the operator's words.
        why: String,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// A source is no longer suspended.
    Resumed {
        /// Its name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// Why.
        why: String,
    },
    /// A stream is left alone.
    BypassStarted {
        /// The stream.
        stream: String,
        /// In the operator's words.
        why: String,
        /// Until when.
        until: Timestamp,
    },
    /// A stream is steered again.
    BypassEnded {
        /// The stream.
        stream: String,
        /// Why.
        why: String,
    },
    /// No slot changes hands by itself any more.
    HoldStarted {
        /// In the operator's words.
        why: String,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// Slots change hands by themselves again.
    HoldEnded {
        /// Why.
        why: String,
    },
    /// Traffic was moved: a source holds slots of a stream and held none, or the other way round.
    Flipped {
        /// The stream.
        stream: String,
        /// At which providers; empty: at every one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        providers: Vec<String>,
        /// The family.
        family: Family,
        /// The source whose share changed.
        source: String,
        /// Its share before, in thousandths.
        before: u32,
        /// Its share after, in thousandths.
        after: u32,
        /// Why, where it lost its share.
        reason: Option<Reason>,
    },
    /// What is believed of a source at a provider has changed.
    Verdict {
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// The provider; `*` for every one.
        provider: String,
        /// The state before.
        from: String,
        /// The state now.
        to: State,
        /// What it rests on, where traffic and not time changed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<Box<Evidence>>,
    },
    /// A source seems to fail, and nothing is done.
    FlipWithheld {
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// The provider.
        provider: String,
        /// What it met.
        cause: Failure,
        /// Why nothing is done.
        why: Withheld,
    },
    /// Too much of a stream's mail from a source comes back: it is refused, and not moved.
    FuseBlown {
        /// The stream.
        stream: String,
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// Of what there was too much.
        blown: Blown,
    },
    /// As much comes back, and there were too few attempts to act on it.
    FuseHot {
        /// The stream.
        stream: String,
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// What came back.
        hot: Blown,
        /// From how many attempts on it blows.
        least: u64,
    },
    /// A public address is on a DNS list: two answers said so.
    Listed {
        /// The source's name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// The list.
        list: String,
        /// What its codes mean, and the list's own words.
        meaning: String,
        /// What follows.
        action: Action,
    },
    /// It is on that list no more.
    Delisted {
        /// The source's name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// The list.
        list: String,
    },
    /// A DNS list does not pass its tests.
    ListSetAside {
        /// The list.
        list: String,
        /// Why.
        why: String,
    },
    /// It passes them again.
    ListBack {
        /// The list.
        list: String,
    },
    /// A DNS list gives answers that say nothing.
    ListUnknown {
        /// The list.
        list: String,
        /// What it answers.
        why: String,
    },
    /// Several sources of one network were isolated at a provider within an hour: so is all of it, and its mail is refused.
    NetworkIsolated {
        /// The /24 or /48.
        network: IpNet,
        /// The provider.
        provider: String,
    },
    /// What became of connections that began before a flip.
    CarriedOver {
        /// Pending ones, which take another source with their next SYN.
        moved: u64,
        /// Live ones that were ended (`on_flip`).
        ended: u64,
    },
    /// A pool has no eligible source left.
    Exhausted {
        /// The stream.
        stream: String,
        /// The family.
        family: Family,
    },
    /// Somebody touched our table and it was put right.
    TableRepaired {
        /// What was done to it.
        what: String,
        /// The program that did it, where the kernel tells.
        program: Option<String>,
        /// Its process id.
        pid: Option<u32>,
        /// conntrack entries deleted because they had missed our rules.
        healed: u64,
        /// For how long nothing held mail, in milliseconds from the notice to the repair; `None`: the guard held it.
        #[serde(skip_serializing_if = "Option::is_none")]
        unguarded_ms: Option<u64>,
    },
    /// Somebody's program stood before the guard and could have ended the chain; the guard is first again.
    GuardFirstAgain {
        /// The interface.
        interface: String,
    },
    /// Somebody's doing keeps mail from leaving: it is refused or held.
    Disturbed {
        /// What is seen of it, and where to look.
        what: String,
    },
    /// A step of a plan failed; it will be tried again.
    ActionFailed {
        /// The step.
        action: String,
        /// What went wrong.
        error: String,
    },
    /// State cannot be written; it is kept in memory.
    StateFailed {
        /// Why, and what to do.
        why: String,
    },
    /// State is written again.
    StateRecovered,
    /// The state database was damaged.
    StateDamaged {
        /// Where it is now, and what was lost with it.
        what: String,
    },
    /// The host's clock was set while mailsteer ran, or since it ran last.
    ClockJumped {
        /// By how much: ahead, or back where it is negative.
        by: SignedDuration,
    },
    /// A new config was refused; the old one stays.
    ConfigRefused {
        /// How many errors it has.
        errors: usize,
    },
}

impl EventKind {
    /// The word for it in answers and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ConfigLoaded { .. } => "config-loaded",
            Self::SourceEligible { .. } => "source-eligible",
            Self::SourceIneligible { .. } => "source-ineligible",
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
            Self::CarriedOver { .. } => "carried-over",
            Self::Exhausted { .. } => "exhausted",
            Self::TableRepaired { .. } => "table-repaired",
            Self::GuardFirstAgain { .. } => "guard-first-again",
            Self::Disturbed { .. } => "disturbed",
            Self::ActionFailed { .. } => "action-failed",
            Self::StateFailed { .. } => "state-failed",
            Self::StateRecovered => "state-recovered",
            Self::StateDamaged { .. } => "state-damaged",
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
            | Self::Suspended { source, .. }
            | Self::Verdict { source, .. }
            | Self::FlipWithheld { source, .. }
            | Self::Listed { source, .. }
            | Self::Delisted { source, .. }
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

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigLoaded { streams, sources } => {
                write!(f, "config loaded: {streams} streams, {sources} sources")
            }
            Self::SourceEligible { source, address } => write!(f, "{source} ({address}) can serve"),
            Self::SourceIneligible { source, address, reason } => {
                write!(f, "{source} ({address}) cannot serve: {reason}")
            }
            Self::Suspended { source, address, why, until } => {
                write!(f, "{source} ({address}) suspended{}: {why}", Until(*until))
            }
            Self::Resumed { source, address, why } => write!(f, "{source} ({address}) resumed: {why}"),
            Self::BypassStarted { stream, why, until } => {
                write!(f, "stream {stream} is left alone{}: {why}", Until(Some(*until)))
            }
            Self::BypassEnded { stream, why } => write!(f, "stream {stream} is steered again: {why}"),
            Self::HoldStarted { why, until } => {
                write!(f, "on hold{}: no share moves by itself: {why}", Until(*until))
            }
            Self::HoldEnded { why } => write!(f, "off hold, shares move again: {why}"),
            Self::Flipped { stream, providers, family, source, before, after, reason } => {
                let (before, after) = (Percent(*before), Percent(*after));
                let at = if providers.is_empty() { "" } else { " at " };
                let providers = providers.join(", ");
                write!(f, "{stream} {family}{at}{providers}: {source} {before} -> {after}")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
            }
            Self::Verdict { .. } | Self::FlipWithheld { .. } | Self::NetworkIsolated { .. } => self.belief(f),
            Self::FuseBlown { stream, source, address, blown } => write!(
                f,
                "the fuse of {stream} at {source} ({address}) is blown: {blown}. Its share is refused and not moved; see who \
                 was written to, then `mailsteer resume {source}`"
            ),
            Self::FuseHot { stream, source, address, hot, least } => write!(
                f,
                "much of {stream}'s mail from {source} ({address}) comes back: {hot}; nothing is done below {least} attempts"
            ),
            Self::Listed { .. }
            | Self::Delisted { .. }
            | Self::ListSetAside { .. }
            | Self::ListBack { .. }
            | Self::ListUnknown { .. } => self.list(f),
            Self::CarriedOver { moved, ended } => {
                write!(
                    f,
                    "after a flip {moved} pending connections took another source, {ended} live ones were ended"
                )
            }
            Self::Exhausted { stream, family } => {
                write!(f, "{stream} {family}: no source of its pool is eligible")
            }
            Self::TableRepaired { what, program, pid, healed, unguarded_ms } => {
                let who = program.as_deref().unwrap_or("somebody");
                write!(f, "{what} by {who}")?;
                pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))?;
                match unguarded_ms {
                    None => write!(f, "; rules restored, {healed} held connections put right"),
                    Some(ms) => write!(
                        f,
                        "; rules restored after {ms} ms in which nothing held mail (one lock only), {healed} connections \
                         put right"
                    ),
                }
            }
            Self::GuardFirstAgain { interface } => write!(
                f,
                "a stranger's program stood before the guard on {interface} and could have let mail past it; the \
                 guard is first again"
            ),
            Self::Disturbed { what } => f.write_str(what),
            Self::StateFailed { why } => f.write_str(why),
            Self::StateRecovered => f.write_str("state is written to the disk again"),
            Self::StateDamaged { what } => f.write_str(what),
            Self::ClockJumped { by } => write!(
                f,
                "the clock was set {} by {:#}: what was said for a time still lasts as long; earlier times are by the \
                 old clock",
                if by.is_negative() { "back" } else { "ahead" },
                SignedDuration::from_secs(
                    by.abs().saturating_add(SignedDuration::from_millis(500)).as_secs()
                ),
            ),
            Self::ActionFailed { action, error } => write!(f, "{action} failed and is tried again: {error}"),
            Self::ConfigRefused { errors } => {
                write!(f, "the new config has {errors} errors and was refused; the old one stays")
            }
        }
    }
}

impl EventKind {
    /// What is believed, in words.
    fn belief(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict { source, address, provider, from, to, .. } => {
                write!(f, "{source} ({address}) at {}: {from} -> {}", At(provider), to.name())?;
                verdict(f, to)
            }
            Self::FlipWithheld { source, address, provider, cause, why } => {
                write!(
                    f,
                    "{source} ({address}) seems to fail at {} ({cause}) and goes on: {why}",
                    At(provider)
                )
            }
            Self::NetworkIsolated { network, provider } => write!(
                f,
                "several sources of {network} were isolated at {} within an hour: all of it is, and its mail there is \
                 refused and not moved. Find out why before you resume any",
                At(provider)
            ),
            _ => Ok(()),
        }
    }
}

impl EventKind {
    /// What a DNS list said, in words.
    fn list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed { source, address, list, meaning, action } => {
                let then = if *action == Action::Isolate { "" } else { "; nothing is done for that" };
                write!(f, "{source} ({address}) is on {list}: {meaning}{then}")
            }
            Self::Delisted { source, address, list } => {
                write!(f, "{source} ({address}) is on {list} no more")
            }
            Self::ListSetAside { list, why } => {
                write!(f, "nobody looks whether sources are on {list}: it does not pass its tests: {why}")
            }
            Self::ListBack { list } => write!(f, "{list} passes its tests again, and is asked"),
            Self::ListUnknown { list, why } => {
                write!(f, "{list} gives an answer that says nothing, and nothing is done: {why}")
            }
            _ => Ok(()),
        }
    }
}

fn verdict(f: &mut fmt::Formatter<'_>, to: &State) -> fmt::Result {
    match to {
        State::Healthy => Ok(()),
        State::Suspect { cause } => write!(f, " ({cause})"),
        State::Isolated { cause: cause @ Failure::Listed { .. }, .. } => {
            write!(f, " until it is on no list: {cause}")
        }
        State::Isolated { cause, until } => write!(f, " until {until:.0} at least: {cause}"),
        State::Probation { cause: cause @ Failure::Replied { slow: true, .. }, .. } => {
            write!(f, ", {} of its share: {cause}", Percent(to.step().unwrap_or(0).into()))
        }
        State::Probation { .. } => {
            write!(
                f,
                ", {}",
                to.step().map_or_else(
                    || "probes first".to_owned(),
                    |share| format!("{} of its share", Percent(share.into()))
                )
            )
        }
    }
}

/// A provider, as people read it.
struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == EVERYWHERE { "every provider" } else { self.0 })
    }
}

struct Until(Option<Timestamp>);

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |until| write!(f, " until {until:.0}"))
    }
}

/// Thousandths, shown as per cent.
struct Percent(u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}
