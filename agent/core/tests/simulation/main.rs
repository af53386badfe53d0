//! The simulation: worlds of sources, providers, traffic and faults, run through the same decide and plan code.
//!
//! `named` has worlds that are to come out as written; `random` has thousands of them in which nothing may break. A world is
//! run again by its seed with `MAILSTEER_WORLD=SEED cargo test -p mailsteer-core --test simulation one_world -- --nocapture`.
#![expect(clippy::expect_used, reason = "a test fails loudly")]

mod checks;
mod host;
mod internet;
mod named;
mod random;
mod run;
mod shares;
mod spec;
