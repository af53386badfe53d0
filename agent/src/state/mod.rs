//! What has to outlive the agent and is in no kernel object: counters beyond a reboot, events, the operator's word.
//!
//! Owns: `mailsteer.db` in the state directory, an SQLite database in WAL mode, and the thread that alone writes it.
//! Everybody else hands over what there is to keep and goes on: no failure of the disk reaches steering. What cannot
//! be written stays in memory, is said, and is written when the disk takes it again. Must not: decide anything, or
//! know who asks.
//!
//! | file | holds |
//! |---|---|
//! | `ledger` | what was counted, as a pure function of what was kept and what the kernel's counters say |
//! | `schema` | migrations: numbered, forward only, each a file of SQL that is never edited again |
//! | `open` | opening: newer, damaged, read-only |
//! | `rows` | what is kept, and reading it from rows |
//! | `written` | what changed, written to rows |
//! | `days` | what each address did on each day |
//! | `owner` | the thread |
//! | `store` | the handle on it |

mod days;
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod ledger;
mod open;
mod outcome;
mod owner;
mod rows;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod written;

pub use days::{Days, Did, KeptDays};
pub use ledger::{Ledger, Meter, Name, Place, Reading, Seen};
pub use open::StateError;
pub use outcome::Outcome;
pub use rows::{Checkpoint, Growth, Heard, Kept, LogRead, SourceFacts, Word};
pub use store::{Receipt, Store};
