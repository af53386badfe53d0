//! Real, unmodified MTAs of Debian's on the mail host, without installing them.
//!
//! Owns: what they have in common (unpacked files in an own view of /usr, /etc, /var and /run; how messages are handed
//! in) and what a test asks of each. Must not: write to the machine's own directories. The binaries are at their stock
//! paths and start as their packages start them, so what is tested is what people run.

pub mod exim;
mod instance;
pub mod opensmtpd;
pub mod sendmail;
mod submit;
mod syslog;

use std::path::PathBuf;

use anyhow::Result;

use crate::lab::Lab;

pub use exim::Exim;
pub use instance::{Files, Instance};
pub use opensmtpd::OpenSmtpd;
pub use sendmail::Sendmail;
pub use submit::{Envelope, Pace, Submitting};
pub use syslog::{MAIL_LOG, MAIL_LOG_SECONDS};

/// Where messages are handed in.
pub const SUBMIT: &str = "127.0.0.1:2525";
/// What an instance calls itself.
pub const HOSTNAME: &str = "mail.example.com";
/// What marketing is called, where an MTA can have a name for each stream.
pub const MARKETING_NAME: &str = "news.example.com";
/// The tag of marketing, one of each family: private addresses that its transport binds; they never reach the wire.
pub const TAGS: [&str; 2] = ["198.18.0.2", "fd00:6d73::2"];

/// The folders in which all of them and their syslog are unpacked, unpacking them first where that was not done yet.
///
/// # Errors
/// When their packages cannot be had.
pub fn unpack_all() -> Result<Vec<PathBuf>> {
    Ok(vec![
        crate::postfix::unpack()?,
        exim::unpack()?,
        opensmtpd::unpack()?,
        sendmail::unpack()?,
        syslog::unpack()?,
    ])
}

/// A real MTA on the mail host that sends two streams: the mail of some recipient domains, and all other.
pub trait Mta: Sized {
    /// How it is called.
    const NAME: &'static str;
    /// The user whose processes connect.
    const UID: u32;
    /// What it calls itself to the receivers of transactional mail, and to those of marketing.
    const EHLO: [&'static str; 2] = [HOSTNAME, HOSTNAME];

    /// Unpacks it where that was not done yet, starts it, waits until it takes messages. What goes to the domains of
    /// marketing binds its tag, where the MTA can do so.
    ///
    /// # Errors
    /// When the packages cannot be had, or it does not start: the error holds its log.
    fn start(lab: &Lab, marketing: &[&str]) -> Result<Self>;

    /// The same by what docs/mta-recipes.md has for it: marketing is told by its senders, or by where it is handed in.
    ///
    /// # Errors
    /// As [`Mta::start`].
    fn start_by_recipe(lab: &Lab) -> Result<Self>;

    /// Where it runs.
    fn instance(&self) -> &Instance;

    /// One line for each message that is still queued.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn queue(&self) -> Result<Vec<String>>;

    /// Tries at once all that is queued.
    ///
    /// # Errors
    /// When it cannot be told to.
    fn run_queue(&self) -> Result<()>;

    /// Its log so far.
    ///
    /// # Errors
    /// When it cannot be read.
    fn log(&self) -> Result<String>;

    /// Stops it.
    ///
    /// # Errors
    /// When it does not.
    fn stop(self) -> Result<()>;
}
