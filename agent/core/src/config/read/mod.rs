//! From TOML to the raw tables, without stopping at the first thing that is wrong.
//!
//! Owns: walking the parsed document, and what is said of unknown keys, unknown values and wrong types. Must not:
//! know any particular key; `raw.rs` lists them. A serde `Deserialize` gives up at the first error; an operator
//! wants to see all of them, so each value is read on its own and what cannot be read is left out and reported.

mod leaf;
mod table;

use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use toml::Spanned;
use toml::de::DeValue;

pub(crate) use leaf::{Many, Word, Words};
pub(crate) use table::{Keyed, keys_of, table};

use super::problem::{Problem, code};

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Its bytes in the file.
    pub(crate) span: Range<usize>,
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Something that can be read from a TOML value. `None` means that it was reported.
pub(crate) trait FromToml: Sized {
    /// Reads it, reporting what is wrong with it.
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self>;
}

impl<T: FromToml> FromToml for At<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        T::from_toml(value, problems).map(|read| Self { value: read, span: value.span() })
    }
}

/// Reports a value of the wrong type.
pub(crate) fn wrong_type(value: &Spanned<DeValue<'_>>, wanted: &str, problems: &mut Vec<Problem>) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    problems.push(
        Problem::error(code::WRONG_TYPE, format!("{found} stands here, where {wanted} is needed"))
            .at(&value.span(), format!("this is {found}"))
            .help(format!("Write {wanted}. config/default.toml shows every key with a value.")),
    );
}

/// The candidate that was probably meant.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(written, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// "did you mean" where something is close, then everything that is known.
pub(crate) fn suggest(written: &str, known: &[&str], kind: &str) -> String {
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match did_you_mean(written, known.iter().copied()) {
        Some(close) if known.len() > 1 => format!("Did you mean `{close}`? {kind}: {list}."),
        Some(close) => format!("Did you mean `{close}`?"),
        None => format!("{kind}: {list}."),
    }
}
