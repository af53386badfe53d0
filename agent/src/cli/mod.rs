//! The command line: arguments, commands, and how answers are shown.
//!
//! Owns: what a person types and reads. Must not: decide anything; it asks the agent, or the core for a file.

pub mod args;
mod check;
mod classify;
mod commands;
mod connect_as;
mod doctor;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod host_view;
mod init;
mod judge;
mod outcomes;
mod render;
mod replay;
mod report;
mod terminal;
mod trying;

pub use commands::run;
