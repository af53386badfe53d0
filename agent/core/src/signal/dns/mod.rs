//! What the DNS says of a source and of the domains that send from it: PTR, SPF, DKIM, DMARC.
//!
//! Owns: parsers of the records, their evaluation by the RFCs, and the judgement of each check. Must not: look anything up.
//! Every evaluation is a function of what is already [`Known`]; where an answer is missing it says which
//! [`Question`] it needs, and is simply run again with the answer. So a whole internet of records is a map in a test, and what
//! the agent asks is no more than what a judgement needs.
//!
//! **Why a failed lookup ends an evaluation.** A receiver goes on after some failures (RFC 7208 has `ptr` fail to match), and
//! would then judge on what it has. Here a judgement may bar a source, so a lookup that failed makes the whole check
//! unknown, and unknown changes nothing (invariant 4).

pub mod dkim;
pub mod dmarc;
mod judge;
mod known;
mod name;
pub mod reverse;
pub mod spf;
mod survey;
mod tags;
mod watch;

pub use judge::{Check, Checked, Outcome};
pub use known::{Kind, Known, Question, Reply, Stop};
pub use name::{is_below, is_domain, parent, same};
pub use survey::{Dnssec, DomainPlan, Plan, Report, Row, SourcePlan, survey};
pub use watch::{DnsEvent, Subject, Watch};
