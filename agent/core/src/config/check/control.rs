//! Who may look and who may operate through the control socket.

use std::collections::BTreeSet;

use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::{At, Many, did_you_mean};
use crate::config::settings::{ControlAccess, HostView};

/// Members may operate unless the operator names other groups; the package makes it.
const OPERATORS: &str = "mailsteer-operators";

/// What `[control]` says.
pub(super) fn access(raw: &RawConfig, view: &HostView, problems: &mut Vec<Problem>) -> ControlAccess {
    let table = raw.control.as_ref().map(|table| &table.value);
    let operators = match table.and_then(|table| table.operators.as_ref()) {
        Some(list) => groups(list, view, problems),
        None => view.groups.get(OPERATORS).copied().into_iter().collect(),
    };
    let readers = table.and_then(|table| table.readers.as_ref());
    let reflection = table.and_then(|table| table.reflection.as_ref());
    ControlAccess {
        operators,
        readers: readers.map(|list| groups(list, view, problems)),
        reflection: reflection.is_none_or(|written| written.value),
    }
}

/// The groups' ids. Away from the host its groups are not known: nobody is let in by them.
fn groups(list: &At<Many<String>>, view: &HostView, problems: &mut Vec<Problem>) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    for name in &list.value.items {
        match view.groups.get(&name.value) {
            Some(id) => drop(ids.insert(*id)),
            None if view.groups.is_empty() => {}
            None => problems.push(unknown(name, view)),
        }
    }
    ids
}

fn unknown(name: &At<String>, view: &HostView) -> Problem {
    let close = did_you_mean(&name.value, view.groups.keys().map(String::as_str))
        .map(|close| format!("Did you mean `{close}`? "))
        .unwrap_or_default();
    Problem::error(code::UNKNOWN_GROUP, format!("this host has no group `{}`", name.value))
        .at(&name.span, "unknown group")
        .help(format!("{close}`getent group` lists them; `groupadd --system {}` makes it.", name.value))
}
