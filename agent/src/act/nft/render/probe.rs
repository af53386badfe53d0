//! Our own probes: they leave from the source that they name, and draw no slot.
//!
//! Owns: how the rules know one. Must not: trust the mark alone. Who may set a packet mark (CAP_NET_ADMIN or CAP_NET_RAW,
//! in this namespace) could otherwise choose any source; so the socket has to be bound to that source's address besides,
//! as a probe is, and nothing is translated that the mark would have chosen. What such a socket gains is that it is drawn
//! no other source; it keeps the one that it has.

use mailsteer_core::model::Family;
use mailsteer_ebpf::Mark;
use nftables::expr::NamedExpression;

use super::words::{
    back, ct_mark, header, is, is_not, jump, mark, masked, named, number, of_family, protocol, set, text,
};
use super::{Line, ours};
use crate::nftnl::{chain, map};

/// Which bits say that a mark is ours and of no lane.
const NO_LANE: u32 = Mark::MAGIC_MASK | LANE_MASK;
const LANE_MASK: u32 = Mark { uplink: 0, lane: u8::MAX, source: 0 }.pack() & !Mark::MAGIC_MASK;

/// What bears the mark of a probe and no ct mark yet is looked at; once known, it is done.
pub(super) fn asks() -> [Line; 2] {
    let probes = vec![
        is(masked(mark(), NO_LANE), number(Mark::MAGIC)),
        is_not(masked(mark(), Mark::SOURCE_MASK), number(0)),
        is(ct_mark(), number(0)),
        jump(chain::PROBE),
    ];
    [Line::new(probes, "says it is a probe of ours"), Line::new(vec![ours(), back()], "it is")]
}

/// The ct mark is scratch here, and what the rules go by afterwards.
pub(super) fn chain() -> Vec<Line> {
    let mut rules = vec![Line::new(vec![set(ct_mark(), masked(mark(), Mark::SOURCE_MASK))], "which source")];
    for family in Family::BOTH {
        let pair = named(NamedExpression::Concat(vec![ct_mark(), header(protocol(family), "saddr")]));
        let bound = is(pair, text(format!("@{}", map::eligible(family))));
        rules.push(Line::new(
            vec![of_family(family), bound, set(ct_mark(), mark()), back()],
            "bound to that source's address",
        ));
    }
    rules.push(Line::new(vec![set(ct_mark(), number(0))], "another's mark: like any other connection"));
    rules
}
