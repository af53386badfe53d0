//! Logging and metrics.

pub mod exporter;
pub mod histogram;
mod log;
pub mod metrics;

pub use log::{LogFormat, init};
