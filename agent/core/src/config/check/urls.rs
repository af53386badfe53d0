//! URLs, as hooks and feeds are reached by.
//!
//! Owns: which are taken, and which are sent in clear. Must not: know what is asked for there.

use std::net::IpAddr;

use crate::config::problem::Problem;
use crate::config::read::At;

/// Longest URL that is taken: what servers take, too.
const LONGEST: usize = 2_000;
/// What stands in no URL unless it is encoded.
const NEVER: &str = "\"<>\\^`|#";

/// Reports a URL that is no http or https one, names a user, or has a fragment; false then.
pub(super) fn url(written: &At<String>, code: &'static str, problems: &mut Vec<Problem>) -> bool {
    let why = match parts(&written.value) {
        None => "http:// or https:// has to come first",
        Some((_, host, _)) if host.contains('@') => "a password here would stand in the config and in logs",
        Some((_, host, _)) if !is_host(host) => "the host is missing, or no host",
        Some((_, _, path))
            if !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(|c| NEVER.contains(c)) =>
        {
            "this has to be encoded (%20 and the like)"
        }
        Some(_) if written.value.len() > LONGEST => "too long",
        Some(_) => return true,
    };
    // Not repeated: a problem is shown in status and logs, and secrets stand in URLs.
    problems.push(
        Problem::error(code, "this is no URL that can be asked")
            .at(&written.span, why)
            .help("Write \"https://HOST/PATH\", or with a port \"http://127.0.0.1:9094/PATH\"."),
    );
    false
}

/// Whether what is sent there could be read on the way.
pub(super) fn in_clear(url: &str) -> bool {
    let Some((scheme, host, _)) = parts(url) else { return false };
    let bare = without_port(host).trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    scheme == "http" && !loopback
}

/// Scheme, host with port, and the rest.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    ["http", "https"].contains(&scheme).then_some((scheme, host, path))
}

fn without_port(host: &str) -> &str {
    let end = host.rfind(']').map_or(0, |at| at + 1);
    host.get(end..).and_then(|rest| rest.find(':')).and_then(|at| host.get(..end + at)).unwrap_or(host)
}

fn is_host(host: &str) -> bool {
    let bare = without_port(host);
    let port = host.get(bare.len()..).unwrap_or_default();
    let port_fits = port.is_empty()
        || port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port != 0);
    let v6 = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = || {
        !bare.is_empty()
            && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && bare.bytes().any(|b| b.is_ascii_alphanumeric())
    };
    port_fits && v6.map_or_else(named, |v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> bool {
        let mut problems = vec![];
        let fits = url(&At { value: text.to_owned(), span: 0..1 }, "x", &mut problems);
        assert_eq!(fits, problems.is_empty());
        fits
    }

    #[test]
    fn only_what_can_be_asked_is_taken() {
        for good in [
            "http://127.0.0.1:9094/",
            "https://h.example",
            "https://[2001:db8::1]:8443/a?b={c}",
            "http://localhost",
        ] {
            assert!(taken(good), "{good}");
        }
        for bad in [
            "",
            "h.example",
            "ftp://h.example/",
            "https:///a",
            "https://:8/a",
            "https://u:p@h.example/",
            "https://h.example:0/",
            "https://h.example:99999/",
            "https://h.example/a b",
            "https://h.example/#x",
            "https://[::g]/",
            "https://h ost/",
        ] {
            assert!(!taken(bad), "{bad}");
        }
    }

    #[test]
    fn only_loopback_is_nobodys_to_read() {
        for clear in ["http://h.example/", "http://192.0.2.1:80/", "http://[2001:db8::1]/"] {
            assert!(in_clear(clear), "{clear}");
        }
        for not in ["https://h.example/", "http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/x"] {
            assert!(!in_clear(not), "{not}");
        }
    }
}
