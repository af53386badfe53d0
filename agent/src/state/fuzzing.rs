//! Hostile rows and files for [`super`].
//!
//! Owns: a database with anything in it. Must not: be called by the agent. What is read must be written as it was read,
//! what cannot be read is called damage, and then the rest is still told.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::rows::{self, Checkpoint, Heard, Kept};
use super::schema::{self, MIGRATIONS};
use super::written::{self, Changes};
use super::{StateError, import};

/// Each table that is read, and how many columns it has.
pub const TABLES: [(&str, usize); 15] = [
    ("sources", 5),
    ("counters", 5),
    ("origins", 2),
    ("readings", 5),
    ("growth", 3),
    ("events", 6),
    ("verdicts", 9),
    ("bypasses", 6),
    ("holds", 6),
    ("beliefs", 2),
    ("days", 12),
    ("logs", 3),
    ("replies", 3),
    ("fuses", 7),
    ("unjoined", 2),
];

/// A value of a row.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// NULL.
    Nothing,
    /// An integer.
    Number(i64),
    /// A text.
    Text(String),
    /// Bytes, which SQLite takes for a text where they are cast to one.
    Bytes(Vec<u8>),
}

/// `operator.json`.
pub fn operator(bytes: &[u8]) {
    if let Err(error) = import::parse(bytes) {
        assert!(error.to_string().contains("line"), "{error}");
    }
}

/// Rows by the place of their table in [`TABLES`].
pub fn database(rows: &[(usize, Vec<Cell>)]) {
    let Some(connection) = empty() else { return };
    for (table, cells) in rows {
        let (name, columns) = TABLES[table % TABLES.len()];
        let marks: Vec<&str> = (0..columns)
            .map(|at| if matches!(cells.get(at), Some(Cell::Bytes(_))) { "CAST(? AS TEXT)" } else { "?" })
            .collect();
        let sql = format!("INSERT OR REPLACE INTO {name} VALUES ({})", marks.join(", "));
        let values = (0..columns).map(|at| cells.get(at).map_or(Value::Null, Value::from));
        // What the schema itself refuses cannot stand there.
        let _refused = connection.execute(&sql, params_from_iter(values));
    }
    let (salvaged, lost) = rows::salvage(&connection);
    match rows::read(&connection) {
        Ok(kept) => {
            assert!(lost.is_empty(), "{lost:?}");
            assert_eq!(kept, salvaged);
            comes_back(kept);
        }
        Err(error) => {
            let error = StateError::of("/nowhere/mailsteer.db".as_ref(), error);
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        }
    }
}

fn empty() -> Option<Connection> {
    let mut connection = Connection::open_in_memory().ok()?;
    schema::migrate(&mut connection, "/nowhere/mailsteer.db".as_ref(), MIGRATIONS).ok()?;
    Some(connection)
}

fn comes_back(kept: Kept) {
    let Some(mut connection) = empty() else { return };
    let Kept { checkpoint, word, beliefs, heard, events } = kept.clone();
    let (word, beliefs, heard) = (Some(word), Some(beliefs), Some(heard));
    let changes = Changes { events, word, beliefs, heard, checkpoint: Some(checkpoint) };
    let before = (&Checkpoint::default(), &Heard::default());
    let written = written::write(&mut connection, &changes, before, Timestamp::UNIX_EPOCH);
    assert!(written.is_ok(), "{written:?}");
    assert_eq!(rows::read(&connection), Ok(kept));
}

impl From<&Cell> for Value {
    fn from(cell: &Cell) -> Self {
        match cell {
            Cell::Nothing => Self::Null,
            Cell::Number(number) => Self::Integer(*number),
            Cell::Text(text) => Self::Text(text.clone()),
            Cell::Bytes(bytes) => Self::Blob(bytes.clone()),
        }
    }
}
