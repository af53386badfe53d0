//! One look at everything that a pass compares with what is desired.
//!
//! Owns: the long-lived socket for reading. Must not: remember; what was read last is the daemon's to keep.

use std::collections::BTreeSet;

use mailsteer_core::model::Host;
use mailsteer_core::plan::{RouteAt, RuleSpec};
use thiserror::Error;

use super::net::{self, OurNet};
use super::nft::{self, Standing};
use crate::netlink::{Connection, NetError};
use crate::nftnl::NetlinkError;

/// Why a look failed.
#[derive(Debug, Error)]
pub enum LookError {
    /// Links, addresses, routes or rules.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The table.
    #[error("cannot read the table")]
    Table(#[from] NetlinkError),
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Look {
    /// Links, addresses and routes.
    pub host: Host,
    /// Routes of ours.
    pub routes: Vec<RouteAt>,
    /// Policy routing rules of ours.
    pub rules: Vec<RuleSpec>,
    /// The table, if it was asked for and is there.
    pub table: Option<Standing>,
}

/// Looks.
pub struct Looker {
    connection: Connection,
}

impl Looker {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn open() -> Result<Self, LookError> {
        Ok(Self { connection: Connection::open()? })
    }

    /// Looks at the network, and at the table where asked to: a large one takes time.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub async fn look(&self, table: bool) -> Result<Look, LookError> {
        let handle = self.connection.handle();
        let table = if table { nft::read().await? } else { None };
        let OurNet { routes, rules, .. } = net::ours(handle, &BTreeSet::new()).await?;
        Ok(Look { host: net::snapshot(handle).await?, routes, rules, table })
    }
}
