//! The table of rules, and the judging by it.
//!
//! Owns: the file's keys, what can be wrong with it, and the order: the first rule that fits speaks. Must not: hold a rule.
//! All patterns are compiled once, into one set, so that a reply costs one pass whatever their number.

use std::sync::Arc;

use miette::NamedSource;
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::text::Phase;
use super::{Cause, Class, Judgement, Reply, rfc3463};
use crate::config::OTHER;
use crate::config::dated::{self, Month};
use crate::config::document;
use crate::config::problem::{Problem, code};
use crate::config::read::{At, Keyed, Many, Word, Words, table};

/// Room for the automaton of all patterns together, which grows as replies need it. In the library's own 2 MiB those of the
/// default table have no room: it gives up, and a reply takes a hundred times as long.
const AUTOMATON: usize = 32 << 20;

/// The table that comes with mailsteer.
pub const DEFAULT: &str = include_str!("../../../../../config/replies.toml");

table! {
    /// The table of rules.
    pub(crate) struct RawTable {
        /// Rules by name. The first that fits speaks.
        rule: Keyed<RawRule>,
    }
}

table! {
    /// One rule.
    #[schemars(rename = "Rule")]
    pub(crate) struct RawRule {
        /// Whose replies it is for; without it, anybody's.
        provider: Many<String>,
        /// In which phases; without it, in any.
        phase: Many<Word<Phase>>,
        /// A regular expression on the whole reply, code in front, in one line; case does not matter.
        pattern: String,
        /// The rule does not fit where this does.
        except: String,
        /// What the reply asks for.
        class: Word<Class>,
        /// Whose fault it is, with `class = "not-the-address"`.
        cause: Word<Cause>,
        /// Where this is known from.
        source: String,
        /// The month in which that was last looked at: `2026-11`.
        checked: String,
    }
}

impl Words for Class {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("isolate-here", Self::IsolateHere),
        ("isolate-everywhere", Self::IsolateEverywhere),
        ("slow-down", Self::SlowDown),
        ("enrol-first", Self::EnrolFirst),
        ("not-the-address", Self::NotTheAddress),
        ("unknown", Self::Unknown),
    ];
}

impl Words for Cause {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("content", Self::Content),
        ("domain", Self::Domain),
        ("authentication", Self::Authentication),
        ("recipient", Self::Recipient),
    ];
}

impl Words for Phase {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("connect", Self::Connect),
        ("ehlo", Self::Ehlo),
        ("starttls", Self::Starttls),
        ("auth", Self::Auth),
        ("mail-from", Self::MailFrom),
        ("rcpt-to", Self::RcptTo),
        ("data", Self::Data),
        ("end-of-data", Self::EndOfData),
    ];
}

/// A rule that is in force.
#[derive(Clone, Debug)]
struct Rule {
    name: String,
    providers: Vec<String>,
    phases: Vec<Phase>,
    except: Option<Regex>,
    class: Class,
    cause: Option<Cause>,
    checked: Month,
}

/// Rules that are in force, in their order.
#[derive(Clone, Debug, Default)]
pub struct ReplyTable {
    rules: Vec<Rule>,
    patterns: RegexSet,
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct TableChecked {
    /// The table, if the file has no error.
    pub table: Option<ReplyTable>,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

impl ReplyTable {
    /// Reads a table, reporting everything that is wrong with it at once. `name` is what messages call the file.
    #[must_use]
    pub fn load(name: &str, text: &str) -> TableChecked {
        let mut problems = vec![];
        let raw = document::<RawTable>(text, &mut problems).unwrap_or_default();
        let (mut rules, mut patterns) = (vec![], vec![]);
        for (name, rule) in raw.rule.iter().flat_map(|keyed| &keyed.value.0) {
            if let Some((pattern, rule)) = read(name, rule, &mut problems) {
                patterns.push(pattern);
                rules.push(rule);
            }
        }
        let patterns =
            RegexSetBuilder::new(patterns).case_insensitive(true).dfa_size_limit(AUTOMATON).build();
        if let Err(error) = &patterns {
            problems.push(Problem::error(code::PATTERN_INVALID, format!("all patterns together: {error}")));
        }
        crate::config::finish(&mut problems, &Arc::new(NamedSource::new(name, text.to_owned())));
        let good = !problems.iter().any(Problem::is_error);
        let table = patterns.ok().filter(|_| good).map(|patterns| Self { rules, patterns });
        TableChecked { table, problems }
    }

    /// What a reply asks for. `provider` is who said it, as far as is known.
    #[must_use]
    pub fn judge(&self, reply: &Reply, provider: Option<&str>) -> Judgement {
        if reply.code < 400 {
            return rfc3463::judge(reply);
        }
        let fitting = self.patterns.matches(&reply.line);
        let mut rules = fitting.iter().filter_map(|index| self.rules.get(index));
        match rules.find(|rule| rule.fits(reply, provider)) {
            Some(rule) => Judgement {
                class: rule.class,
                cause: rule.cause,
                rule: rule.name.clone(),
                scope: rule.scope(),
            },
            None => rfc3463::judge(reply),
        }
    }

    /// Names of rules that nobody looked at for more than a year.
    #[must_use]
    pub fn stale(&self, today: jiff::civil::Date) -> Vec<&str> {
        self.rules.iter().filter(|rule| rule.checked.is_stale(today)).map(|rule| rule.name.as_str()).collect()
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none, so that codes alone speak.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    /// A receiver of no known provider may be one that another name hides.
    fn fits(&self, reply: &Reply, provider: Option<&str>) -> bool {
        let provider = provider.filter(|name| *name != OTHER);
        let provided = self.providers.is_empty()
            || provider.is_none_or(|name| self.providers.iter().any(|one| one.as_str() == name));
        let in_phase = self.phases.is_empty() || reply.phase.is_none_or(|phase| self.phases.contains(&phase));
        provided && in_phase && !self.except.as_ref().is_some_and(|except| except.is_match(&reply.line))
    }

    fn scope(&self) -> String {
        if self.providers.is_empty() { "any".to_owned() } else { self.providers.join(",") }
    }
}

fn read(name: &At<String>, raw: &RawRule, problems: &mut Vec<Problem>) -> Option<(String, Rule)> {
    let pattern = needed(raw.pattern.as_ref(), "pattern", name, raw, problems);
    let class = needed(raw.class.as_ref(), "class", name, raw, problems);
    let source = needed(raw.source.as_ref(), "source", name, raw, problems);
    let checked = needed(raw.checked.as_ref(), "checked", name, raw, problems);
    let checked = checked.and_then(|written| dated::month(written, problems));
    let pattern = pattern.filter(|written| compiled(written, problems).is_some());
    let except = raw.except.as_ref().map(|written| compiled(written, problems));
    let cause = raw.cause.as_ref().map(|word| word.value.0);
    let class = class.map(|word| word.value.0)?;
    if (class == Class::NotTheAddress) != cause.is_some() && !raw.unread.contains(&"cause") {
        problems.push(
            Problem::error(code::RULE_INVALID, format!("`{}`: `cause` goes with not-the-address alone", name.value))
                .at(&name.span, "this rule")
                .help("With class = \"not-the-address\" say whose fault it is: content, domain, authentication or recipient. With any other class leave `cause` out."),
        );
    }
    source?;
    let phases = raw.phase.iter().flat_map(|many| &many.value.items).map(|word| word.value.0).collect();
    let providers =
        raw.provider.iter().flat_map(|many| &many.value.items).map(|name| name.value.clone()).collect();
    let except = except.flatten();
    let rule = Rule { name: name.value.clone(), providers, phases, except, class, cause, checked: checked? };
    Some((pattern?.value.clone(), rule))
}

/// A key that every rule has.
fn needed<'r, T>(
    written: Option<&'r At<T>>,
    key: &'static str,
    name: &At<String>,
    raw: &RawRule,
    problems: &mut Vec<Problem>,
) -> Option<&'r At<T>> {
    if written.is_none() && !raw.unread.contains(&key) {
        problems.push(
            Problem::error(code::MISSING_KEY, format!("rule `{}` has no `{key}`", name.value))
                .at(&name.span, "this rule")
                .help("Each rule has `pattern`, `class`, `source` and `checked`."),
        );
    }
    written
}

fn compiled(written: &At<String>, problems: &mut Vec<Problem>) -> Option<Regex> {
    match RegexBuilder::new(&written.value).case_insensitive(true).build() {
        Ok(regex) => Some(regex),
        Err(error) => {
            problems.push(
                Problem::error(code::PATTERN_INVALID, format!("this is no regular expression: {error}"))
                    .at(&written.span, "")
                    .help("The syntax is that of Rust's regex crate: no look-around, no back references. Write it in ''' ''' so that \\ stays as it is."),
            );
            None
        }
    }
}
