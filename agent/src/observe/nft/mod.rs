//! Reads our nftables table: what the maps hold, what was counted, and who touched it.
//!
//! Owns: reading and watching. Must not: change anything. Call from a thread in the table's network namespace.

mod watch;

use std::collections::BTreeMap;

use crate::nftnl::{self, Connection, Contents, Counted, Counter, Fingerprint, NetlinkError, Pair, PairSet};
pub(crate) use watch::Heard;
pub use watch::{TableChange, Watch};

/// The table as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// What the maps hold.
    pub contents: Contents,
    /// All rules, chains and excluded destinations in one number.
    pub fingerprint: Fingerprint,
    /// Strangers cannot change or flush it.
    pub owned: bool,
}

/// What the table's counters say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// By what they count.
    pub known: BTreeMap<Counter, u64>,
    /// By name, those that are not ours.
    pub others: BTreeMap<String, u64>,
    /// What the rules count of each lane and source where no eBPF program does.
    pub pairs: BTreeMap<PairSet, BTreeMap<Pair, Counted>>,
    /// Number of the very table; `None`: there is none.
    pub table: Option<u64>,
}

/// Reads the table; `None`: there is none.
///
/// # Errors
/// When nf_tables cannot be reached, or would not stand still.
pub async fn read() -> Result<Option<Standing>, NetlinkError> {
    apart(|connection| {
        let Some(fingerprint) = nftnl::fingerprint(connection)? else { return Ok(None) };
        let contents = nftnl::contents(connection)?;
        let owned = nftnl::table(connection)?.is_some_and(|table| table.owner.is_some());
        Ok(Some(Standing { contents, fingerprint, owned }))
    })
    .await
}

/// Reads the counters; none where there is no table.
///
/// # Errors
/// When nf_tables cannot be reached.
pub async fn counters() -> Result<Counts, NetlinkError> {
    let look = |connection: &mut Connection| {
        let before = nftnl::table(connection)?.map(|table| table.handle);
        let counted = nftnl::counters(connection)?;
        let mut pairs = BTreeMap::new();
        for set in PairSet::ALL {
            pairs.insert(set, nftnl::pairs(connection, set)?);
        }
        let after = nftnl::table(connection)?.map(|table| table.handle);
        Ok((counted, pairs, after.filter(|_| before == after)))
    };
    // Of a table that is replaced meanwhile nobody can tell which was counted: none is.
    let (counted, pairs, table) = apart(look).await?;
    if table.is_none() {
        return Ok(Counts::default());
    }
    let mut counts = Counts { table, pairs, ..Counts::default() };
    for (name, packets) in counted {
        match Counter::parse(&name) {
            Some(counter) => counts.known.insert(counter, packets),
            None => counts.others.insert(name, packets),
        };
    }
    Ok(counts)
}

/// Large maps take milliseconds: away from the async threads. The socket is opened here, in the caller's namespace.
async fn apart<T: Send + 'static>(
    work: impl FnOnce(&mut Connection) -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, NetlinkError> {
    let mut connection = Connection::open()?;
    match tokio::task::spawn_blocking(move || work(&mut connection)).await {
        Ok(result) => result,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}
