//! What the rules say where there is no eBPF guard: they count by themselves, and name their lanes.
//!
//! Owns: those rules. Must not: decide what leaves; nothing here drops or marks but the check that stands with the
//! guard too. A rule that counts says nothing else: where its set has no room left the rule ends there, and the packet
//! goes on to the next one.

use mailsteer_core::plan::TableSpec;
use nftables::stmt::{SetOp, Statement};

use super::lane::title;
use super::words::{Stmt, ct, ct_mark, goto, is, jump, mark, masked, number, set, tcp_flags, text};
use super::{Line, has_its_sources_address, ours, unsteered};
use crate::nftnl::{Pair, PairSet, chain};

/// `IPS_ASSURED`: this host has answered the SYN-ACK.
const ASSURED: u32 = 1 << 2;
/// `IPS_CONFIRMED`: an earlier packet has left.
const CONFIRMED: u32 = 1 << 3;
const SYN_ACK: u32 = 0x12;
const RST: u32 = 0x04;
const RST_ACK: u32 = 0x14;

/// The first rule of each lane's chain says whose it is: the next agent reads there which number it has.
pub(super) fn name(chains: &mut [(String, Vec<Line>)], spec: &TableSpec) {
    for lane in &spec.lanes {
        let own = chains.iter_mut().find(|(name, _)| *name == chain::lane(lane.lane.id));
        if let Some(first) = own.and_then(|(_, rules)| rules.first_mut()) {
            first.comment = title(&lane.lane);
        }
    }
}

/// Chains that only count.
pub(super) fn chains() -> [(String, Vec<Line>); 2] {
    let first = || is(masked(ct("status"), CONFIRMED), number(0));
    let unanswered = || is(masked(ct("status"), ASSURED), number(0));
    let leaves = vec![
        // A SYN that is sent again, and one that was dropped before it got here, count no second time.
        Line::new(vec![first(), count(PairSet::Attempted)], "its first packet"),
        Line::new(vec![count(PairSet::Sent)], "every packet"),
    ];
    let flags = |flags| is(tcp_flags(), number(flags));
    let answers = vec![
        Line::new(
            vec![flags(SYN_ACK), unanswered(), count(PairSet::Established)],
            "answered; one that comes again finds it assured",
        ),
        Line::new(vec![flags(RST_ACK), unanswered(), count(PairSet::Refused)], "its SYN was refused"),
        Line::new(vec![flags(RST), unanswered(), count(PairSet::Refused)], "its SYN was refused"),
        Line::new(vec![count(PairSet::Received)], "every packet"),
    ];
    [(chain::LEAVES.into(), leaves), (chain::ANSWERS.into(), answers)]
}

/// The last look at what bears a mark of ours: there is no guard that would be told.
pub(super) fn check() -> Vec<Line> {
    let mut rules = vec![Line::new(vec![unsteered(), goto(chain::LEAVES)], "not steered")];
    rules.extend(has_its_sources_address());
    rules.push(Line::new(vec![set(mark(), ct_mark())], "as it came"));
    rules.push(Line::new(vec![goto(chain::LEAVES)], "has its source's address"));
    rules
}

/// What comes in by an uplink, in answer to a connection that bears a mark of ours.
pub(super) fn answers(by_uplink: Stmt) -> Line {
    Line::new(vec![by_uplink, is(ct("direction"), text("reply")), ours(), jump(chain::ANSWERS)], "an answer")
}

fn count(pairs: PairSet) -> Stmt {
    Statement::Set(nftables::stmt::Set {
        op: SetOp::Add,
        elem: masked(ct_mark(), Pair::MASK),
        set: format!("@{}", pairs.as_str()).into(),
    })
}
