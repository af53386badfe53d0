//! What says something of a source: replies of receivers, MTA logs, answers of DNS lists, feeds, tries of
//! port 25.
//!
//! Owns: the parsers of foreign text, and the tables of data by which it is judged. Must not: fetch it, or decide what follows;
//! `observe` does the one and [`crate::decide`] the other. Whoever writes such text may be hostile: what does not fit is said
//! to be unknown, and unknown changes nothing (invariant 4).

pub mod dns;
pub mod feeds;
pub mod follow;
pub mod join;
pub mod lists;
pub mod log;
pub mod port25;
pub mod providers;
pub mod reply;
