//! The table of lists.
//!
//! Owns: the file's keys and what can be wrong with it. Must not: hold a list; `config/lists.toml` does, each with its source
//! and the month it was checked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use miette::NamedSource;
use serde::{Deserialize, Serialize};

use crate::config::dated::{self, Month};
use crate::config::document;
use crate::config::problem::{Problem, code};
use crate::config::read::{At, Keyed, Word, Words, suggest, table};

/// The table that comes with mailsteer.
pub const DEFAULT: &str = include_str!("../../../../../config/lists.toml");
/// Where a list that needs a key has it in its zone.
const KEY: &str = "{key}";

table! {
    /// The table of DNS lists.
    pub(crate) struct RawTable {
        /// Lists by name.
        list: Keyed<RawList>,
    }
}

table! {
    /// One list.
    #[schemars(rename = "List")]
    pub(crate) struct RawList {
        /// The zone that is asked, if it is not the name; `{key}` where the subscriber's key belongs.
        zone: String,
        /// What being on it means: `"block"` (the default), `"allow"`, or `"score"`: the last octet is a number.
        purpose: Word<Purpose>,
        /// Whether it is asked where the config names no lists.
        default: bool,
        /// Whether it has IPv6 addresses too.
        ipv6: bool,
        /// Whether it has the test points of RFC 5782. A block list without is refused.
        tested: bool,
        /// Codes, each an address or a network in 127.0.0.0/8.
        code: Keyed<RawCode>,
        /// Where this is known from.
        source: String,
        /// The month in which that was last looked at: `2026-11`.
        checked: String,
        /// What its users should know.
        note: String,
    }
}

table! {
    /// What a code means.
    #[schemars(rename = "Code")]
    pub(crate) struct RawCode {
        /// In words.
        meaning: String,
        /// What follows.
        action: Word<Action>,
    }
}

/// What follows from a code. In the order of strength.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Not a listing: the list does not answer this resolver, and the answer is unknown.
    Error,
    /// Nothing.
    Ignore,
    /// It is said, and nothing is done.
    Warn,
    /// The address serves no more.
    Isolate,
}

/// What being on a list means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Nothing good.
    #[default]
    Block,
    /// Something good.
    Allow,
    /// A number from 0 to 100; more is better.
    Score,
}

impl Words for Action {
    const WORDS: &'static [(&'static str, Self)] =
        &[("isolate", Self::Isolate), ("warn", Self::Warn), ("ignore", Self::Ignore), ("error", Self::Error)];
}

impl Words for Purpose {
    const WORDS: &'static [(&'static str, Self)] =
        &[("block", Self::Block), ("allow", Self::Allow), ("score", Self::Score)];
}

/// A list.
#[derive(Clone, PartialEq, Debug)]
pub struct List {
    /// Its name.
    pub name: String,
    /// The zone that is asked.
    pub zone: String,
    /// What being on it means.
    pub purpose: Purpose,
    /// Whether it is asked where the config names none.
    pub default: bool,
    /// Whether it has IPv6 addresses.
    pub ipv6: bool,
    /// Whether it has test points.
    pub tested: bool,
    codes: Vec<(Ipv4Net, String, Action)>,
    checked: Month,
}

impl List {
    /// Meaning and action of a code; the narrowest entry that holds it.
    pub(super) fn code(&self, code: Ipv4Addr) -> Option<(String, Action)> {
        let fitting = self.codes.iter().filter(|(network, ..)| network.contains(&code));
        fitting
            .max_by_key(|(network, ..)| network.prefix_len())
            .map(|(_, meaning, action)| (meaning.clone(), *action))
    }

    /// Whether its zone wants the subscriber's key.
    #[must_use]
    pub fn wants_key(&self) -> bool {
        self.zone.contains(KEY)
    }

    /// The same list for a subscriber.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.zone = self.zone.replace(KEY, key);
        self
    }

    /// Whether it can know of such an address.
    #[must_use]
    pub const fn knows(&self, address: IpAddr) -> bool {
        address.is_ipv4() || self.ipv6
    }
}

/// Lists.
#[derive(Clone, PartialEq, Debug)]
pub struct ListTable {
    /// In the file's order.
    pub lists: Vec<List>,
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct ListsChecked {
    /// The table, if the file has no error.
    pub table: Option<ListTable>,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

impl ListTable {
    /// Reads a table, reporting everything that is wrong with it at once. `name` is what messages call the file.
    #[must_use]
    pub fn load(name: &str, text: &str) -> ListsChecked {
        let mut problems = vec![];
        let raw = document::<RawTable>(text, &mut problems).unwrap_or_default();
        let entries = raw.list.iter().flat_map(|keyed| &keyed.value.0);
        let lists = entries.filter_map(|(name, list)| read(name, list, &mut problems)).collect();
        crate::config::finish(&mut problems, &Arc::new(NamedSource::new(name, text.to_owned())));
        let good = !problems.iter().any(Problem::is_error);
        ListsChecked { table: good.then_some(Self { lists }), problems }
    }

    /// The lists that are asked where the config names none.
    #[must_use]
    pub fn defaults(&self) -> Vec<List> {
        self.lists.iter().filter(|list| list.default).cloned().collect()
    }

    /// A list by its name.
    ///
    /// # Errors
    /// That there is none, with what was probably meant.
    pub fn find(&self, name: &str) -> Result<&List, String> {
        let known: Vec<&str> = self.lists.iter().map(|list| list.name.as_str()).collect();
        self.lists.iter().find(|list| list.name == name).ok_or_else(|| suggest(name, &known, "The lists"))
    }

    /// Names of lists that nobody looked at for more than a year.
    #[must_use]
    pub fn stale(&self, today: jiff::civil::Date) -> Vec<&str> {
        let stale = self.lists.iter().filter(|list| list.checked.is_stale(today));
        stale.map(|list| list.name.as_str()).collect()
    }
}

fn read(name: &At<String>, raw: &RawList, problems: &mut Vec<Problem>) -> Option<List> {
    let missing =
        [("source", raw.source.is_none()), ("checked", raw.checked.is_none()), ("code", raw.code.is_none())];
    for (key, is_missing) in missing {
        if is_missing && !raw.unread.contains(&key) {
            problems.push(
                Problem::error(code::MISSING_KEY, format!("list `{}` has no `{key}`", name.value))
                    .at(&name.span, "this list")
                    .help("Each list has `code`, `source` and `checked`."),
            );
        }
    }
    let purpose = raw.purpose.as_ref().map_or(Purpose::Block, |word| word.value.0);
    if let Some(tested) = raw.tested.as_ref().filter(|tested| !tested.value && purpose == Purpose::Block) {
        problems.push(
            Problem::error(
                code::UNTESTED,
                format!("block list `{}` would be believed without test points", name.value),
            )
            .at(&tested.span, "only an allow list or a score can be without")
            .help(
                "A zone that died lists everything, and nobody could tell. Leave `tested` out, or the list.",
            ),
        );
    }
    let checked = dated::month(raw.checked.as_ref()?, problems)?;
    let codes = raw.code.iter().flat_map(|keyed| &keyed.value.0);
    let codes = codes.filter_map(|(written, code)| read_code(written, code, problems)).collect();
    let zone = raw.zone.as_ref().map_or(&name.value, |zone| &zone.value);
    Some(List {
        name: name.value.clone(),
        zone: zone.trim_end_matches('.').to_owned(),
        purpose,
        default: raw.default.as_ref().is_some_and(|truth| truth.value),
        ipv6: raw.ipv6.as_ref().is_some_and(|truth| truth.value),
        tested: raw.tested.as_ref().is_none_or(|truth| truth.value),
        codes,
        checked,
    })
}

fn read_code(
    written: &At<String>,
    raw: &RawCode,
    problems: &mut Vec<Problem>,
) -> Option<(Ipv4Net, String, Action)> {
    let one = || written.value.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    let network = written.value.parse::<Ipv4Net>().ok().or_else(one);
    let network = network.filter(|network| network.network().octets()[0] == 127);
    if network.is_none() {
        problems.push(
            Problem::error(code::CODE_INVALID, format!("`{}` cannot be a list's code", written.value))
                .at(&written.span, "")
                .help("Write an address in 127.0.0.0/8, such as \"127.0.0.2\", or a network of them: \"127.0.4.0/24\"."),
        );
    }
    let (Some(meaning), Some(action)) = (&raw.meaning, &raw.action) else {
        if !raw.misread {
            problems.push(
                Problem::error(
                    code::MISSING_KEY,
                    format!("code `{}` has no meaning or no action", written.value),
                )
                .at(&written.span, "this code")
                .help(
                    "Write { meaning = \"...\", action = \"isolate\" }, or \"warn\", \"ignore\", \"error\".",
                ),
            );
        }
        return None;
    };
    Some((network?, meaning.value.clone(), action.value.0))
}
