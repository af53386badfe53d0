//! From a line of text to a reply: code, enhanced code and words.
//!
//! Owns: the reading. Must not: judge. An MTA writes a receiver's reply into a text of its own; that text is taken off, and
//! a line that is the MTA's alone is no reply (a "connection refused" that it wrote itself must not read as the receiver's
//! refusal).

use serde::Serialize;

/// Longer replies are cut: RFC 5321 4.5.3.1.5 allows 512 octets a line, and what matters stands in front.
const LONGEST: usize = 2_000;

/// An enhanced status code (RFC 3463): class, subject, detail.
pub type Enhanced = (u8, u16, u16);

/// In which phase of a session something was said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The greeting.
    Connect,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    Starttls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA or BDAT, before the message.
    Data,
    /// After the message.
    EndOfData,
}

/// What a receiver said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced code, if one was said that fits the code.
    #[serde(skip)]
    pub enhanced: Option<Enhanced>,
    /// All of it in one line, without the codes that lines of a longer reply repeat.
    pub line: String,
    /// When it was said, where the text says so.
    pub phase: Option<Phase>,
}

impl Reply {
    /// Reads a reply, as it was said or as Postfix and Exim write it down. None where the text is not a receiver's.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = cut(text.trim());
        let (said, phase) = unwrapped(text);
        let said = said.trim_start_matches(['"', '\'', ' ']);
        let code = code_of(said)?;
        let line = joined(said, code);
        let enhanced = enhanced_of(&line, code);
        Some(Self { code, enhanced, line, phase })
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The receiver's own words.
fn unwrapped(text: &str) -> (&str, Option<Phase>) {
    let text = strip_word(text, "smtp;").unwrap_or(text).trim_start();
    if text.starts_with("host ") {
        return postfix(text);
    }
    for (wrapper, phase) in EXIM {
        if let Some(rest) = find_after(text, wrapper) {
            return (first_reply(rest), Some(*phase));
        }
    }
    (text, None)
}

/// `host NAME[ADDRESS] said: REPLY (in reply to COMMAND command)`, `host NAME[ADDRESS] refused to talk to me: REPLY`: Postfix,
/// smtp_proto.c and smtp_connect.c.
fn postfix(text: &str) -> (&str, Option<Phase>) {
    // The name cannot hold a space, so that nothing that the receiver says can stand in for this.
    let after_host = text.splitn(3, ' ').nth(2).unwrap_or_default();
    if let Some(greeting) = after_host.strip_prefix("refused to talk to me: ") {
        return (greeting, Some(Phase::Connect));
    }
    let Some(said) = after_host.strip_prefix("said: ") else { return ("", None) };
    let Some((words, command)) = said.rsplit_once(" (in reply to ") else { return (said, None) };
    (words, phase_of(command.trim_end_matches(')').trim_end_matches(" command")))
}

fn phase_of(command: &str) -> Option<Phase> {
    Some(match command {
        "EHLO" | "HELO" | "LHLO" => Phase::Ehlo,
        "STARTTLS" => Phase::Starttls,
        "AUTH" => Phase::Auth,
        "MAIL FROM" => Phase::MailFrom,
        "RCPT TO" => Phase::RcptTo,
        "DATA" | "BDAT" => Phase::Data,
        "end of DATA" | "sending message body" => Phase::EndOfData,
        _ => return None,
    })
}

/// What stands in Exim's `SMTP error from remote mail server after ...`: deliver.c, transports/smtp.c.
const EXIM: &[(&str, Phase)] = &[
    ("SMTP error from remote mail server after initial connection", Phase::Connect),
    ("SMTP error from remote mail server after EHLO", Phase::Ehlo),
    ("SMTP error from remote mail server after HELO", Phase::Ehlo),
    ("SMTP error from remote mail server after STARTTLS", Phase::Starttls),
    ("SMTP error from remote mail server after pipelined MAIL FROM", Phase::MailFrom),
    ("SMTP error from remote mail server after MAIL FROM", Phase::MailFrom),
    ("SMTP error from remote mail server after pipelined RCPT TO", Phase::RcptTo),
    ("SMTP error from remote mail server after RCPT TO", Phase::RcptTo),
    ("SMTP error from remote mail server after pipelined DATA", Phase::Data),
    ("SMTP error from remote mail server after DATA", Phase::Data),
    ("SMTP error from remote mail server after pipelined end of data", Phase::EndOfData),
    ("SMTP error from remote mail server after end of data", Phase::EndOfData),
];

fn strip_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let head = text.get(..word.len())?;
    head.eq_ignore_ascii_case(word).then(|| &text[word.len()..])
}

fn find_after<'t>(text: &'t str, wrapper: &str) -> Option<&'t str> {
    text.find(wrapper).map(|place| &text[place + wrapper.len()..])
}

/// From the first `: ` behind which a reply begins.
fn first_reply(text: &str) -> &str {
    let places = text.match_indices(": ").map(|(place, _)| &text[place + 2..]);
    places.into_iter().find(|rest| code_of(rest).is_some()).unwrap_or_default()
}

/// Three digits, and nothing that makes them part of something else.
fn code_of(text: &str) -> Option<u16> {
    let digits = text.get(..3)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ends =
        text[3..].chars().next().is_none_or(|next| matches!(next, ' ' | '-' | '\t' | '#' | ':' | '\\'));
    digits.parse().ok().filter(|code| (200..600).contains(code) && ends)
}

/// One line of it: white space and line ends are one space, and the codes with which further lines begin are gone.
fn joined(said: &str, code: u16) -> String {
    let said = said.replace("\\r\\n", " ").replace("\\n", " ");
    let code = code.to_string();
    let mut words = said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let (mut line, mut several) = (code.clone(), false);
    let mut push = |word: &str| {
        line.push(' ');
        line.push_str(word);
    };
    let head = first.get(3..).unwrap_or_default();
    several |= head.starts_with('-');
    let head = head.trim_start_matches(['-', ':', '#']);
    if !head.is_empty() {
        push(head);
    }
    let mut repeated = (several && is_enhanced(head)).then(|| head.to_owned());
    let mut after_code = false;
    for word in words {
        let begins = word.strip_prefix(code.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('-'));
        match begins {
            Some(rest) if several || rest.starts_with('-') => {
                several = true;
                after_code = true;
                let rest = rest.trim_start_matches('-');
                if !rest.is_empty() && repeated.as_deref() != Some(rest) {
                    push(rest);
                    after_code = false;
                }
            }
            _ if after_code && repeated.as_deref() == Some(word) => after_code = false,
            _ => {
                if repeated.is_none() && is_enhanced(word) {
                    repeated = Some(word.to_owned());
                }
                after_code = false;
                push(word);
            }
        }
    }
    line
}

fn is_enhanced(word: &str) -> bool {
    parse_enhanced(word).is_some()
}

fn parse_enhanced(word: &str) -> Option<Enhanced> {
    let word = word.trim_start_matches(['(', '#', '[']).trim_end_matches([')', ']', ':', ',', ';', '-']);
    let mut parts = word.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    let short = |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || !matches!(class, "2" | "4" | "5") || !short(subject) || !short(detail) {
        return None;
    }
    Some((class.parse().ok()?, subject.parse().ok()?, detail.parse().ok()?))
}

/// The enhanced code behind the code, or in brackets at the end as qmail has it: `(#5.1.1)`.
fn enhanced_of(line: &str, code: u16) -> Option<Enhanced> {
    let mut words = line.split(' ').skip(1);
    let first = words.next().and_then(parse_enhanced);
    let marked = || {
        line.split(' ')
            .filter(|word| word.starts_with("(#") || word.starts_with('#'))
            .find_map(parse_enhanced)
    };
    first.or_else(marked).filter(|(class, ..)| u16::from(*class) == code / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(u16, Option<Enhanced>, String, Option<Phase>)> {
        Reply::read(text).map(|reply| (reply.code, reply.enhanced, reply.line, reply.phase))
    }

    #[test]
    fn replies_as_they_are_said() {
        let some = |code, enhanced, line: &str, phase| Some((code, enhanced, line.to_owned(), phase));
        assert_eq!(read("550 5.1.1 no"), some(550, Some((5, 1, 1)), "550 5.1.1 no", None));
        assert_eq!(read("smtp; 550-5.1.1 a 550 5.1.1 b"), some(550, Some((5, 1, 1)), "550 5.1.1 a b", None));
        assert_eq!(
            read("554-gmx.net 554-No service 554 see"),
            some(554, None, "554 gmx.net No service see", None)
        );
        assert_eq!(read("553 sorry (#5.7.1)"), some(553, Some((5, 7, 1)), "553 sorry (#5.7.1)", None));
        assert_eq!(read("550 room 550 in it"), some(550, None, "550 room 550 in it", None));
        assert_eq!(read("421"), some(421, None, "421", None));
        assert_eq!(read("550 4.4.7 expired").and_then(|(_, enhanced, ..)| enhanced), None);
    }

    #[test]
    fn replies_as_mtas_write_them_down() {
        let phase = |text| read(text).map(|(code, _, _, phase)| (code, phase));
        assert_eq!(
            phase("host mx.example.com[192.0.2.1] said: 550 5.7.1 no (in reply to MAIL FROM command)"),
            Some((550, Some(Phase::MailFrom)))
        );
        assert_eq!(
            phase("host mx[2001:db8::1] refused to talk to me: 554 go away"),
            Some((554, Some(Phase::Connect)))
        );
        assert_eq!(
            phase("SMTP error from remote mail server after RCPT TO:<a@b.example>: 550 5.1.1 unknown"),
            Some((550, Some(Phase::RcptTo)))
        );
        assert_eq!(
            phase("SMTP error from remote mail server after end of data: host mx [192.0.2.1]: 552 spam"),
            Some((552, Some(Phase::EndOfData)))
        );
    }

    #[test]
    fn an_mtas_own_words_are_no_reply() {
        for own in [
            "connect to mx.example.com[192.0.2.1]:25: Connection refused",
            "lost connection with mx[192.0.2.1] while receiving the initial server greeting",
            "host mx[192.0.2.1] is suspended: 554 as it says",
            "Host or domain name not found. Name service error for name=x type=MX: Host not found",
            "5501 is no code",
            "",
        ] {
            assert_eq!(read(own), None, "{own}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_nothing_grows(text in "\\PC{0,200}|[245]\\d\\d[- ]([245]\\.\\d\\.\\d )?.{0,80}") {
            if let Some(reply) = Reply::read(&text) {
                proptest::prop_assert!(reply.line.len() <= text.len() + 4);
                proptest::prop_assert!(!reply.line.contains(char::is_control));
            }
        }
    }
}
