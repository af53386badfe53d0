//! What strangers wrote (a receiver's first line, a firewall's comment) before a person's terminal gets it.
//!
//! Owns: which control characters reach a terminal: line breaks, tabs and colours. Must not: touch what goes to a file
//! or a program. Any other could move the cursor over what was printed, set the window's title or the clipboard.

use std::borrow::Cow;

/// Text as a terminal may have it; what it may not is replaced, so that it is seen that something was there.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = colour(rest).unwrap_or(c.len_utf8());
        let (taken, after) = rest.split_at(length);
        let passes = length > 1 || !c.is_control() || matches!(c, '\n' | '\t');
        out.push_str(if passes && !is_c1(c) { taken } else { "\u{fffd}" });
        rest = after;
    }
    out.into()
}

/// Control characters of two bytes: a terminal may take U+009B for the beginning of a sequence.
fn is_c1(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

/// Length of the sequence that sets a colour, where the text begins with one.
fn colour(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\x1b[")?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_and_lines_pass() {
        for text in ["", "mail: 220 ok\n\ttabbed é €\n", "\x1b[31;1mbad\x1b[0m\n"] {
            assert_eq!(harmless(text), text);
        }
    }

    #[test]
    fn what_moves_or_sets_anything_does_not() {
        for (text, shown) in [
            ("220 \x1b[2J\x1b[H ok", "220 \u{fffd}[2J\u{fffd}[H ok"),
            ("\x1b]0;title\x07", "\u{fffd}]0;title\u{fffd}"),
            ("good\rbad", "good\u{fffd}bad"),
            ("\u{9b}2J\x7f", "\u{fffd}2J\u{fffd}"),
            ("\x1b[31", "\u{fffd}[31"),
            ("\x1b[3\x1b[0m", "\u{fffd}[3\x1b[0m"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_else_is_left_of_any_text(text in "[\\x00-\\x7f\u{80}-\u{9f}é;m0-9\\[]{0,40}") {
            let shown = harmless(&text).into_owned();
            prop_assert_eq!(harmless(&shown), shown.as_str());
            let mut rest = shown.as_str();
            while let Some(at) = rest.find(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
                let length = colour(&rest[at..]);
                prop_assert!(length.is_some(), "{:?}", &rest[at..]);
                rest = &rest[at + length.unwrap_or(1)..];
            }
        }
    }
}
