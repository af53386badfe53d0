//! The server: a Unix socket whose permissions are right from the start, and the service behind it.
//!
//! Owns: the socket file, who may operate, and the way from a request to [`Control`]. Must not: know how an answer
//! comes about. `Control` speaks in the words of the view, so that the daemon never sees the wire.

use std::io;
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status as Rpc};

use super::convert::Wire;
use super::v1;
use super::view::{
    ConnectionRow, Destination, Done, EventRow, Explanation, PlanRow, ReloadReport, SourceRow, Status,
    TeardownReport, Who,
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

/// Why the socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent answers there.
    #[error("another agent answers at {0}: stop it first, or give this one another --socket")]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{0} exists and is no socket: remove it, or give another --socket")]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("cannot make the control socket {path}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Serving ended with an error.
    #[error("the control socket failed")]
    Transport(#[from] tonic::transport::Error),
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
    /// Reads the config again.
    async fn reload(&self) -> Result<ReloadReport, ControlError>;
    /// Removes everything of ours; the agent ends after it.
    async fn teardown(&self) -> Result<TeardownReport, ControlError>;
}

/// Serves `control` at `path` until cancelled; then lets running requests end, and removes the socket.
///
/// # Errors
/// [`ServeError`]: another agent answers there, the socket cannot be made, or serving fails.
pub async fn serve(
    path: &Path,
    control: Arc<dyn Control>,
    cancellation: CancellationToken,
) -> Result<(), ServeError> {
    let (listener, ours) = bind(path)?;
    let ending = cancellation.clone();
    let service = v1::control_server::ControlServer::new(Service { control, cancellation });
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), ending.cancelled_owned())
        .await;
    if let Err(error) = remove_ours(path, ours) {
        tracing::debug!(path = %path.display(), %error, "the control socket stays");
    }
    Ok(served?)
}

/// Which file a socket is: a path may name another one by now.
type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Another agent's socket at the same place is left to it.
fn remove_ours(path: &Path, ours: Inode) -> io::Result<()> {
    if inode(path)? != ours {
        return Err(io::Error::other("it is another's by now"));
    }
    std::fs::remove_file(path)
}

fn bind(path: &Path) -> Result<(UnixListener, Inode), ServeError> {
    let failed = |source| ServeError::Bind { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(failed)?;
    }
    remove_stale(path)?;
    // Bound beside its place in a directory that only we can enter, given its mode, then moved: there is no moment
    // at which others could open it, and the process's umask (shared by all threads) is left alone.
    let parent = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let private = Private::create(parent).map_err(failed)?;
    bind_and_move(&private.0.join("s"), path).map_err(failed)
}

fn bind_and_move(private: &Path, path: &Path) -> io::Result<(UnixListener, Inode)> {
    let listener = UnixListener::bind(private)?;
    std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o660))?;
    let ours = inode(private)?;
    std::fs::rename(private, path)?;
    Ok((listener, ours))
}

/// A directory for the moment of binding, which goes with this value, whatever fails meanwhile.
struct Private(PathBuf);

impl Private {
    fn create(parent: &Path) -> io::Result<Self> {
        let private = Self(parent.join(format!(".mailsteer-{}", std::process::id())));
        // One that was killed at this point may have had the same number.
        private.remove();
        std::fs::DirBuilder::new().mode(0o700).create(&private.0)?;
        Ok(private)
    }

    fn remove(&self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a directory was left behind");
            }
            _ => {}
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes a socket that nobody answers; anything else at its place is an error.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(stream) => {
            stream.shutdown(Shutdown::Both).map_err(failed)?;
            Err(ServeError::InUse(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

struct Service {
    control: Arc<dyn Control>,
    cancellation: CancellationToken,
}

/// Only root and the agent's own user may change anything.
fn may_operate<T>(request: &Request<T>) -> Result<(), ControlError> {
    let uid = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred)
        .map(|credentials| credentials.uid());
    match uid {
        Some(uid) if uid == 0 || uid == nix::unistd::geteuid().as_raw() => Ok(()),
        Some(uid) => Err(ControlError::Denied(format!(
            "uid {uid} may look and not operate: run the command as root, or as the agent's own user"
        ))),
        None => Err(ControlError::Denied("the socket does not say who asks".to_owned())),
    }
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, ControlError> {
    field.ok_or_else(|| ControlError::Invalid(format!("`{name}` is missing")))
}

fn reason(text: &str) -> Result<&str, ControlError> {
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

fn tail(request: v1::TailRequest) -> Tail {
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
        may_operate(&request)?;
        let asked = request.into_inner();
        let span = asked.seconds.map(Duration::from_secs);
        Ok(Response::new(self.control.suspend(&asked.source, span, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::Done>, Rpc> {
        may_operate(&request)?;
        let asked = request.into_inner();
        Ok(Response::new(self.control.resume(&asked.source, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn bypass(&self, request: Request<v1::BypassRequest>) -> Result<Response<v1::Done>, Rpc> {
        may_operate(&request)?;
        let asked = request.into_inner();
        let span = asked.seconds.map(Duration::from_secs);
        Ok(Response::new(self.control.bypass(&asked.stream, span, reason(&asked.reason)?).await?.to_wire()))
    }

    async fn reload(&self, request: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadReport>, Rpc> {
        may_operate(&request)?;
        Ok(Response::new(self.control.reload().await?.to_wire()))
    }

    async fn teardown(
        &self,
        request: Request<v1::TeardownRequest>,
    ) -> Result<Response<v1::TeardownReport>, Rpc> {
        may_operate(&request)?;
        Ok(Response::new(self.control.teardown().await?.to_wire()))
    }
}
