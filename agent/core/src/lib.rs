//! What mailsteer decides: the config and its checks, the world, what is desired of it, and the plan that leads
//! there.
//!
//! Owns: every decision. Must not: know the time, draw a number, or touch a file, a socket or the kernel. Time
//! and seed are parameters, so that the agent, the tests and a replay run the same code.
#![forbid(unsafe_code)]

pub mod config;
pub mod decide;
pub mod doctor;
pub mod hook;
pub mod init;
pub mod model;
pub mod plan;
pub mod signal;
