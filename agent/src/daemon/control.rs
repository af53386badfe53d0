//! What the agent answers: reads go to what was published, commands to the reconciler.
//!
//! Owns: answers in the words of the view. Must not: know the wire, or change anything itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use mailsteer_core::decide::{Command, OperatorError};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::config::LoadError;
use super::counts::Gatherer;
use super::journal::Journal;
use super::outcomes::Reported;
use super::reconcile::Trigger;
use super::report;
use super::shared::{Published, Shared};
use super::status;
use crate::api::explained;
use crate::api::view::{
    ConnectionRow, Destination, Done, EventRow, Explanation, OutcomeReport, OutcomesTaken, PlanRow,
    ReloadReport, Report, SourceRow, Status, TeardownReport, Who,
};
use crate::api::{Control, ControlError, Tail, ViewStream};

/// Outcomes in one report: what the loop takes in is short work.
const MOST_OUTCOMES: usize = 10_000;

/// How long a report waits for the database before it does without.
const KEPT: Duration = Duration::from_secs(3);

/// What the API server calls.
pub(super) struct Handle {
    triggers: mpsc::Sender<Trigger>,
    shared: Arc<Shared>,
    gatherer: Arc<Gatherer>,
}

impl Handle {
    pub(super) const fn new(
        triggers: mpsc::Sender<Trigger>,
        shared: Arc<Shared>,
        gatherer: Arc<Gatherer>,
    ) -> Self {
        Self { triggers, shared, gatherer }
    }

    /// Counters as they stand now, not as they stood at the last reading.
    async fn count(&self) {
        self.gatherer.gather(&self.shared).await;
    }

    fn published(&self) -> Result<Arc<Published>, ControlError> {
        self.shared.published().ok_or_else(|| {
            ControlError::Unavailable("the agent is starting or has torn everything down".into())
        })
    }

    async fn ask<T>(&self, trigger: impl FnOnce(oneshot::Sender<T>) -> Trigger) -> Result<T, ControlError> {
        let ending = || ControlError::Unavailable("the agent is ending".into());
        let (sender, receiver) = oneshot::channel();
        self.triggers.send(trigger(sender)).await.map_err(|_closed| ending())?;
        receiver.await.map_err(|_closed| ending())
    }

    async fn command(&self, command: Command) -> Result<Done, ControlError> {
        let text =
            self.ask(|answer| Trigger::Command(command, answer)).await?.map_err(|error| refused(&error))?;
        Ok(Done { text, changed: true })
    }
}

fn refused(error: &OperatorError) -> ControlError {
    match error {
        OperatorError::UnknownSource { .. } | OperatorError::UnknownStream { .. } => {
            ControlError::NotFound(error.to_string())
        }
        OperatorError::NotSuspended { .. }
        | OperatorError::NotBypassed { .. }
        | OperatorError::NotHeld
        | OperatorError::Past => ControlError::Invalid(error.to_string()),
    }
}

/// When a span that begins now ends.
pub(crate) fn until(span: Duration) -> Result<Timestamp, ControlError> {
    let too_long = || ControlError::Invalid("that is longer than a clock can count".into());
    let span = SignedDuration::try_from(span).map_err(|_overflow| too_long())?;
    Timestamp::now().checked_add(span).map_err(|_overflow| too_long())
}

fn history<T: Clone + Send + 'static>(journal: &Journal<T>, tail: Tail) -> ViewStream<T> {
    if !tail.follow {
        return Box::pin(futures_util::stream::iter(journal.last(tail.last).into_iter().map(Ok)));
    }
    let (seen, receiver) = journal.follow(tail.last);
    let coming = futures_util::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(entry) => Some((Ok(entry), receiver)),
            Err(broadcast::error::RecvError::Closed) => None,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let text = format!("{missed} entries came faster than they were read and are left out here");
                Some((Err(ControlError::Unavailable(text)), receiver))
            }
        }
    });
    Box::pin(futures_util::stream::iter(seen.into_iter().map(Ok)).chain(coming))
}

#[tonic::async_trait]
impl Control for Handle {
    async fn status(&self) -> Result<Status, ControlError> {
        self.count().await;
        Ok(status::status(&self.shared, &*self.published()?))
    }

    async fn sources(&self) -> Result<Vec<SourceRow>, ControlError> {
        self.count().await;
        Ok(status::sources(&self.shared, &*self.published()?))
    }

    async fn connections(&self, tail: Tail) -> Result<ViewStream<ConnectionRow>, ControlError> {
        if let Some(why) = &self.published()?.locks.guard_error {
            return Err(ControlError::Unavailable(format!(
                "single connections are recorded by eBPF programs, and there are none here ({why}); `mailsteer sources` \
                 has what the rules count"
            )));
        }
        Ok(history(&self.shared.connections, tail))
    }

    async fn events(&self, tail: Tail) -> Result<ViewStream<EventRow>, ControlError> {
        Ok(history(&self.shared.events, tail))
    }

    async fn explain(&self, who: Who, destination: Destination) -> Result<Explanation, ControlError> {
        let published = self.published()?;
        Ok(explained(&published.world, &published.decision.desired, who, destination))
    }

    async fn plan(&self) -> Result<Vec<PlanRow>, ControlError> {
        let published = self.published()?;
        super::file::rows(&published.pending).map_err(|error| ControlError::Failed(error.to_string()))
    }

    async fn suspend(
        &self,
        source: &str,
        span: Option<Duration>,
        reason: &str,
    ) -> Result<Done, ControlError> {
        let until = span.map(until).transpose()?;
        self.command(Command::Suspend { source: source.into(), until, reason: reason.into() }).await
    }

    async fn resume(&self, source: &str, reason: &str) -> Result<Done, ControlError> {
        self.command(Command::Resume { source: source.into(), reason: reason.into() }).await
    }

    async fn bypass(&self, stream: &str, span: Option<Duration>, reason: &str) -> Result<Done, ControlError> {
        let (stream, reason) = (stream.to_owned(), reason.to_owned());
        let command = match span {
            Some(span) => Command::Bypass { stream, until: until(span)?, reason },
            None => Command::EndBypass { stream, reason },
        };
        self.command(command).await
    }

    async fn hold(&self, span: Option<Duration>, end: bool, reason: &str) -> Result<Done, ControlError> {
        let reason = reason.to_owned();
        let command = if end {
            Command::EndHold { reason }
        } else {
            Command::Hold { until: span.map(until).transpose()?, reason }
        };
        self.command(command).await
    }

    async fn report(&self, days: u32) -> Result<Report, ControlError> {
        self.count().await;
        let published = self.published()?;
        let today = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date();
        let span = (report::first(today, days), today);
        let kept = match tokio::time::timeout(KEPT, self.shared.store.days(span.0)).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(_busy)) => Err("the state database is busy or closed".to_owned()),
            Err(_late) => Err("the disk does not answer".to_owned()),
        };
        let counted = self.gatherer.checkpoint().await;
        Ok(report::report(span, kept, &counted.days, &counted.sources, &published.world))
    }

    async fn report_outcomes(&self, outcomes: Vec<OutcomeReport>) -> Result<OutcomesTaken, ControlError> {
        if outcomes.len() > MOST_OUTCOMES {
            return Err(ControlError::Invalid(format!("at most {MOST_OUTCOMES} outcomes at once")));
        }
        let published = self.published()?;
        self.shared.claims.of_reports(&outcomes);
        self.shared.outcomes.caught_up().await;
        let (delivered, taken) = self.shared.outcomes.take(outcomes, &published.world, Timestamp::now());
        let reported = Reported::new(delivered, &taken, None);
        let ending = |_closed| ControlError::Unavailable("the agent is ending".into());
        self.triggers.send(Trigger::Delivered(reported, None)).await.map_err(ending)?;
        Ok(taken)
    }

    async fn reload(&self) -> Result<ReloadReport, ControlError> {
        self.ask(Trigger::Reload)
            .await?
            .map_err(|error: LoadError| ControlError::BadConfig(error.to_string()))
    }

    async fn teardown(&self) -> Result<TeardownReport, ControlError> {
        self.ask(Trigger::Teardown).await
    }
}

/// An address as the maps hold it: IPv4 mapped into IPv6.
pub(super) fn unmapped(bytes: [u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(bytes).to_canonical()
}
