//! The server behind the control socket: control, health and reflection.
//!
//! Owns: the way from a request to [`Control`]. Must not: know how an answer comes about. `Control` speaks in the words of the view, so that the daemon never sees the wire.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status as Rpc};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use super::convert::Wire;
use super::peer::{Access, PeerStream};
use super::socket::{ServeError, Socket};
use super::v1;
use super::view::{
    ConnectionRow, Destination, Done, EventRow, Explanation, OutcomeReport, OutcomesTaken, PlanRow,
    ReloadReport, Report, SourceRow, Status, TeardownReport, Who,
};

/// Why the agent did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such source or stream.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not now: the agent starts, or ends.
    #[error("{0}")]
    Unavailable(String),
    /// The caller may not.
    #[error("{0}")]
    Denied(String),
    /// The config is bad; the report says where and why. The old one stays in force.
    #[error("{0}")]
    BadConfig(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// A history as it goes on.
pub type ViewStream<T> = Pin<Box<dyn Stream<Item = Result<T, ControlError>> + Send>>;

/// How much of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// How many of the last ones, oldest first.
    pub last: usize,
    /// Go on with new ones.
    pub follow: bool,
}

/// What the agent answers. The socket is one user of it; tests put a fake behind it.
#[tonic::async_trait]
pub trait Control: Send + Sync + 'static {
    /// The agent as a whole.
    async fn status(&self) -> Result<Status, ControlError>;
    /// Every source, in the order of the config.
    async fn sources(&self) -> Result<Vec<SourceRow>, ControlError>;
    /// The last connections. A follower that is too slow gets [`ControlError::Unavailable`] as the last item.
    async fn connections(&self, tail: Tail) -> Result<ViewStream<ConnectionRow>, ControlError>;
    /// The last events.
    async fn events(&self, tail: Tail) -> Result<ViewStream<EventRow>, ControlError>;
    /// What happens to one connection, and why.
    async fn explain(&self, who: Who, destination: Destination) -> Result<Explanation, ControlError>;
    /// What would be done now.
    async fn plan(&self) -> Result<Vec<PlanRow>, ControlError>;
    /// Takes a source (name or public address) out of service; `None`: until resumed.
    async fn suspend(&self, source: &str, span: Option<Duration>, reason: &str)
    -> Result<Done, ControlError>;
    /// Puts a source back.
    async fn resume(&self, source: &str, reason: &str) -> Result<Done, ControlError>;
    /// Lets a stream pass unsteered; `None`: ends that.
    async fn bypass(&self, stream: &str, span: Option<Duration>, reason: &str) -> Result<Done, ControlError>;
    /// Lets nothing change by itself, or ends that; `None`: until it is ended.
    async fn hold(&self, span: Option<Duration>, end: bool, reason: &str) -> Result<Done, ControlError>;
    /// What each address did on so many days, today included.
    async fn report(&self, days: u32) -> Result<Report, ControlError>;
    /// Takes in what became of messages.
    async fn report_outcomes(&self, outcomes: Vec<OutcomeReport>) -> Result<OutcomesTaken, ControlError>;
    /// Reads the config again.
    async fn reload(&self) -> Result<ReloadReport, ControlError>;
    /// Removes everything of ours; the agent ends after it.
    async fn teardown(&self) -> Result<TeardownReport, ControlError>;
}

/// Whom the server lets in, and what it tells those who ask after its health.
#[derive(Clone, Debug)]
pub struct Door {
    /// Who may do what.
    pub access: Access,
    /// Whether every message leaves where it should, as far as is known.
    pub steering: watch::Receiver<bool>,
}

/// Name under which `grpc.health.v1` says whether every message leaves where it should; the empty name and that of the
/// service itself say only that the agent answers.
pub const STEERING: &str = "mailsteer.steering";

/// Serves `control` until cancelled; then lets running requests end, and removes the socket if it made it.
///
/// # Errors
/// When serving fails.
pub async fn serve(
    socket: Socket,
    control: Arc<dyn Control>,
    door: Door,
    cancellation: CancellationToken,
) -> Result<(), ServeError> {
    let (listener, file) = socket.apart();
    let (ending, following) = (cancellation.clone(), cancellation.clone());
    let Door { access, steering } = door;
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = access.reflection().then(description).transpose()?;
    let readers = access.clone();
    let service = v1::control_server::ControlServer::with_interceptor(
        Service { control, cancellation, access },
        move |request: Request<()>| readers.may_read(&request).map_err(Rpc::from).map(|()| request),
    );
    let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(PeerStream::new));
    let told = tell_health(reporter, steering, following);
    let served = tonic::transport::Server::builder()
        .add_service(health)
        .add_optional_service(reflection)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, ending.cancelled_owned());
    let (served, ()) = tokio::join!(served, told);
    if let Some(file) = file {
        file.remove();
    }
    Ok(served?)
}

/// What there is to call, for clients that do not know it beforehand (`grpcurl`).
fn description() -> Result<ServerReflectionServer<impl ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTION)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
}

/// Keeps what `grpc.health.v1` says up to date.
async fn tell_health(
    reporter: HealthReporter,
    mut steering: watch::Receiver<bool>,
    cancellation: CancellationToken,
) {
    reporter.set_service_status(v1::control_server::SERVICE_NAME, ServingStatus::Serving).await;
    loop {
        let well = *steering.borrow_and_update();
        let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(STEERING, status).await;
        tokio::select! {
            changed = steering.changed() => if changed.is_err() { break },
            () = cancellation.cancelled() => break,
        }
    }
    reporter.set_service_status("", ServingStatus::NotServing).await;
}

struct Service {
    control: Arc<dyn Control>,
    cancellation: CancellationToken,
    access: Access,
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, ControlError> {
    field.ok_or_else(|| ControlError::Invalid(format!("`{name}` is missing")))
}

pub(super) fn reason(text: &str) -> Result<&str, ControlError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ControlError::Invalid(
            "the reason is empty: say why, it stands in the events".to_owned(),
        ));
    }
    Ok(text)
}

type Wired<P> = Pin<Box<dyn Stream<Item = Result<P, Rpc>> + Send>>;

impl Service {
    /// A history on the wire; ends when the agent does, so that followers do not keep it from ending.
    fn wired<T, P>(&self, stream: ViewStream<T>) -> Response<Wired<P>>
    where
        T: Wire<P> + Send + 'static,
        P: Send + 'static,
    {
        let ending = self.cancellation.clone().cancelled_owned();
        Response::new(Box::pin(
            stream.map(|item| item.map(Wire::to_wire).map_err(Rpc::from)).take_until(ending),
        ))
    }
}

/// How many days a report may be of: a quarter.
pub(super) fn days(asked: u32) -> Result<u32, ControlError> {
    let fits = (1..=92).contains(&asked);
    fits.then_some(asked)
        .ok_or_else(|| ControlError::Invalid(format!("{asked} days: 1 to 92 can be asked for")))
}

pub(super) fn tail(request: v1::TailRequest) -> Tail {
    Tail { last: usize::try_from(request.last).unwrap_or(usize::MAX), follow: request.follow }
}

#[tonic::async_trait]
impl v1::control_server::Control for Service {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Rpc> {
        Ok(Response::new(self.control.status().await?.to_wire()))
    }

    async fn sources(&self, _: Request<v1::SourcesRequest>) -> Result<Response<v1::SourcesReply>, Rpc> {
        Ok(Response::new(v1::SourcesReply { sources: self.control.sources().await?.to_wire() }))
    }

    type ConnectionsStream = Wired<v1::Connection>;
    async fn connections(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::ConnectionsStream>, Rpc> {
        Ok(self.wired(self.control.connections(tail(request.into_inner())).await?))
    }

    type EventsStream = Wired<v1::Event>;
    async fn events(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::EventsStream>, Rpc> {
        Ok(self.wired(self.control.events(tail(request.into_inner())).await?))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Rpc> {
        let v1::ExplainRequest { who, destination } = request.into_inner();
        let who = Who::from_wire(required(who, "who")?).map_err(ControlError::from)?;
        let destination =
            Destination::from_wire(required(destination, "destination")?).map_err(ControlError::from)?;
        Ok(Response::new(self.control.explain(who, destination).await?.to_wire()))
    }

    async fn plan(&self, _: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Rpc> {
        Ok(Response::new(v1::PlanReply { steps: self.control.plan().await?.to_wire() }))
    }

    async fn suspend(&self, request: Request<v1::SuspendRequest>) -> Result<Response<v1::Done>, Rpc> {
        self.access.may_operate(&request)?;
        let asked = request.into_inner();
        let span = asked.seconds.map(Duration::from_secs);
        Ok(Response::new(self.control.suspend(&asked.source, span, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::Done>, Rpc> {
        self.access.may_operate(&request)?;
        let asked = request.into_inner();
        Ok(Response::new(self.control.resume(&asked.source, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn bypass(&self, request: Request<v1::BypassRequest>) -> Result<Response<v1::Done>, Rpc> {
        self.access.may_operate(&request)?;
        let asked = request.into_inner();
        let span = asked.seconds.map(Duration::from_secs);
        Ok(Response::new(self.control.bypass(&asked.stream, span, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::Done>, Rpc> {
        self.access.may_operate(&request)?;
        let asked = request.into_inner();
        let span = asked.seconds.map(Duration::from_secs);
        Ok(Response::new(self.control.hold(span, asked.end, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, Rpc> {
        Ok(Response::new(self.control.report(days(request.into_inner().days)?).await?.to_wire()))
    }

    async fn report_outcome(
        &self,
        request: Request<v1::OutcomeReports>,
    ) -> Result<Response<v1::OutcomesTaken>, Rpc> {
        self.access.may_operate(&request)?;
        let outcomes: Vec<OutcomeReport> =
            Wire::from_wire(request.into_inner().outcomes).map_err(ControlError::from)?;
        Ok(Response::new(self.control.report_outcomes(outcomes).await?.to_wire()))
    }

    async fn reload(&self, request: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadReport>, Rpc> {
        self.access.may_operate(&request)?;
        Ok(Response::new(self.control.reload().await?.to_wire()))
    }

    async fn teardown(
        &self,
        request: Request<v1::TeardownRequest>,
    ) -> Result<Response<v1::TeardownReport>, Rpc> {
        self.access.may_operate(&request)?;
        Ok(Response::new(self.control.teardown().await?.to_wire()))
    }
}
