//! The table of rules against published replies: those that it was written from, and those that it was not.
//!
//! Owns: the two halves under `tests/replies`, the confusion matrix, and what must never happen: a reply about content,
//! domain, authentication or recipient that isolates. Must not: ask more of the half that rules were written from than that.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stop at what should not happen")]

use std::collections::BTreeMap;

use mailsteer_core::signal::reply::{Cause, Class, DEFAULT, Judgement, Reply, ReplyTable};

struct Published {
    source: String,
    class: &'static str,
    text: String,
}

/// The words of the corpus, in the order of the matrix.
const CLASSES: [&str; 9] =
    ["here", "everywhere", "slow", "enrol", "content", "domain", "authentication", "recipient", "unknown"];

fn half(name: &str) -> Vec<Published> {
    let folder = format!("{}/tests/replies/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| published(&file.display().to_string(), &text(file))).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test reads its own data")]
fn text(file: &std::path::Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

fn published(source: &str, text: &str) -> Vec<Published> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let read = |line: &str| {
        let (class, text) = line.split_once(" | ").unwrap_or_else(|| panic!("{source}: {line}"));
        let class = CLASSES.into_iter().find(|known| *known == class).unwrap_or_else(|| panic!("{line}"));
        Published { source: source.to_owned(), class, text: text.to_owned() }
    };
    lines.map(read).collect()
}

fn word(judgement: &Judgement) -> &'static str {
    match (judgement.class, judgement.cause) {
        (Class::IsolateHere, _) => "here",
        (Class::IsolateEverywhere, _) => "everywhere",
        (Class::SlowDown, _) => "slow",
        (Class::EnrolFirst, _) => "enrol",
        (_, Some(Cause::Content)) => "content",
        (_, Some(Cause::Domain)) => "domain",
        (_, Some(Cause::Authentication)) => "authentication",
        (_, Some(Cause::Recipient)) => "recipient",
        _ => "unknown",
    }
}

fn table() -> ReplyTable {
    let checked = ReplyTable::load("config/replies.toml", DEFAULT);
    assert!(checked.problems.is_empty(), "{:#?}", checked.problems);
    checked.table.unwrap()
}

/// How often each class was taken for which, and every reply that was taken for another.
fn judged(half: &[Published]) -> (BTreeMap<(&'static str, &'static str), u32>, Vec<String>) {
    let (table, mut matrix, mut wrong) = (table(), BTreeMap::new(), vec![]);
    for one in half {
        let reply = Reply::read(&one.text).unwrap_or_else(|| panic!("no reply: {}", one.text));
        let judgement = table.judge(&reply, None);
        let found = word(&judgement);
        *matrix.entry((one.class, found)).or_default() += 1;
        if found != one.class {
            wrong.push(format!("{} for {} by {}: {}", found, one.class, judgement.rule, reply.line));
        }
    }
    (matrix, wrong)
}

fn show(name: &str, matrix: &BTreeMap<(&'static str, &'static str), u32>, wrong: &[String], all: usize) {
    println!("\n{name}: {} of {all} as they were read\n", all - wrong.len());
    println!("{:>14} | {}", "is \\ taken for", CLASSES.map(|class| format!("{class:>14}")).join(""));
    for is in CLASSES {
        let row = CLASSES.map(|taken| {
            matrix.get(&(is, taken)).map_or_else(|| format!("{:>14}", "."), |n| format!("{n:>14}"))
        });
        println!("{is:>14} | {}", row.join(""));
    }
    for one in wrong {
        println!("  {one}");
    }
}

fn isolates(word: &str) -> bool {
    matches!(word, "here" | "everywhere" | "enrol")
}

fn never_for_what_is_not_the_address(matrix: &BTreeMap<(&'static str, &'static str), u32>) {
    let innocent = |is: &str| matches!(is, "content" | "domain" | "authentication" | "recipient" | "unknown");
    let taken: Vec<_> = matrix.keys().filter(|(is, taken)| innocent(is) && isolates(taken)).collect();
    assert!(taken.is_empty(), "such replies isolate an address that is innocent: {taken:?}");
}

#[test]
fn rules_say_what_they_were_written_for() {
    let half = half("rules");
    let (matrix, wrong) = judged(&half);
    show("rules", &matrix, &wrong, half.len());
    never_for_what_is_not_the_address(&matrix);
    assert!(wrong.is_empty(), "{} of {} are not judged as they were read", wrong.len(), half.len());
}

/// The share is what was measured, so that a change of the table that loses some shows.
#[test]
fn rules_hold_for_replies_that_they_were_not_written_from() {
    let half = half("held-out");
    let (matrix, wrong) = judged(&half);
    show("held out", &matrix, &wrong, half.len());
    never_for_what_is_not_the_address(&matrix);
    let right = half.len() - wrong.len();
    assert!(right * 100 >= half.len() * 90, "{right} of {}", half.len());
}

#[test]
fn there_are_enough_and_each_has_its_source() {
    let all: Vec<Published> = half("rules").into_iter().chain(half("held-out")).collect();
    assert!(all.len() >= 200, "{}", all.len());
    let sources: std::collections::BTreeSet<&str> = all.iter().map(|one| one.source.as_str()).collect();
    for source in sources {
        let first = text(std::path::Path::new(source)).lines().next().unwrap_or_default().to_owned();
        assert!(first.starts_with("# ") && first.contains("read 20"), "{source}: {first}");
    }
}

#[test]
fn what_is_wrong_with_a_table_is_said_at_its_place() {
    let text = "[rule.a]\npattern = '(('\nclass = 'isolate'\ncause = 'content'\nchecked = '2026'\nfoo = 1\n\
                [rule.b]\npattern = 'x'\nclass = 'slow-down'\ncause = 'content'\nsource = 's'\nchecked = '2026-11'\n";
    let checked = ReplyTable::load("mine.toml", text);
    assert!(checked.table.is_none());
    let found: Vec<_> =
        checked.problems.iter().map(|problem| (problem.code, problem.labels[0].line)).collect();
    let wanted = [
        ("missing-key", 1),
        ("pattern-invalid", 2),
        ("unknown-value", 3),
        ("month-invalid", 5),
        ("unknown-key", 6),
        ("rule-invalid", 7),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_rule_for_a_provider_is_for_no_other_and_one_for_a_phase_for_none_before() {
    let rule = |more: &str| {
        format!(
            "[rule.a]\npattern = 'no'\nclass = 'isolate-here'\nsource = 's'\nchecked = '2025-01'\n{more}\n"
        )
    };
    let load = |more: &str| ReplyTable::load("mine.toml", &rule(more)).table.unwrap();
    let class = |table: &ReplyTable, text: &str, provider: Option<&str>| {
        table.judge(&Reply::read(text).unwrap(), provider).class
    };
    let google = load("provider = ['google']");
    assert_eq!(class(&google, "550 no", Some("google")), Class::IsolateHere);
    assert_eq!(class(&google, "550 no", Some("other")), Class::IsolateHere);
    assert_eq!(class(&google, "550 no", Some("yahoo")), Class::Unknown);
    let late = load("phase = 'end-of-data'");
    assert_eq!(
        class(&late, "host x[192.0.2.1] said: 550 no (in reply to end of DATA command)", None),
        Class::IsolateHere
    );
    assert_eq!(
        class(&late, "host x[192.0.2.1] said: 550 no (in reply to RCPT TO command)", None),
        Class::Unknown
    );
    assert_eq!(late.stale(jiff::civil::date(2026, 2, 1)), ["a"]);
    assert!(table().stale(jiff::civil::date(2026, 11, 25)).is_empty());
}

/// Of the receiver's words none makes a reply of what it is not: the code is what was said first.
#[test]
fn forged_words_do_not_make_another_reply() {
    let table = table();
    for text in [
        "250 2.0.0 ok 550 5.7.1 blocked using zen.spamhaus.org",
        "connect to a[192.0.2.1]:25: 550 blocked using zen.spamhaus.org",
    ] {
        let class = Reply::read(text).map_or(Class::Unknown, |reply| table.judge(&reply, None).class);
        assert!(matches!(class, Class::Accepted | Class::Unknown), "{text}: {class}");
    }
}

/// Words that come near those of a refused address: "blocked", "host", "list", "denied".
#[test]
fn innocent_replies_in_the_words_of_guilty_ones_isolate_nobody() {
    let file = format!("{}/tests/replies/by-hand/innocent.txt", env!("CARGO_MANIFEST_DIR"));
    let (table, all) = (table(), text(std::path::Path::new(&file)));
    for line in all.lines().filter(|line| !line.starts_with('#')) {
        let judgement = table.judge(&Reply::read(line).unwrap(), None);
        assert!(!isolates(word(&judgement)), "{} by {}: {line}", judgement.class, judgement.rule);
    }
}
