//! The control socket: made with its permissions right from the start, or passed in by the service manager.
//!
//! Owns: the socket file. A socket that was passed in belongs to who made it: it is neither made nor removed here.
//! Must not: serve.

use std::io;
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

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
    /// What was passed in cannot be listened on.
    #[error(
        "the socket that the service manager passed in cannot be used: see ListenStream= in mailsteer.socket"
    )]
    Passed(#[source] io::Error),
    /// Reflection could not be set up.
    #[error("the gRPC description of the control socket is damaged")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Serving ended with an error.
    #[error("the control socket failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// At this path, which is made and removed.
    At(PathBuf),
    /// On a socket that is there already.
    Passed(std::os::unix::net::UnixListener),
}

/// Which file a socket is: a path may name another one by now.
type Inode = (u64, u64);

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// The file to remove at the end.
    file: Option<File>,
}

/// A socket's file, known by more than its name.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    inode: Inode,
}

impl Socket {
    /// Makes it, or takes over the one that is there.
    ///
    /// # Errors
    /// [`ServeError`]: another agent answers there, or it cannot be made.
    pub fn open(listen: Listen) -> Result<Self, ServeError> {
        match listen {
            Listen::At(path) => {
                let (listener, inode) = bind(&path)?;
                Ok(Self { listener, file: Some(File { path, inode }) })
            }
            Listen::Passed(listener) => {
                listener.set_nonblocking(true).map_err(ServeError::Passed)?;
                let listener = UnixListener::from_std(listener).map_err(ServeError::Passed)?;
                Ok(Self { listener, file: None })
            }
        }
    }

    pub(super) fn apart(self) -> (UnixListener, Option<File>) {
        (self.listener, self.file)
    }
}

impl File {
    /// Another agent's socket at the same place is left to it.
    pub(super) fn remove(self) {
        let removed = inode(&self.path).and_then(|found| {
            if found == self.inode {
                std::fs::remove_file(&self.path)
            } else {
                Err(io::Error::other("it is another's by now"))
            }
        });
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "the control socket stays");
        }
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
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
