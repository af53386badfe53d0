//! Rules of others that meet steered connections: notrack, source NAT before ours, marks.

use super::programs::owner;
use super::{Patient, listed};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::firewall::{Does, Firewall, Rule};
use crate::doctor::numbers::poses_as_ours;

/// Priority of our chain that translates.
const TRANSLATE: i64 = 90;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    [notrack(patient), nat(patient), marks(patient)].concat()
}

/// One finding for each rule, or one that says there is none.
fn each(
    patient: &Patient<'_>,
    check: &'static str,
    none: String,
    judge: impl Fn(&Firewall, &Rule) -> Option<Finding>,
) -> Vec<Finding> {
    let mut found = patient.unread_firewalls(check);
    found.extend(patient.meeting().into_iter().filter_map(|(firewall, rule)| judge(firewall, rule)));
    if found.is_empty() {
        found.push(Finding::ok(check, none));
    }
    found
}

fn named(rule: &Rule) -> String {
    let by = owner(&rule.table, &rule.chain).map_or_else(String::new, |program| format!(" ({program})"));
    format!("{}{by}", rule.name)
}

fn removal(rule: &Rule) -> String {
    format!("Limit it to other ports, or remove it: {}", rule.removal)
}

fn notrack(patient: &Patient<'_>) -> Vec<Finding> {
    let ports = listed(patient.ports());
    each(patient, "notrack", format!("no rule takes port {ports} out of connection tracking"), |_, rule| {
        rule.does.contains(&Does::NoTrack).then(|| {
            let certain = rule.scope.meets_all();
            let level = if certain { Level::Bad } else { Level::Warn };
            let meets = if certain { "takes" } else { "may take" };
            Finding::new(
                "notrack",
                level,
                format!("{} {meets} port {ports} out of connection tracking", named(rule)),
                "Connections of steered streams that it meets are refused at once: without tracking nothing is translated.",
                removal(rule),
            )
        })
    })
}

fn nat(patient: &Patient<'_>) -> Vec<Finding> {
    each(patient, "nat", "no rule rewrites the source before ours do".to_owned(), |firewall, rule| {
        let early = firewall
            .bases(&rule.table, &rule.chain)
            .iter()
            .any(|base| base.kind == "nat" && base.hook == "postrouting" && base.priority < TRANSLATE);
        (early && rule.does.contains(&Does::SourceNat)).then(|| {
            Finding::new(
                "nat",
                Level::Warn,
                format!("{} rewrites the source address before ours does", named(rule)),
                "A steered connection that it meets is dropped and counted: it would bear a wrong address.",
                format!(
                    "Give that chain the priority srcnat (100), which comes after ours ({TRANSLATE}), or exclude port {} from it.",
                    listed(patient.ports())
                ),
            )
        })
    })
}

fn marks(patient: &Patient<'_>) -> Vec<Finding> {
    each(patient, "marks", "no rule takes our marks for its own".to_owned(), |_, rule| {
        dropped_by_mark(patient, rule).or_else(|| posing(rule)).or_else(|| connmark(rule))
    })
}

fn posing(rule: &Rule) -> Option<Finding> {
    let poses = |does: &Does| matches!(does, Does::SetMark(value, mask) if poses_as_ours(*value, *mask));
    rule.does.iter().any(poses).then(|| {
        Finding::new(
            "marks",
            Level::Warn,
            format!("{} sets a packet mark that begins as ours do", named(rule)),
            "mailsteer and its policy rules take such a packet for one of theirs: it goes by an uplink of ours, or is held by the guard.",
            "Give the other program a mark whose first byte is none of 0x4c, 0x4d and 0x4e.",
        )
    })
}

fn dropped_by_mark(patient: &Patient<'_>, rule: &Rule) -> Option<Finding> {
    let ours = patient.marks();
    let asked = !rule.scope.marks.is_empty() && rule.scope.marks.iter().all(|test| ours.can_answer(*test));
    (asked && rule.does.contains(&Does::Drop)).then(|| {
        Finding::new(
            "marks",
            patient.certainly(),
            format!("{} drops by a mark that ours can have", named(rule)),
            "A steered connection whose mark it takes for its own is dropped and times out.",
            format!("Give the other program a mask that leaves the first byte 0x4d alone. {}", removal(rule)),
        )
    })
}

fn connmark(rule: &Rule) -> Option<Finding> {
    let cost = "The guard holds packets of steered connections whose connection mark was overwritten: they time out.";
    rule.does.iter().find_map(|does| match does {
        Does::SetConnmark(bits) if *bits != 0 => {
            Some(Finding::new("marks", Level::Warn, format!("{} writes connection marks", named(rule)), cost, removal(rule)))
        }
        // The packet's mark is ours then, too, and the same.
        Does::SaveConnmark(bits) if *bits != 0 => Some(Finding::new(
            "marks",
            Level::Note,
            format!("{} copies packet marks into connection marks", named(rule)),
            "Nothing while no other program sets packet marks of steered connections; otherwise the guard holds them.",
            "",
        )),
        _ => None,
    })
}
