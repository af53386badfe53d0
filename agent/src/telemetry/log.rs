//! The log: text for people, JSON for programs, on standard error.
//!
//! Owns: how the log is written. Must not: decide what is logged; `MAILSTEER_LOG` filters.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// An object for programs.
    Json,
}

/// Starts logging. `MAILSTEER_LOG` (such as `debug`, or `mailsteer::act=trace`) filters; `info` by default.
///
/// # Errors
/// The filter is malformed, or logging was started before.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("MAILSTEER_LOG") {
        Ok(text) => EnvFilter::try_new(&text)
            .map_err(|e| anyhow::anyhow!("MAILSTEER_LOG=`{text}` is no log filter: {e}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(terminal).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|e| anyhow::anyhow!("logging cannot be started: {e}"))
}
