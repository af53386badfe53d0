//! Port 25 on the way out, from each source.

use std::collections::{BTreeMap, BTreeSet};

use super::Patient;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::findings::Read;
use crate::signal::port25::{Port25, Try, judge};

const NAME: &str = "port25";

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    match &patient.found.port25 {
        Err(unread) => vec![Finding::unread(NAME, "port 25 on the way out", unread)],
        Ok(None) => vec![Finding::new(
            NAME,
            Level::Note,
            "port 25 on the way out was not tried: no `[preflight]` says with whom",
            "",
            "Name two mail servers that may be connected to: receivers = [\"mx1.example.net\", \"192.0.2.25\"] below [preflight], and run `mailsteer doctor --config FILE`.",
        )],
        Ok(Some(tried)) => of_sources(tried),
    }
}

fn of_sources(tried: &BTreeMap<String, Read<Vec<Try>>>) -> Vec<Finding> {
    let made = tried.values().filter_map(|tries| tries.as_ref().ok()).flatten();
    let reached: BTreeSet<_> = made.filter(|one| one.stood()).map(|one| one.receiver).collect();
    let (mut findings, mut open) = (vec![], 0_usize);
    for (source, tries) in tried {
        let result = match tries {
            Ok(tries) => judge(tries, &reached),
            Err(unread) => Port25::Unknown(unread.why.clone()),
        };
        match result {
            Port25::Open => open += 1,
            Port25::Blocked(why) => findings.push(Finding::new(
                NAME,
                Level::Bad,
                format!("{source}: {why}"),
                "No mail leaves from it: its hoster or a firewall blocks port 25, or its address is not routed to this host.",
                "Ask the hoster to open port 25 for the address, and look whether it answers from outside at all.",
            )),
            Port25::Unknown(why) => findings.push(Finding::new(
                NAME,
                Level::Note,
                format!("{source}: nobody can tell whether port 25 is open: {why}"),
                "",
                "Name receivers that answer at port 25 and at 587, 465 or 443 below [preflight].",
            )),
        }
    }
    if open > 0 || findings.is_empty() {
        findings.push(Finding::ok(NAME, format!("port 25 is open from {open} sources")));
    }
    findings
}
