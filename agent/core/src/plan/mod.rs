//! The way from what is observed to what is desired, as data.
//!
//! Owns: [`Action`] and the order of actions, such that no prefix of a plan leaves a lane without a valid address.
//! Must not: know how an action is carried out.

mod action;
mod describe;
mod order;
mod simulate;

pub use action::{
    Action, AddressAt, GuardSpec, LaneSpec, Observed, RouteAt, RuleSpec, SlotChange, TableSpec,
};
pub use order::{guard_spec, plan, routes, rules, table_spec, takes_a_last_slot};
pub use simulate::{Flaw, carried_out, flaws};
