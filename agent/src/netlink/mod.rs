//! What observing and acting share of rtnetlink: the connection, requests, and how our nouns look as messages.
//!
//! Owns: the numbers that mark what is ours in the kernel. Must not: decide, keep state, or know `observe` and `act`.

pub mod buffers;
mod error;
mod messages;
mod request;

pub use error::NetError;
pub use messages::{
    address_of, main_routes, message_protocol, metric_on_wire, route_at, route_message, rule_message,
    rule_spec, uplink_table,
};
pub use request::{Connection, addresses, change, is_local, links, routes, rules};

/// IFA_PROTO, rtm_protocol and FRA_PROTOCOL of everything that mailsteer adds: how it is known again.
pub const PROTOCOL: u8 = 77;
/// The fallback table; the table of an uplink is this plus its id.
pub const TABLE_BASE: u32 = 19712;
/// The last table of ours: uplink ids have four bits.
pub const TABLE_LAST: u32 = TABLE_BASE + 15;
/// Priority of the replies rules, plus the uplink's id.
pub const PRIORITY_REPLIES: u32 = 20_000;
/// Priority of the uplink rules, plus the uplink's id.
pub const PRIORITY_UPLINK: u32 = 20_100;
/// Priority of the fallback rules: after the main table's (32766), so that they count only where it has no route.
pub const PRIORITY_FALLBACK: u32 = 32_770;
