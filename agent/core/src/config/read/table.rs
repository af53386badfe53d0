//! Tables: those with a fixed set of keys, and those whose keys are names the operator gives.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{At, FromToml, suggest, wrong_type};
use crate::config::problem::{Problem, code};

/// Declares a table once: its keys, their types, their documentation (which the schema takes over) and how it is
/// read.
macro_rules! table {
    (
        $(#[$outer:meta])*
        pub(crate) struct $name:ident {
            $($(#[$inner:meta])* $key:ident: $type:ty,)*
        }
    ) => {
        #[derive(Clone, PartialEq, Debug, Default, schemars::JsonSchema)]
        $(#[$outer])*
        #[schemars(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$inner])* pub(crate) $key: Option<$crate::config::read::At<$type>>,)*
            /// Known keys whose values could not be read.
            #[schemars(skip)]
            pub(crate) unread: Vec<&'static str>,
            /// Something in the table could not be read, or is unknown.
            #[schemars(skip)]
            pub(crate) misread: bool,
        }

        impl $crate::config::read::FromToml for $name {
            fn from_toml(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                problems: &mut Vec<$crate::config::problem::Problem>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$(stringify!($key)),*];
                let before = problems.len();
                let mut read = Self::default();
                for (key, value) in $crate::config::read::keys_of(value, KEYS, problems)? {
                    match key {
                        $(stringify!($key) => {
                            read.$key = $crate::config::read::FromToml::from_toml(value, problems);
                            if read.$key.is_none() {
                                read.unread.push(stringify!($key));
                            }
                        })*
                        _ => {}
                    }
                }
                read.misread = problems.len() > before;
                Some(read)
            }
        }
    };
}
pub(crate) use table;

/// The entries of a table whose keys are known; the others are reported.
pub(crate) fn keys_of<'v, 'i>(
    value: &'v Spanned<DeValue<'i>>,
    known: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<Vec<(&'v str, &'v Spanned<DeValue<'i>>)>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(value, "a table", problems);
        return None;
    };
    let mut found = Vec::new();
    for (key, value) in in_file_order(table) {
        let name: &str = key.get_ref();
        if known.contains(&name) {
            found.push((name, value));
            continue;
        }
        problems.push(
            Problem::error(code::UNKNOWN_KEY, format!("there is no key `{name}` here"))
                .at(&key.span(), "unknown key")
                .help(suggest(name, known, "The keys of this table")),
        );
    }
    Some(found)
}

/// A table's entries in the order in which they stand in the file: streams match in that order.
fn in_file_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// A table whose keys are names: `[pool.NAME]`, `[stream.NAME]`, `[uplink.NAME]`, `weights`. In file order.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Keyed<T>(pub(crate) Vec<(At<String>, T)>);

impl<T: FromToml> FromToml for Keyed<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            wrong_type(value, "a table of named entries", problems);
            return None;
        };
        let mut entries = Vec::new();
        for (key, value) in in_file_order(table) {
            if let Some(read) = T::from_toml(value, problems) {
                entries.push((At { value: key.get_ref().to_string(), span: key.span() }, read));
            }
        }
        Some(Self(entries))
    }
}

impl<T: JsonSchema> JsonSchema for Keyed<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <BTreeMap<String, T>>::json_schema(generator)
    }
}
