//! What each address did on each day.
//!
//! Owns: those counts, and every statement that reads or writes them. The last two days are in memory, as part of the
//! checkpoint; earlier ones only stand in the database and are read when somebody asks. Must not: count, or know the day.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::civil::Date;
use rusqlite::{Connection, Error, Row, params_from_iter};

use super::rows::{address, unreadable};
use super::schema;

/// The first schema that has days.
const SINCE: u32 = 3;
const COUNTS: &str = "attempted, established, accepted, deferred, blocked, bounced, complaints, listed, \
                      listed_seconds, flips";

macro_rules! did {
    ($($field:ident $help:literal;)*) => {
        /// What an address did on a day.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Did {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl Did {
            /// Adds another day's, or a part of the same.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }

            /// In the order of the columns.
            fn values(&self) -> Vec<i64> {
                vec![$(i64::try_from(self.$field).unwrap_or(i64::MAX)),*]
            }

            fn of(mut next: impl FnMut() -> Result<u64, Error>) -> Result<Self, Error> {
                Ok(Self { $($field: next()?),* })
            }
        }
    };
}

did! {
    attempted "Connections whose first SYN left.";
    established "Those that were answered.";
    accepted "Messages that receivers took, as far as replies were reported.";
    deferred "Messages that they put off.";
    blocked "Replies that refuse the address itself, for now or for good.";
    bounced "Messages that they refused for good, for another reason.";
    complaints "Complaints of recipients.";
    listed "How often a DNS list took it up.";
    listed_seconds "For how long it was on any.";
    flips "How often it lost a share of a stream.";
}

/// By day and public address.
pub type Days = BTreeMap<(Date, IpAddr), Did>;

/// What the database has of some days.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptDays {
    /// From the day that was asked for on.
    pub days: Days,
    /// The first day of all that it has.
    pub since: Option<Date>,
}

/// The last two days that there are.
pub(super) fn last(connection: &Connection) -> Result<Days, Error> {
    let last = "WHERE day IN (SELECT DISTINCT day FROM days ORDER BY day DESC LIMIT 2)";
    read(connection, last, &[])
}

/// From a day on.
pub(super) fn since(connection: &Connection, first: Date) -> Result<KeptDays, Error> {
    let days = read(connection, "WHERE day >= ?1", &[first.to_string()])?;
    if schema::version(connection)? < SINCE {
        return Ok(KeptDays::default());
    }
    let since: Option<String> = connection.query_row("SELECT min(day) FROM days", [], |row| row.get(0))?;
    Ok(KeptDays { days, since: since.map(|day| parsed(&day)).transpose()? })
}

fn read(connection: &Connection, which: &str, with: &[String]) -> Result<Days, Error> {
    // An earlier schema, on a disk that takes no migration.
    if schema::version(connection)? < SINCE {
        return Ok(Days::new());
    }
    let mut statement = connection.prepare(&format!("SELECT day, source, {COUNTS} FROM days {which}"))?;
    statement.query_map(params_from_iter(with), row)?.collect()
}

fn row(row: &Row<'_>) -> Result<((Date, IpAddr), Did), Error> {
    let mut column = 1;
    let did = Did::of(|| {
        column += 1;
        Ok(row.get::<_, i64>(column)?.max(0).unsigned_abs())
    })?;
    Ok(((parsed(&row.get::<_, String>(0)?)?, address(1, &row.get::<_, String>(1)?)?), did))
}

fn parsed(day: &str) -> Result<Date, Error> {
    day.parse().map_err(|error| unreadable(0, error))
}

/// Writes what changed. What is known no more stays as it stands.
pub(super) fn write(connection: &Connection, days: &Arc<Days>, written: &Arc<Days>) -> Result<(), Error> {
    if Arc::ptr_eq(days, written) {
        return Ok(());
    }
    let marks = ["?"; 12].join(", ");
    let mut statement = connection
        .prepare(&format!("INSERT OR REPLACE INTO days (day, source, {COUNTS}) VALUES ({marks})"))?;
    for ((day, source), did) in days.iter().filter(|(key, did)| written.get(key) != Some(did)) {
        let counts = did.values().into_iter().map(rusqlite::types::Value::Integer);
        let key = [day.to_string(), source.to_string()].map(rusqlite::types::Value::Text);
        statement.execute(params_from_iter(key.into_iter().chain(counts)))?;
    }
    Ok(())
}

/// Deletes what is from before a day; the last two days stay, for a clock that jumps ahead must not empty it.
pub(super) fn retire(connection: &Connection, before: Date) -> Result<(), Error> {
    let sql = "DELETE FROM days WHERE day < ?1 \
               AND day NOT IN (SELECT DISTINCT day FROM days ORDER BY day DESC LIMIT 2)";
    connection.execute(sql, [before.to_string()]).map(drop)
}
