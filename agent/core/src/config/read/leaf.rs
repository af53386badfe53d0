//! Values that are no tables: texts, numbers, words out of a list, and "one value or a list of them".

use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use super::{At, FromToml, suggest, wrong_type};
use crate::config::problem::{Problem, code};

impl FromToml for String {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text.to_string());
        }
        wrong_type(value, "a text in quotes", problems);
        None
    }
}

impl FromToml for bool {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        if let DeValue::Boolean(truth) = value.get_ref() {
            return Some(*truth);
        }
        wrong_type(value, "true or false", problems);
        None
    }
}

impl FromToml for i64 {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Integer(digits) => Self::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        if number.is_none() {
            wrong_type(value, "a whole number", problems);
        }
        number
    }
}

impl FromToml for f64 {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Float(digits) => digits.as_str().parse().ok(),
            DeValue::Integer(digits) => digits.as_str().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            wrong_type(value, "a number", problems);
        }
        number
    }
}

/// One value or a list of them.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Many<T> {
    /// The values.
    pub(crate) items: Vec<At<T>>,
    /// All of it.
    pub(crate) span: Range<usize>,
    /// Every value could be read.
    pub(crate) whole: bool,
}

impl<T> Many<T> {
    /// Nothing was written: not even what could not be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.whole
    }
}

impl<T: FromToml> FromToml for Many<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        let (items, written): (Vec<_>, _) = match value.get_ref() {
            DeValue::Array(list) => {
                (list.iter().filter_map(|item| At::from_toml(item, problems)).collect(), list.len())
            }
            _ => (vec![At::from_toml(value, problems)?], 1),
        };
        Some(Self { whole: items.len() == written, items, span: value.span() })
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// An enum that is written as one of a few words.
pub(crate) trait Words: Sized + Copy + 'static {
    /// Each word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

/// One of a few words.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Word<T>(pub(crate) T);

impl<T: Words> FromToml for Word<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        let written = String::from_toml(value, problems)?;
        if let Some((_, meant)) = T::WORDS.iter().find(|(word, _)| *word == written) {
            return Some(Self(*meant));
        }
        let known: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        problems.push(
            Problem::error(code::UNKNOWN_VALUE, format!("`{written}` is not a choice here"))
                .at(&value.span(), "unknown")
                .help(suggest(&written, &known, "The choices")),
        );
        None
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}
