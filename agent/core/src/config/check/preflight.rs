//! The preflight: whom a new source is tried with.
//!
//! Owns: what `[preflight]` means. Must not: know what a try shows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::names::is_full_host_name;
use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::At;
use crate::config::settings::Preflight;
use crate::signal::port25::RECEIVERS;

/// What `[preflight]` says.
pub(super) fn preflight(raw: &RawConfig, problems: &mut Vec<Problem>) -> Option<Preflight> {
    let table = raw.preflight.as_ref()?;
    let Some(written) = &table.value.receivers else {
        if !table.value.unread.contains(&"receivers") {
            problems.push(
                Problem::error(code::MISSING_KEY, "`[preflight]` needs `receivers`")
                    .at(&table.span, "whom is a new source tried with?")
                    .help(EXAMPLE),
            );
        }
        return None;
    };
    let mut receivers = BTreeSet::new();
    for item in &written.value.items {
        match receiver(item) {
            Ok(name) => drop(receivers.insert(name)),
            Err(problem) => problems.push(problem),
        }
    }
    if receivers.len() < RECEIVERS && receivers.len() == written.value.items.len() {
        problems.push(
            Problem::error(code::PREFLIGHT_INVALID, format!("{RECEIVERS} receivers at least"))
                .at(&written.span, "too few")
                .help("One receiver may be down, or refuse this address alone; several that are silent show a block. Name hosts that answer at port 25 and at 587, 465 or 443 too, for that tells a block from a dead receiver."),
        );
    }
    Some(Preflight { receivers: receivers.into_iter().collect() })
}

const EXAMPLE: &str = "Write receivers = [\"mx1.example.net\", \"192.0.2.25\"]: mail servers that may be connected to at port 25, such as your own at another hoster.";

fn receiver(item: &At<String>) -> Result<String, Problem> {
    let name = item.value.trim_end_matches('.').to_ascii_lowercase();
    if item.value.parse::<IpAddr>().is_ok() || is_full_host_name(&name) {
        return Ok(name);
    }
    let what = format!("`{}` is neither an address nor a full host name", item.value);
    Err(Problem::error(code::PREFLIGHT_INVALID, what).at(&item.span, "").help(EXAMPLE))
}
