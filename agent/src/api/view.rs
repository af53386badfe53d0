//! What every answer is made of: plain data in the words of the design.
//!
//! Owns: the shape of answers. `--json` prints exactly these; the wire format mirrors them. Must not: know the
//! wire, a terminal, or where the data comes from.

mod explanation;
mod orders;
mod report;
mod status;
mod traffic;

pub use explanation::{Destination, Explanation, Fate, Probe, SourceStep, StreamStep, TryResult};
pub use mailsteer_core::decide::Who;
pub use orders::{Done, OutcomeReport, OutcomesTaken, PlanRow, ReloadReport, TeardownReport};
pub use report::{Report, ReportRow};
pub use status::{
    BypassState, ConfigState, Headline, HoldState, Level, Locks, PoolState, Status, StreamMode, StreamState,
    Suspension, Totals,
};
pub use traffic::{ConnectionRow, EventRow, Outcome, SourceCounters, SourceRow, SourceState};
