//! What the state directory holds: `operator.json` of an earlier agent, and rows of the database.

use arbitrary::{Arbitrary, Unstructured};
use mailsteer::state::fuzzing::{Cell, TABLES, database, operator};

/// Words that rows are made of, or nothing an input holds would ever be read as one.
const WORDS: [&str; 14] = [
    "192.0.2.1",
    "2001:db8::1",
    "",
    "mail",
    "attempted",
    "wrong",
    "counters",
    "table",
    "boot/7",
    "suspended",
    "{}",
    "[\"10.0.0.1\"]",
    "held",
    "{\"a\":\"b\"}",
];

pub(crate) fn run(data: &[u8]) {
    if data.first() == Some(&b'{') {
        return operator(data);
    }
    let mut from = Unstructured::new(data);
    let mut rows = Vec::new();
    while !from.is_empty() && rows.len() < 16 {
        let Ok(row) = row(&mut from) else { break };
        rows.push(row);
    }
    database(&rows);
}

fn row(from: &mut Unstructured<'_>) -> arbitrary::Result<(usize, Vec<Cell>)> {
    let table = usize::from(u8::arbitrary(from)?) % TABLES.len();
    let cells = (0..TABLES[table].1).map(|_| cell(from)).collect::<Result<_, _>>()?;
    Ok((table, cells))
}

fn cell(from: &mut Unstructured<'_>) -> arbitrary::Result<Cell> {
    Ok(match u8::arbitrary(from)? % 8 {
        0 => Cell::Nothing,
        1 => Cell::Number(i64::arbitrary(from)?),
        2 => Cell::Number(i64::from(u8::arbitrary(from)?)),
        3 => Cell::Text(String::arbitrary(from)?),
        4 => Cell::Bytes(<&[u8]>::arbitrary(from)?.to_vec()),
        _ => Cell::Text((*from.choose(&WORDS)?).to_owned()),
    })
}
