//! Turns what the kernel notifies into triggers.
//!
//! Owns: the tasks that follow rtnetlink and the nftables notifications. Must not: look at what changed; the pass
//! that follows reads it afresh.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::reconcile::Trigger;
use crate::nftnl::Ours;
use crate::observe::nft::TableChange;
use crate::observe::{net, nft};

/// Pause after a failure, so that one that lasts does not keep a core busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts both.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    triggers: &mpsc::Sender<Trigger>,
    ours: &Ours,
) -> Result<()> {
    let (mut host, mut table) = (net::Monitor::open(net::RECEIVE_BUFFER)?, nft::Watch::open(ours.clone())?);
    let (ending, sender) = (stop.clone(), triggers.clone());
    tasks.spawn(async move {
        while let Some(changed) = until(&ending, host.changed()).await {
            if let Err(error) = changed {
                // Nothing is known now: a pass looks, and the watch goes on.
                warn!("watching the network failed: {error}");
                tokio::time::sleep(PAUSE).await;
            }
            if sender.send(Trigger::Host).await.is_err() {
                return;
            }
        }
    });
    let (ending, sender) = (stop.clone(), triggers.clone());
    tasks.spawn(async move {
        while let Some(change) = until(&ending, table.next()).await {
            let change = match change {
                Ok(change) => change,
                Err(error) => {
                    warn!("watching the table failed: {error}");
                    tokio::time::sleep(PAUSE).await;
                    TableChange { pid: None, program: None, what: "unknown change: the watch failed".into() }
                }
            };
            if sender.send(Trigger::Table(change)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// `None` once the agent ends.
async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop.cancelled() => None,
    }
}
