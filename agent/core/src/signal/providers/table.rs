//! The table of groups.
//!
//! Owns: the file's keys and what can be wrong with it. Must not: hold a group; `config/providers.toml` does, each with its source
//! and the month it was checked.

use std::sync::Arc;

use ipnet::IpNet;
use miette::NamedSource;

use super::pattern::{Groups, Pattern, plain};
use crate::config::dated::{self, Month};
use crate::config::problem::{Problem, code};
use crate::config::read::{At, Keyed, Many, suggest, table};
use crate::config::{address_network, document, provider_name};

/// The table that comes with mailsteer.
pub const DEFAULT: &str = include_str!("../../../../../config/providers.toml");

table! {
    /// The table of providers.
    pub(crate) struct RawTable {
        /// Groups by name.
        group: Keyed<RawGroup>,
    }
}

table! {
    /// One group.
    #[schemars(rename = "Group")]
    pub(crate) struct RawGroup {
        /// Whether it is a provider where the config names no groups.
        default: bool,
        /// Names of its mail servers, `"mx.example.net"` or `"*.example.net"`.
        mx: Many<String>,
        /// Domains of its own, whose mail servers are looked up.
        domains: Many<String>,
        /// Networks that its mail servers are in.
        networks: Many<String>,
        /// Where this is known from.
        source: String,
        /// The month in which that was last looked at: `2026-11`.
        checked: String,
        /// What its users should know.
        note: String,
    }
}

/// A group.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// Its name, which becomes the provider's.
    pub name: String,
    /// Whether it is a provider where the config names none.
    pub default: bool,
    /// Names of its mail servers.
    pub mx: Vec<Pattern>,
    /// Domains of its own.
    pub domains: Vec<String>,
    /// Networks that its mail servers are in.
    pub networks: Vec<IpNet>,
    checked: Month,
}

/// Groups.
#[derive(Clone, PartialEq, Debug)]
pub struct ProviderTable {
    /// In the file's order.
    pub groups: Vec<Group>,
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct ProvidersChecked {
    /// The table, if the file has no error.
    pub table: Option<ProviderTable>,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

impl ProviderTable {
    /// Reads a table, reporting everything that is wrong with it at once. `name` is what messages call the file.
    #[must_use]
    pub fn load(name: &str, text: &str) -> ProvidersChecked {
        let mut problems = vec![];
        let raw = document::<RawTable>(text, &mut problems).unwrap_or_default();
        let entries = raw.group.iter().flat_map(|keyed| &keyed.value.0);
        let mut taken = Groups::default();
        let groups =
            entries.filter_map(|(name, group)| read(name, group, &mut taken, &mut problems)).collect();
        crate::config::finish(&mut problems, &Arc::new(NamedSource::new(name, text.to_owned())));
        let good = !problems.iter().any(Problem::is_error);
        ProvidersChecked { table: good.then_some(Self { groups }), problems }
    }

    /// A group by its name.
    ///
    /// # Errors
    /// That there is none, with what was probably meant.
    pub fn find(&self, name: &str) -> Result<&Group, String> {
        let known: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        self.groups.iter().find(|group| group.name == name).ok_or_else(|| suggest(name, &known, "The groups"))
    }

    /// Names of groups that nobody looked at for more than a year.
    #[must_use]
    pub fn stale(&self, today: jiff::civil::Date) -> Vec<&str> {
        let stale = self.groups.iter().filter(|group| group.checked.is_stale(today));
        stale.map(|group| group.name.as_str()).collect()
    }
}

fn read(name: &At<String>, raw: &RawGroup, taken: &mut Groups, problems: &mut Vec<Problem>) -> Option<Group> {
    provider_name(name, problems);
    let missing =
        [("source", raw.source.is_none()), ("checked", raw.checked.is_none()), ("mx", raw.mx.is_none())];
    for (key, is_missing) in missing {
        if is_missing && !raw.unread.contains(&key) {
            problems.push(
                Problem::error(code::MISSING_KEY, format!("group `{}` has no `{key}`", name.value))
                    .at(&name.span, "this group")
                    .help("Each group has `mx`, `source` and `checked`."),
            );
        }
    }
    let mx = patterns(raw.mx.as_ref(), &name.value, taken, problems);
    let domains = domains(raw.domains.as_ref(), problems);
    let networks = items(raw.networks.as_ref()).filter_map(|item| address_network(item, problems)).collect();
    let checked = dated::month(raw.checked.as_ref()?, problems)?;
    Some(Group {
        name: name.value.clone(),
        default: raw.default.as_ref().is_some_and(|truth| truth.value),
        mx,
        domains,
        networks,
        checked,
    })
}

fn items<T>(many: Option<&At<Many<T>>>) -> impl Iterator<Item = &At<T>> {
    many.into_iter().flat_map(|many| &many.value.items)
}

/// Patterns of a group, none of which is another's.
pub(crate) fn patterns(
    written: Option<&At<Many<String>>>,
    group: &str,
    taken: &mut Groups,
    problems: &mut Vec<Problem>,
) -> Vec<Pattern> {
    let mut patterns = vec![];
    for item in items(written) {
        let pattern = match Pattern::read(&item.value) {
            Ok(pattern) => pattern,
            Err(why) => {
                problems.push(
                    Problem::error(
                        code::MX_INVALID,
                        format!("`{}` cannot be the name of mail servers", item.value),
                    )
                    .at(&item.span, why)
                    .help("Write \"mx.example.net\", or \"*.example.net\" for all names below."),
                );
                continue;
            }
        };
        match taken.add(pattern.clone(), group) {
            Ok(()) => patterns.push(pattern),
            Err(other) => problems.push(
                Problem::error(code::PROVIDERS_OVERLAP, format!("`{pattern}` is `{other}`'s and `{group}`'s"))
                    .at(&item.span, "")
                    .help("A mail server is one provider's. Take it out of one of the two, or write a longer name for the smaller one."),
            ),
        }
    }
    patterns
}

/// Domains whose mail servers are looked up.
pub(crate) fn domains(written: Option<&At<Many<String>>>, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut domains = vec![];
    for item in items(written) {
        match plain(&item.value) {
            Some(domain) => domains.push(domain),
            None => problems.push(
                Problem::error(code::MX_INVALID, format!("`{}` is no domain", item.value))
                    .at(&item.span, "")
                    .help("Write what stands behind the @ of an address, such as \"example.org\"."),
            ),
        }
    }
    domains
}
