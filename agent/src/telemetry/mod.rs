//! Logging and metrics.

pub mod exporter;
mod log;
pub mod metrics;

pub use log::{LogFormat, init};
