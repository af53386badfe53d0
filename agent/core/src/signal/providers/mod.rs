//! Who receives, told by the name of the mail server: a table of groups, and addresses that are learned for them.
//!
//! Owns: the table ([`ProviderTable`]), names and their patterns ([`Pattern`]), and the machine that says what to look up and what
//! became of it ([`Learner`]). Must not: look anything up. Whoever can write a log line may write a name into it: a name is asked
//! for, and only what its own zone answers makes an address a group's. An address of which that is not known is nobody's.

mod host;
mod kept;
mod machine;
mod pattern;
mod query;
mod table;

pub use kept::KeptHost;
pub use machine::Learner;
pub use pattern::{Groups, Pattern};
pub use query::{Answer as NameAnswer, Query as NameQuery};
pub use query::{Claim, Learned, LearnerPace, Named, Standing, Wanted};
pub use table::{DEFAULT, Group, ProviderTable, ProvidersChecked};
pub(crate) use table::{domains, patterns};
