//! DNS lists: who is on one, by answers that may lie.
//!
//! Owns: the table of lists, what an answer means, and the machine that asks, tests, confirms and clears. Must not: send a
//! query, or know what becomes of a listed source; it is told the time and every answer.
//!
//! **Why an answer is not a listing.** A resolver that rewrites "no such name", a zone gone dead that lists everything, a quota
//! that is used up: each answers with an address, and tools that took any address for a listing have taken whole senders
//! down. So an answer counts only with a code that the table knows; each cycle first asks the list's test points (RFC 5782
//! section 5: 127.0.0.2 is listed, 127.0.0.1 is not), and a list that fails them is set aside; a first listing is asked for
//! again 30 s later, test points included; everything else is unknown and changes nothing (invariant 4).

mod answer;
mod machine;
mod name;
mod query;
mod table;

pub use answer::{Answer, Reading};
pub use machine::Lists;
pub use name::{query_name, test_name};
pub use query::{ListEvent, Pace, Query, Standing, What};
pub use table::{Action, DEFAULT, List, ListTable, ListsChecked, Purpose};
