//! Writes our nftables table: rules by the nft program, elements by netlink.
//!
//! Owns: the table, from creation to teardown, and every change to it. Must not: decide what it says. Constant
//! rules, moving elements.
//!
//! Where the kernel can (6.9), the table is owned and persistent: a stranger's `nft flush ruleset` skips it, and it
//! outlives us. Then only our socket may change it, so a rule change releases the table (closes the socket), runs
//! nft, and adopts the table again; the eBPF guard covers that window.

mod flip;
mod render;
mod runner;
mod timeouts;

use std::collections::BTreeMap;
use std::net::IpAddr;

use mailsteer_core::config::OwnTable;
use mailsteer_core::model::{LaneId, ReceiverSets, SourceId};
use mailsteer_core::plan::{SlotChange, TableSpec};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableFlags, TableMessage};

use crate::nftnl::{
    self, Connection, FLAG_OWNER, FLAG_PERSIST, Fingerprint, NetlinkError, Ours, TABLE, TableInfo,
};
pub use render::{Batch, Elements, render};
pub use runner::{Nft, RunError};

/// Why the table could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The nft program failed; the old rules stand.
    #[error("the rules could not be written")]
    Nft(#[from] RunError),
    /// nf_tables could not be asked or told.
    #[error("nf_tables cannot be reached or refused (is CAP_NET_ADMIN there?)")]
    Netlink(#[from] NetlinkError),
    /// A rule cannot be written as JSON.
    #[error("the rules cannot be rendered")]
    Render(#[from] serde_json::Error),
    /// Someone else owns the table.
    #[error("table inet {TABLE} is owned by another process (netlink port {0}): is a second agent running?")]
    OwnedByOther(u32),
    /// The kernel's state is not what the change was computed from: observe again, and plan again.
    #[error("the table does not stand as believed: {0}")]
    Belief(String),
    /// The transaction went through, and something else stands.
    #[error("read back after writing, the table differs: {0}")]
    ReadBack(String),
}

/// Numbers that living connections may bear.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbers {
    /// Addresses of source ids.
    pub sources: BTreeMap<SourceId, IpAddr>,
    /// Streams and providers of lane ids.
    pub lanes: BTreeMap<LaneId, (String, String)>,
}

/// Our table, for writing.
pub struct Table {
    nft: Nft,
    mode: OwnTable,
    ours: Ours,
    connection: Option<Connection>,
    owned: bool,
}

impl Table {
    /// Creates the table if it is not there, or adopts the one that stands. `ours` learns which sockets and
    /// processes are ours, for the watch.
    ///
    /// # Errors
    /// When nft is missing, nf_tables cannot be reached, or another process owns the table.
    pub fn open(mode: OwnTable, ours: Ours) -> Result<Self, Error> {
        let mut table = Self { nft: Nft::find()?, mode, ours, connection: None, owned: false };
        table.connection()?;
        Ok(table)
    }

    /// Whether strangers are kept from changing or flushing the table.
    #[must_use]
    pub const fn owned(&self) -> bool {
        self.owned
    }

    /// Owns the table from now on, or no longer. The socket that owned it goes first: the kernel lets a table have
    /// one owner.
    ///
    /// # Errors
    /// When nf_tables cannot be reached, or another process owns the table.
    pub fn own(&mut self, mode: OwnTable) -> Result<(), Error> {
        self.connection = None;
        self.mode = mode;
        self.connection().map(drop)
    }

    /// The numbers that stand in the table: addresses of sources, and names of lanes where it was written without a
    /// guard.
    ///
    /// # Errors
    /// When nf_tables cannot be reached.
    pub fn numbers(&mut self) -> Result<Numbers, Error> {
        let connection = self.connection()?;
        let sources = nftnl::contents(connection)?.translations;
        Ok(Numbers { sources, lanes: nftnl::lane_names(connection)? })
    }

    /// Writes rules and elements in one transaction, and reads them back.
    ///
    /// # Errors
    /// When nft refuses (the old rules stand), or what stands afterwards differs.
    pub async fn apply(&mut self, spec: &TableSpec, elements: Elements<'_>) -> Result<Fingerprint, Error> {
        let connection = self.connection()?;
        let standing = nftnl::chains(connection)?;
        let timeouts = timeouts::ensure(connection)?;
        let sets = nftnl::sets(connection)?;
        if !spec.guarded {
            connection.transaction(nftnl::declared_pairs())?;
        }
        let batch = render(spec, elements, &standing, &sets, timeouts)?;
        if self.owned {
            self.connection = None;
        }
        let run = self.nft.run(&batch.json, &self.ours).await;
        let connection = self.connection()?;
        run?;
        read_back(connection, &batch, elements)
    }

    /// Moves elements in one transaction: translations added, slots moved, translations removed.
    ///
    /// # Errors
    /// [`Error::Belief`] when the elements do not stand as the change assumes.
    pub async fn flip(
        &mut self,
        add: &BTreeMap<SourceId, IpAddr>,
        slots: &[SlotChange],
        remove: &BTreeMap<SourceId, IpAddr>,
    ) -> Result<(), Error> {
        flip::flip(self.connection()?, add, slots, remove)
    }

    /// Changes which addresses are whose, in one transaction. `named`: the providers in the order of their sets.
    ///
    /// # Errors
    /// [`Error::Belief`] when the sets do not stand as the change assumes.
    pub fn receivers(
        &mut self,
        named: &[String],
        add: &ReceiverSets,
        remove: &ReceiverSets,
    ) -> Result<(), Error> {
        flip::receivers(self.connection()?, named, add, remove)
    }

    /// Removes the table with everything in it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn teardown(&mut self) -> Result<(), Error> {
        let connection = self.connection()?;
        Ok(connection.transaction(vec![(NfTablesMessage::DeleteTable(named(None)), 0)])?)
    }

    /// The long-lived socket; claims the table where it was let go.
    fn connection(&mut self) -> Result<&mut Connection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open()?,
        };
        let connection = self.connection.insert(connection);
        self.ours.add_port(connection.port());
        self.owned = claim(connection, self.mode)?;
        Ok(connection)
    }
}

fn named(flags: Option<u32>) -> TableMessage {
    let mut attributes = vec![TableAttribute::Name(TABLE.into())];
    attributes.extend(flags.map(|flags| TableAttribute::Flags(TableFlags::from_bits_retain(flags))));
    TableMessage { attributes }
}

/// Makes sure that the table is there, and ours where the kernel and the mode allow. Returns whether it is owned.
fn claim(connection: &mut Connection, mode: OwnTable) -> Result<bool, Error> {
    let owned = FLAG_OWNER | FLAG_PERSIST;
    match nftnl::table(connection)? {
        Some(TableInfo { owner: Some(port), .. }) if port == connection.port() => Ok(true),
        Some(TableInfo { owner: Some(port), .. }) => Err(Error::OwnedByOther(port)),
        Some(TableInfo { flags, .. }) if mode == OwnTable::Auto && flags & FLAG_PERSIST != 0 => {
            make(connection, owned)?;
            Ok(true)
        }
        // A table that was made without owner cannot get one, and deleting it would harm live connections.
        Some(_) => Ok(false),
        None if mode == OwnTable::Never => make(connection, 0).map(|()| false),
        None => match make(connection, owned) {
            Ok(()) => Ok(true),
            Err(Error::Netlink(error)) if matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                make(connection, 0).map(|()| false)
            }
            Err(error) => Err(error),
        },
    }
}

fn make(connection: &mut Connection, flags: u32) -> Result<(), Error> {
    Ok(connection.transaction(vec![(NfTablesMessage::NewTable(named(Some(flags))), NLM_F_CREATE)])?)
}

fn read_back(
    connection: &mut Connection,
    batch: &Batch,
    Elements { slots, translations, receivers }: Elements<'_>,
) -> Result<Fingerprint, Error> {
    let differs = |what: &str| Err(Error::ReadBack(what.to_owned()));
    let found = nftnl::contents(connection)?;
    if nftnl::rule_count(connection)? != batch.rules {
        return differs("the number of rules");
    }
    if !found.are(slots, translations, receivers) {
        return differs("slots, addresses of sources, or receivers");
    }
    match nftnl::fingerprint(connection)? {
        Some(fingerprint) => Ok(fingerprint),
        None => differs("it is gone"),
    }
}
