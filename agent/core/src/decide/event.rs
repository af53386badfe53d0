//! What happened, as data that can be kept, shown and explained.

mod alarm;
mod names;
mod words;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use ipnet::IpNet;

use super::Reason;
use super::fuse::Blown;
use super::traffic::{Evidence, Failure, State, Withheld};
use crate::model::Family;
use crate::signal::dns::Check;
use crate::signal::lists::Action;

pub use alarm::EVENT_KINDS;

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
    /// A source or a domain fails a DNS check: two runs said so.
    DnsLost {
        /// The source's name, or the domain.
        name: String,
        /// The source's public address.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// The check.
        check: Check,
        /// What is wrong.
        what: String,
    },
    /// It passes that check again.
    DnsRestored {
        /// The source's name, or the domain.
        name: String,
        /// The source's public address.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// The check.
        check: Check,
    },
    /// A feed says bad of an address: nothing moves for that.
    FeedBad {
        /// The feed.
        feed: String,
        /// The source's name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// In the feed's words.
        words: String,
        /// Of which time it tells.
        of: Timestamp,
    },
    /// A feed says no more that it is bad.
    FeedBetter {
        /// The feed.
        feed: String,
        /// The source's name.
        source: String,
        /// Its public address.
        address: IpAddr,
        /// In the feed's words.
        words: String,
    },
    /// A feed cannot be read, and not for the first time.
    FeedFailed {
        /// The feed.
        feed: String,
        /// Why.
        why: String,
    },
    /// It can again.
    FeedBack {
        /// The feed.
        feed: String,
    },
    /// The time of an isolation is over, and a feed's word keeps the source from coming back.
    ReturnHeld {
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// The provider; `*` for every one.
        provider: String,
        /// The feed.
        feed: String,
        /// In its words.
        words: String,
        /// When that counts no more.
        until: Timestamp,
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
    /// Nothing that a source sends to port 25 arrives.
    Port25Blocked {
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
        /// What the tries showed.
        why: String,
    },
    /// What a source sends to port 25 arrives again.
    Port25Open {
        /// The source's name.
        source: String,
        /// Its address on this host.
        address: IpAddr,
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
    /// A log cannot be read: what receivers say there is not heard.
    LogUnread {
        /// Its name.
        log: String,
        /// Where it is.
        place: String,
        /// Why, and what to do.
        why: String,
    },
    /// It is read again, from where it was.
    LogRead {
        /// Its name.
        log: String,
        /// Where it is.
        place: String,
    },
    /// Part of a log was not read and is not to be found.
    LogMissed {
        /// Its name.
        log: String,
        /// What, and what to do.
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
