//! The nouns: who is what, in the words of the design.
//!
//! Owns: plain types that every other part speaks in. Must not: hold behaviour beyond naming and comparing.

mod countries;
mod delivered;
mod desired;
mod host;
mod ids;
mod signal;

pub use countries::Countries;
pub use delivered::Delivered;
pub use desired::{
    Choice, ChoiceMode, Desired, GuardSource, Lane, LaneMatch, OnwardRoute, ReceiverSets, RefuseReason,
    SlotTarget, Slots, Steering, UplinkPlan, WantedAddress, WantedKind,
};
pub use host::{Address, AddressState, Host, Link, Route};
pub use ids::{Family, LaneId, SourceId, UplinkId};
pub use signal::{Sign, Signal};
