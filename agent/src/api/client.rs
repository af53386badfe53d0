//! The client: what commands ask a running agent with, in the words of the view.
//!
//! Owns: the connection and the errors a person can act on. Must not: print anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::convert::Wire;
use super::server::{ControlError, Tail, ViewStream};
use super::v1;
use super::view::{
    ConnectionRow, Destination, Done, EventRow, Explanation, OutcomeReport, OutcomesTaken, PlanRow,
    ReloadReport, Report, SourceRow, Status, TeardownReport, Who,
};

/// How long the agent may take to be reached, and to answer a question: it answers from memory.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a change may take: the answer comes when it is in effect.
const CHANGE: Duration = Duration::from_secs(60);

/// Why the agent could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error(
        "no agent answers at {0}\n  Start it with `systemctl start mailsteer`, or by hand: `mailsteer agent --config FILE`.\n  If it runs with another socket, give that with --socket."
    )]
    NotRunning(PathBuf),
    /// The socket may not be opened.
    #[error(
        "not allowed to open {0}\n  Run the command as root (`sudo mailsteer ...`), or as a member of the socket's group."
    )]
    Denied(PathBuf),
    /// Somebody holds the socket and does not answer.
    #[error(
        "the agent at {0} does not answer within 5 s\n  It may be hung: see `systemctl status mailsteer` and `journalctl -u mailsteer`. What is steered stays steered."
    )]
    Silent(PathBuf),
    /// Something else.
    #[error("cannot reach the agent at {path}")]
    Other {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A connection to a running agent.
#[derive(Clone, Debug)]
pub struct Client(v1::control_client::ControlClient<Channel>);

impl Client {
    /// Connects to the agent at a socket.
    ///
    /// # Errors
    /// [`ConnectError`], with what to do.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        let reached = tokio::time::timeout(ANSWER, Self::reach(path)).await;
        reached.unwrap_or_else(|_elapsed| Err(ConnectError::Silent(path.to_owned())))
    }

    async fn reach(path: &Path) -> Result<Self, ConnectError> {
        let socket = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ConnectError::NotRunning(path.to_owned())
            }
            io::ErrorKind::PermissionDenied => ConnectError::Denied(path.to_owned()),
            _ => ConnectError::Other { path: path.to_owned(), source: source.into() },
        })?;
        Self::over(socket)
            .await
            .map_err(|source| ConnectError::Other { path: path.to_owned(), source: source.into() })
    }

    /// Over a connection that stands already.
    ///
    /// # Errors
    /// When the other end does not speak gRPC.
    pub async fn over(socket: UnixStream) -> Result<Self, tonic::transport::Error> {
        // The endpoint's name is never looked up: the one connection is there already. Should it break, the request
        // fails rather than reach another agent half-way through.
        let mut once = Some(TokioIo::new(socket));
        let connector = tower::service_fn(move |_| {
            let socket = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { socket }
        });
        let channel =
            Endpoint::from_static("http://mailsteer.invalid").connect_with_connector(connector).await?;
        Ok(Self(v1::control_client::ControlClient::new(channel)))
    }

    /// The agent as a whole.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        Ok(Status::from_wire(within(ANSWER, self.0.status(v1::StatusRequest {})).await?)?)
    }

    /// Every source.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn sources(&mut self) -> Result<Vec<SourceRow>, ControlError> {
        Ok(Wire::from_wire(within(ANSWER, self.0.sources(v1::SourcesRequest {})).await?.sources)?)
    }

    /// The last connections.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn connections(&mut self, tail: Tail) -> Result<ViewStream<ConnectionRow>, ControlError> {
        Ok(viewed(within(ANSWER, self.0.connections(request(tail))).await?))
    }

    /// The last events.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn events(&mut self, tail: Tail) -> Result<ViewStream<EventRow>, ControlError> {
        Ok(viewed(within(ANSWER, self.0.events(request(tail))).await?))
    }

    /// What happens to one connection, and why.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn explain(&mut self, who: Who, to: Destination) -> Result<Explanation, ControlError> {
        let asked = v1::ExplainRequest { who: who.to_wire(), destination: to.to_wire() };
        Ok(Explanation::from_wire(within(ANSWER, self.0.explain(asked)).await?)?)
    }

    /// What would be done now.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn plan(&mut self) -> Result<Vec<PlanRow>, ControlError> {
        Ok(Wire::from_wire(within(ANSWER, self.0.plan(v1::PlanRequest {})).await?.steps)?)
    }

    /// Takes a source out of service.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn suspend(
        &mut self,
        source: String,
        span: Option<Duration>,
        reason: String,
    ) -> Result<Done, ControlError> {
        let asked = v1::SuspendRequest { source, seconds: span.map(|s| s.as_secs()), reason };
        Ok(Done::from_wire(within(CHANGE, self.0.suspend(asked)).await?)?)
    }

    /// Puts a source back.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn resume(&mut self, source: String, reason: String) -> Result<Done, ControlError> {
        Ok(Done::from_wire(within(CHANGE, self.0.resume(v1::ResumeRequest { source, reason })).await?)?)
    }

    /// Lets nothing change by itself, or ends that.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn hold(
        &mut self,
        span: Option<Duration>,
        end: bool,
        reason: String,
    ) -> Result<Done, ControlError> {
        let asked = v1::HoldRequest { seconds: span.map(|s| s.as_secs()), end, reason };
        Ok(Done::from_wire(within(CHANGE, self.0.hold(asked)).await?)?)
    }

    /// Lets a stream pass unsteered, or ends that.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn bypass(
        &mut self,
        stream: String,
        span: Option<Duration>,
        reason: String,
    ) -> Result<Done, ControlError> {
        let asked = v1::BypassRequest { stream, seconds: span.map(|s| s.as_secs()), reason };
        Ok(Done::from_wire(within(CHANGE, self.0.bypass(asked)).await?)?)
    }

    /// What each address did on so many days, today included.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn report(&mut self, days: u32) -> Result<Report, ControlError> {
        Ok(Report::from_wire(within(ANSWER, self.0.report(v1::ReportRequest { days })).await?)?)
    }

    /// Tells what became of messages.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn report_outcomes(
        &mut self,
        outcomes: Vec<OutcomeReport>,
    ) -> Result<OutcomesTaken, ControlError> {
        let asked = v1::OutcomeReports { outcomes: outcomes.to_wire() };
        Ok(OutcomesTaken::from_wire(within(CHANGE, self.0.report_outcome(asked)).await?)?)
    }

    /// Reads the config again.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn reload(&mut self) -> Result<ReloadReport, ControlError> {
        Ok(ReloadReport::from_wire(within(CHANGE, self.0.reload(v1::ReloadRequest {})).await?)?)
    }

    /// Removes everything of ours.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn teardown(&mut self) -> Result<TeardownReport, ControlError> {
        Ok(TeardownReport::from_wire(within(CHANGE, self.0.teardown(v1::TeardownRequest {})).await?)?)
    }
}

/// An answer, or that there is none in time. Of a stream this is its beginning: it may then take as long as it likes.
async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ControlError> {
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_elapsed) => Err(ControlError::Unavailable(format!(
            "the agent does not answer within {} s: see `systemctl status mailsteer` and `journalctl -u mailsteer`",
            patience.as_secs()
        ))),
    }
}

fn request(tail: Tail) -> v1::TailRequest {
    v1::TailRequest { last: u32::try_from(tail.last).unwrap_or(u32::MAX), follow: tail.follow }
}

fn viewed<T: Wire<P> + 'static, P: Send + 'static>(stream: tonic::Streaming<P>) -> ViewStream<T> {
    Box::pin(stream.map(|item| Ok(T::from_wire(item?)?)))
}
