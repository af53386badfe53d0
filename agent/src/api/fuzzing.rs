//! Hostile messages for [`super`]: every request and every answer, as bytes.
//!
//! Owns: which messages there are. Must not: be called by the agent. What one side takes, it must hand on as it took it.

use prost::Message;
use std::fmt::Debug;

use super::convert::Wire;
use super::v1;
use super::view::*;
use crate::cli::fuzzing as shown;

/// Reads a message as what `which` stands for, and shows what it says as the command line would.
pub fn message(which: u8, bytes: &[u8]) {
    match which % 20 {
        0 => taken::<Status, v1::StatusReply>(bytes, |said| {
            drop(super::headline(said));
            shown::status(said);
        }),
        1 => {
            answers::<SourceRow, v1::SourcesReply>(bytes, |reply| reply.sources, shown::sources);
        }
        2 => taken::<ConnectionRow, v1::Connection>(bytes, shown::connection),
        3 => taken::<EventRow, v1::Event>(bytes, shown::event),
        4 => taken::<Explanation, v1::Explanation>(bytes, shown::explanation),
        5 => answers::<PlanRow, v1::PlanReply>(bytes, |reply| reply.steps, shown::plan),
        6 => taken::<ReloadReport, v1::ReloadReport>(bytes, |_| {}),
        7 => taken::<Done, v1::Done>(bytes, |_| {}),
        8 => taken::<TeardownReport, v1::TeardownReport>(bytes, shown::teardown),
        9 => {
            let Ok(asked) = v1::ExplainRequest::decode(bytes) else { return };
            taken::<Who, v1::Who>(&asked.who.unwrap_or_default().encode_to_vec(), |_| {});
            let to = asked.destination.unwrap_or_default().encode_to_vec();
            taken::<Destination, v1::Destination>(&to, |_| {});
        }
        10 => bounded(v1::SuspendRequest::decode(bytes).ok().and_then(|asked| asked.seconds)),
        11 => bounded(v1::BypassRequest::decode(bytes).ok().and_then(|asked| asked.seconds)),
        12 => bounded(v1::HoldRequest::decode(bytes).ok().and_then(|asked| asked.seconds)),
        13 => drop(v1::ResumeRequest::decode(bytes)),
        16 => taken::<OutcomeReport, v1::OutcomeReport>(bytes, |_| {}),
        17 => taken::<OutcomesTaken, v1::OutcomesTaken>(bytes, |_| {}),
        18 => taken::<Report, v1::ReportReply>(bytes, shown::report),
        19 => drop(v1::ReportRequest::decode(bytes).map(|asked| super::server::days(asked.days))),
        14 => drop(v1::TailRequest::decode(bytes).map(super::server::tail)),
        _ => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let reason = super::server::reason(text);
                assert_eq!(reason.is_err(), text.trim().is_empty());
            }
        }
    }
}

fn taken<T, P>(bytes: &[u8], show: impl FnOnce(&T))
where
    T: Wire<P> + Clone + Debug,
    P: Message + Default,
{
    let Ok(wire) = P::decode(bytes) else { return };
    match T::from_wire(wire) {
        Ok(said) => {
            show(&said);
            let sent = said.clone().to_wire().encode_to_vec();
            let again = P::decode(sent.as_slice()).map(T::from_wire);
            // By what is shown of them: a NaN equals nothing.
            let again = again.map(|said| said.map_err(|error| error.to_string()));
            assert_eq!(format!("{again:?}"), format!("Ok(Ok({said:?}))"));
        }
        // It names the place.
        Err(error) => assert!(error.to_string().contains(['.', ' ']), "{error}"),
    }
}

fn answers<T, P>(bytes: &[u8], rows: impl FnOnce(P) -> Vec<<T as Rows>::On>, show: impl FnOnce(&[T]))
where
    T: Rows + Wire<<T as Rows>::On>,
    P: Message + Default,
{
    let read: Option<Result<Vec<T>, _>> = P::decode(bytes).ok().map(|reply| Wire::from_wire(rows(reply)));
    if let Some(Ok(rows)) = read {
        show(&rows);
    }
}

/// What comes in rows, and as what.
trait Rows {
    type On;
}
impl Rows for SourceRow {
    type On = v1::Source;
}
impl Rows for PlanRow {
    type On = v1::PlanRow;
}

/// However long the span that is asked for, it ends at some time or is refused with a sentence.
fn bounded(seconds: Option<u64>) {
    let ends = seconds.map(std::time::Duration::from_secs).map(crate::daemon::until);
    assert!(ends.is_none_or(|ends| ends.map_or_else(|error| !error.to_string().is_empty(), |_| true)));
}
