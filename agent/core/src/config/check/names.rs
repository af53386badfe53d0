//! Names that the operator gives, interface names, and EHLO names.

use std::ops::Range;

use crate::config::problem::{Problem, code};
use crate::config::read::At;

/// Reports a name that is not `[a-z0-9][a-z0-9_-]{0,30}`: names stand in metrics, counters and commands.
pub(super) fn name(name: &At<String>, of: &str, problems: &mut Vec<Problem>) {
    let text = &name.value;
    let fits = (1..=31).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !fits {
        problems.push(
            Problem::error(code::BAD_NAME, format!("`{text}` cannot be the name of {of}"))
                .at(&name.span, "")
                .help("Use 1 to 31 small letters, digits, `-` and `_`, beginning with a letter or digit: it stands in metrics and commands."),
        );
    }
}

/// Reports an interface name that the kernel would not take, and lo.
pub(super) fn interface(name: &str, span: &Range<usize>, problems: &mut Vec<Problem>) -> bool {
    if is_interface(name) && name != "lo" {
        return true;
    }
    let why = if name == "lo" {
        "nothing leaves the host by it"
    } else {
        "1 to 15 characters, no `/`, `:` or blank"
    };
    problems.push(
        Problem::error(code::BAD_INTERFACE, format!("mail cannot use an interface `{name}`"))
            .at(span, why)
            .help("`ip -br link` lists the interfaces of the host."),
    );
    false
}

/// Whether an interface can be called so, and the name be written in a config.
pub(crate) fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        && name != "."
        && name != ".."
}

/// Reports an EHLO name that receivers would turn down.
pub(super) fn ehlo(name: &At<String>, problems: &mut Vec<Problem>) {
    if !is_full_host_name(&name.value) {
        problems.push(
            Problem::error(code::EHLO_NOT_FQDN, format!("`{}` is not a full host name", name.value))
                .at(&name.span, "receivers refuse such an EHLO")
                .help("Write the name that PTR and A of the pool's addresses bear, such as \"mail.example.com\": letters, digits and hyphens, at least one dot, none at the end."),
        );
    }
}

/// Whether it is a name such as `mail.example.com`.
pub(crate) fn is_full_host_name(name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    name.len() <= 253
        && labels.len() >= 2
        && labels.iter().all(|label| host_label(label))
        && labels.last().is_some_and(|top| top.bytes().any(|b| b.is_ascii_alphabetic()))
}

fn host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}
