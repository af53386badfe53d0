//! What happened, in words.
//!
//! Owns: the sentences of events. Must not: keep or decide anything.

use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::EventKind;
use crate::decide::traffic::{EVERYWHERE, Failure, State};
use crate::signal::lists::Action;

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
            Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::BypassStarted { .. }
            | Self::BypassEnded { .. }
            | Self::HoldStarted { .. }
            | Self::HoldEnded { .. } => self.order(f),
            Self::Flipped { stream, providers, family, source, before, after, reason } => {
                let (before, after) = (Percent(*before), Percent(*after));
                let at = if providers.is_empty() { "" } else { " at " };
                let providers = providers.join(", ");
                write!(f, "{stream} {family}{at}{providers}: {source} {before} -> {after}")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
            }
            Self::Verdict { .. } | Self::FlipWithheld { .. } | Self::NetworkIsolated { .. } => self.belief(f),
            Self::FuseBlown { .. }
            | Self::FuseHot { .. }
            | Self::Listed { .. }
            | Self::Delisted { .. }
            | Self::ListSetAside { .. }
            | Self::ListBack { .. }
            | Self::ListUnknown { .. }
            | Self::DnsLost { .. }
            | Self::DnsRestored { .. }
            | Self::Port25Blocked { .. }
            | Self::Port25Open { .. } => self.reputation(f),
            Self::LogUnread { log, place, why } => {
                write!(f, "log {log} ({place}) is not read, and what receivers say there is not heard: {why}")
            }
            Self::LogRead { log, place } => write!(f, "log {log} ({place}) is read again, from where it was"),
            Self::LogMissed { log, what } => write!(f, "log {log}: {what}"),
            Self::FeedBad { .. }
            | Self::FeedBetter { .. }
            | Self::FeedFailed { .. }
            | Self::FeedBack { .. }
            | Self::ReturnHeld { .. } => self.fed(f),
            Self::CarriedOver { moved, ended } => {
                write!(
                    f,
                    "after a flip {moved} pending connections took another source, {ended} live ones were ended"
                )
            }
            Self::Exhausted { stream, family } => {
                write!(f, "{stream} {family}: no source of its pool is eligible")
            }
            Self::TableRepaired { .. } | Self::GuardFirstAgain { .. } => self.repair(f),
            Self::Disturbed { what: said }
            | Self::StateDamaged { what: said }
            | Self::StateFailed { why: said } => f.write_str(said),
            Self::StateRecovered => f.write_str("state is written to the disk again"),
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
    /// What strangers did and was put right, in words.
    fn repair(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
            _ => Ok(()),
        }
    }
}

impl EventKind {
    /// What the operator said, in words.
    fn order(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
            _ => Ok(()),
        }
    }

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
    /// What replies, DNS lists, the DNS itself and the preflight said, in words.
    fn reputation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port25Blocked { source, address, why } => {
                write!(f, "{source} ({address}): port 25 is blocked on the way out: {why}")
            }
            Self::Port25Open { source, address } => {
                write!(f, "{source} ({address}): port 25 is open on the way out")
            }
            Self::FuseBlown { stream, source, address, blown } => write!(
                f,
                "the fuse of {stream} at {source} ({address}) is blown: {blown}. Its share is refused and not moved; see who \
                 was written to, then `mailsteer resume {source}`"
            ),
            Self::FuseHot { stream, source, address, hot, least } => write!(
                f,
                "much of {stream}'s mail from {source} ({address}) comes back: {hot}; nothing is done below {least} attempts"
            ),
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
            Self::DnsLost { name, address, check, what } => {
                write!(f, "{}", Named(name, *address))?;
                write!(f, " fails the DNS check {}: {what}", check.as_str())
            }
            Self::DnsRestored { name, address, check } => {
                write!(f, "{}", Named(name, *address))?;
                write!(f, " passes the DNS check {} again", check.as_str())
            }
            _ => Ok(()),
        }
    }
}

/// A source with its address, or a domain.
struct Named<'a>(&'a str, Option<IpAddr>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        self.1.map_or(Ok(()), |address| write!(f, " ({address})"))
    }
}

impl EventKind {
    /// What feeds said, in words.
    fn fed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FeedBad { feed, source, address, words, of } => write!(
                f,
                "{feed} says of {source} ({address}) as of {}: {words}; no share moves for that, and isolated it would not \
                 come back yet",
                of.strftime("%Y-%m-%d")
            ),
            Self::FeedBetter { feed, source, address, words } => {
                write!(f, "{feed} says of {source} ({address}) now: {words}")
            }
            Self::FeedFailed { feed, why } => write!(f, "{feed} cannot be read, and nothing is done: {why}"),
            Self::FeedBack { feed } => write!(f, "{feed} can be read again"),
            Self::ReturnHeld { source, address, provider, feed, words, until } => {
                let at = if provider == EVERYWHERE { "every provider" } else { provider };
                write!(
                    f,
                    "{source} ({address}) stays isolated at {at}: {feed} says {words} of it; until a better word, or \
                     {until:.0}, or `mailsteer resume {source}`"
                )
            }
            _ => Ok(()),
        }
    }
}

fn verdict(f: &mut fmt::Formatter<'_>, to: &State) -> fmt::Result {
    match to {
        State::Healthy => Ok(()),
        State::Suspect { cause } => write!(f, " ({cause})"),
        State::Isolated { cause, until } => match cause.lasts() {
            Some(lasts) => write!(f, " {lasts}: {cause}"),
            None => write!(f, " until {until:.0} at least: {cause}"),
        },
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
