//! Runs the nft program.
//!
//! Owns: one run, with its time limit, its words on stderr and its exit status. Must not: understand rules. (The
//! `nftables` crate's own runner loses stderr and has no time limit.)

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::nftnl::Ours;

/// Where distributions put it. No search path: the agent is privileged.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// 262,144 elements take 1.3 s; a kernel under memory pressure takes longer. The reconcile loop waits meanwhile, so that
/// a service manager's watchdog must be more patient than this.
const LIMIT: Duration = Duration::from_secs(15);
/// So much of nft's complaint is kept: it echoes the line it dislikes, which may be a whole map.
const COMPLAINT: usize = 2000;

/// Why nft did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not installed.
    #[error("the nft program is in none of {}: install the nftables package", PLACES.join(", "))]
    Missing,
    /// It could not be started.
    #[error("{program} cannot be run")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("nft did not finish within {} s", LIMIT.as_secs())]
    Timeout,
    /// It refused the rules: none of them stands.
    #[error("nft failed ({status}): {complaint}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        complaint: String,
    },
}

/// The nft program.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find() -> Result<Self, RunError> {
        let program = PLACES.iter().map(Path::new).find(|path| path.is_file()).ok_or(RunError::Missing)?;
        Ok(Self { program: program.to_owned() })
    }

    /// Carries out one JSON batch, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When nft could not be run or refused; then nothing was changed. After a timeout that is not known.
    pub async fn run(&self, batch: &serde_json::Value, ours: &Ours) -> Result<(), RunError> {
        let start = |source| RunError::Start { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .args(["-j", "-f", "-"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        if let Some(pid) = child.id() {
            ours.add_pid(pid);
        }
        let input = batch.to_string();
        let stdin = child.stdin.take();
        let feed = async move {
            // nft that dies early closes the pipe; its exit status tells why.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let whole = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output =
            tokio::time::timeout(LIMIT, whole).await.map_err(|_| RunError::Timeout)?.map_err(start)?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr).trim().chars().take(COMPLAINT).collect();
        Err(RunError::Failed { status: output.status, complaint })
    }
}
