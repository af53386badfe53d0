//! `domain-spec` and its macros (RFC 7208 section 7).

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::signal::dns::tags::shortened;

/// A name of the DNS holds as many characters; what is longer loses labels from the left (section 7.3).
const LONGEST: usize = 253;

/// A domain as it is written in a term, with macros not yet replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    /// `%%`, `%_` or `%-`: macros too, as the grammar has it.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Macro {
    /// In lower case.
    letter: char,
    /// It was written as a capital: what comes out is URL-escaped.
    escape: bool,
    /// So many labels are kept, from the right.
    keep: Option<usize>,
    reverse: bool,
    delimiters: String,
}

/// What macros stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) address: IpAddr,
    /// `local@domain`.
    pub(super) sender: &'a str,
    pub(super) helo: &'a str,
    /// The domain whose record is being read.
    pub(super) domain: &'a str,
    /// The validated name of the address; asked for only where [`Spec::wants_name`].
    pub(super) name: &'a str,
}

impl Spec {
    /// Reads a `domain-spec`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn domain(text: &str) -> Result<Self, String> {
        let spec = Self::macro_string(text, "slodiphv")?;
        match spec.0.last() {
            None => Err("a domain is missing".to_owned()),
            Some(Piece::Macro(_) | Piece::Escape(_)) => Ok(spec),
            Some(Piece::Text(last)) if has_top_label(last) => Ok(spec),
            Some(Piece::Text(_)) => Err(format!("`{text}` does not end in a top-level domain")),
        }
    }

    /// Reads a `macro-string`, whose macros may have these letters.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn macro_string(text: &str, letters: &str) -> Result<Self, String> {
        let mut pieces: Vec<Piece> = vec![];
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if first != '%' {
                if !matches!(first, '\x21'..='\x7e') {
                    return Err(format!("`{}` cannot stand in a domain", first.escape_debug()));
                }
                add(&mut pieces, first);
                rest = &rest[1..];
                continue;
            }
            match rest.as_bytes().get(1) {
                Some(b'%') => pieces.push(Piece::Escape("%")),
                Some(b'_') => pieces.push(Piece::Escape(" ")),
                Some(b'-') => pieces.push(Piece::Escape("%20")),
                Some(b'{') => {
                    let Some(end) = rest.find('}') else { return Err("a macro does not end".to_owned()) };
                    pieces.push(Piece::Macro(Macro::read(&rest[2..end], letters)?));
                    rest = &rest[end + 1..];
                    continue;
                }
                _ => return Err("a `%` begins no macro".to_owned()),
            }
            rest = &rest[2..];
        }
        Ok(Self(pieces))
    }

    /// Whether it has `%{p}`, for which the DNS has to be asked.
    pub(super) fn wants_name(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Macro(one) if one.letter == 'p'))
    }

    /// The domain, macros replaced.
    pub(super) fn expand(&self, values: Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Escape(text) => out.push_str(text),
                Piece::Macro(one) => out.push_str(&one.expand(values)),
            }
        }
        let mut cut = out.strip_suffix('.').unwrap_or(&out);
        while cut.len() > LONGEST {
            let Some((_, shorter)) = cut.split_once('.') else { break };
            cut = shorter;
        }
        cut.to_owned()
    }
}

fn add(pieces: &mut Vec<Piece>, one: char) {
    if let Some(Piece::Text(text)) = pieces.last_mut() {
        text.push(one);
    } else {
        pieces.push(Piece::Text(one.to_string()));
    }
}

/// `"." toplabel [ "." ]`
fn has_top_label(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let Some((_, label)) = text.rsplit_once('.') else { return false };
    !label.is_empty()
        && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && !label.bytes().all(|c| c.is_ascii_digit())
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl Macro {
    /// What stands between the braces.
    fn read(text: &str, letters: &str) -> Result<Self, String> {
        let bad = || format!("`%{{{}}}` is no macro", shortened(text));
        let written = text.chars().next().ok_or_else(bad)?;
        let letter = written.to_ascii_lowercase();
        if !letters.contains(letter) {
            return Err(bad());
        }
        let rest = &text[1..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let keep = match &rest[..digits] {
            "" => None,
            // More labels than any name has are all of them.
            digits => Some(digits.parse::<usize>().unwrap_or(usize::MAX)).filter(|keep| *keep > 0),
        };
        if digits > 0 && keep.is_none() {
            return Err(bad());
        }
        let rest = &rest[digits..];
        let without = rest.strip_prefix(['r', 'R']);
        let delimiters = without.unwrap_or(rest);
        if !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
            return Err(bad());
        }
        Ok(Self {
            letter,
            escape: written.is_ascii_uppercase(),
            keep,
            reverse: without.is_some(),
            delimiters: delimiters.to_owned(),
        })
    }

    fn expand(&self, values: Values<'_>) -> String {
        let (local, domain) = values.sender.rsplit_once('@').unwrap_or(("postmaster", values.sender));
        let value = match self.letter {
            's' => values.sender.to_owned(),
            'l' => local.to_owned(),
            'o' => domain.to_owned(),
            'd' => values.domain.to_owned(),
            'i' => dotted(values.address),
            'p' => values.name.to_owned(),
            'h' => values.helo.to_owned(),
            'v' => if values.address.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            // `c`, `r` and `t` stand in explanations, which nobody expands.
            _ => String::new(),
        };
        let value = self.transform(value);
        if self.escape { escaped(&value) } else { value }
    }

    fn transform(&self, value: String) -> String {
        if self.keep.is_none() && !self.reverse && self.delimiters.is_empty() {
            return value;
        }
        let delimiters = if self.delimiters.is_empty() { "." } else { &self.delimiters };
        let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
        if self.reverse {
            parts.reverse();
        }
        let skip = self.keep.map_or(0, |keep| parts.len().saturating_sub(keep));
        parts[skip..].join(".")
    }
}

/// IPv4 in dots, IPv6 as nibbles in dots.
fn dotted(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    }
}

/// What RFC 3986 does not reserve stays.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, address: &str) -> String {
        let values = Values {
            address: address.parse().unwrap(),
            sender: "strong-bad@email.example.com",
            helo: "mx.example.org",
            domain: "email.example.com",
            name: "mx.example.org",
        };
        Spec::domain(text).unwrap().expand(values)
    }

    /// The examples of RFC 7208 section 7.4.
    #[test]
    fn examples_of_the_rfc() {
        for (text, wanted) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
            ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
            ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ] {
            assert_eq!(expand(text, "192.0.2.3"), wanted, "{text}");
        }
        assert_eq!(
            expand("%{ir}.%{v}._spf.%{d2}", "2001:db8::cb01"),
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
        );
    }

    #[test]
    fn capitals_escape_and_percents_stand_for_themselves() {
        assert_eq!(expand("%{S}.a.com", "192.0.2.3"), "strong-bad%40email.example.com.a.com");
        assert_eq!(expand("%%.a%_b%-c.com", "192.0.2.3"), "%.a b%20c.com");
        assert_eq!(expand("a.com%%", "192.0.2.3"), "a.com%");
    }

    #[test]
    fn what_is_too_long_loses_labels_from_the_left() {
        let text = format!("{}%{{d}}", format!("{}.", "a".repeat(60)).repeat(5));
        let out = expand(&text, "192.0.2.3");
        assert!(out.len() <= 253 && out.ends_with("a.email.example.com"), "{out}");
    }

    #[test]
    fn what_the_grammar_has_not_is_refused() {
        for bad in [
            "",
            "com",
            "com.",
            "example.123",
            "example.-a",
            "example.a-",
            "%{d",
            "%{x}.com",
            "%{d0}.com",
            "%{d2*}.com",
            "%a.com",
            "%{}.com",
            "a b.com",
            "%",
            "%{c}.com",
            "ä.com",
            "foo%{d}bar",
            "a.com%%x",
        ] {
            assert!(Spec::domain(bad).is_err(), "{bad}");
        }
        for good in ["a.b-c", "a.1b", "a.com.", "%{d}", "_spf.%{D2R.-+,/_=}", "x/y.com", "a%%"] {
            assert!(Spec::domain(good).is_ok(), "{good}");
        }
        assert!(Spec::macro_string("", "d").is_ok());
    }
}
