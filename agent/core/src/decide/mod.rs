//! What is desired of the world as it is believed to be.
//!
//! Owns: the [`World`], the fold of observations into it, and what follows from it, with a reason for each source
//! taken and each left. Must not: know the time or have any effect; `now` is a parameter.

mod desired;
mod event;
mod explain;
mod flaps;
mod flips;
mod fuse;
mod ids;
mod operator;
mod preflight;
mod reason;
mod receivers;
mod slots;
mod sources;
mod traffic;
mod uplinks;
mod world;

pub use desired::{Decision, desired};
pub use event::{EVENT_KINDS, Event, EventKind};
pub use explain::{Explanation, SourceAnswer, StreamAnswer, Who, explain};
pub use flips::{Flip, flips};
pub use fuse::{Blown, Counts as FuseCounts, FuseWindows, Share as FuseShare};
pub use ids::Ids;
pub use operator::{Bypass, Command, Hold, OperatorError, Suspension};
pub use preflight::WantedPreflight;
pub use reason::Reason;
pub use receivers::Whose;
pub use slots::{MAX_SLOTS, slot_count};
pub use traffic::{
    Beliefs, EVERYWHERE, Evidence, Failure, Finding, Others, Outcome, Rails, Share, Siblings, State, Verdict,
    WantedProbe, Withheld, judge,
};
pub use uplinks::default_route;
pub use world::{Observation, World};
