//! A lane's rules: which connections are its own, and what becomes of them.
//!
//! Owns: matches and lane chains. Must not: know slots' contents: those are elements. First match wins, so lanes
//! come in the order of the spec.

use ipnet::IpNet;
use mailsteer_core::config::Balance;
use mailsteer_core::model::{Countries, Family, Lane, LaneMatch, RefuseReason, Steering};
use mailsteer_core::plan::{LaneSpec, TableSpec};
use mailsteer_ebpf::{CGROUP_MAGIC, HOLD, Mark, slot_key};
use nftables::expr::{JHash, MetaKey, NamedExpression, NgMode, Numgen};
use nftables::stmt::Statement;

use super::Line;
use super::words::{
    Expr, Stmt, any_of, at_least, back, count, ct, ct_mark, drop, goto, header, is, is_any, is_not, mapped,
    mark, masked, meta, named, network, number, of_family, prohibit, protocol, reset, set, tcp_flags, text,
};
use crate::nftnl::{Counter, RejectCause, chain, map, refusal, timeout};

/// Where a connection is seen first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A socket of this host.
    Local,
    /// A container or another host behind this one.
    Forwarded,
}

/// Whether any connection of a lane is steered.
pub(super) const fn steers(lane: &Lane) -> bool {
    matches!(lane.steering, Steering::Canary(_) | Steering::Enforce)
}

/// Which lane that is, in words that the next agent reads back.
pub(super) fn title(lane: &Lane) -> String {
    format!("{}{}{}", lane.stream, chain::AT, lane.provider)
}

/// Whether it takes connections of containers or other hosts only, and none of this host's sockets.
const fn is_forwarded(who: &LaneMatch) -> bool {
    !(who.subnets.is_empty() && who.via.is_empty())
}

/// Sets that rules may name, by their places.
pub(super) struct Sets<'s> {
    named: &'s [String],
    countries: Vec<&'s Countries>,
}

impl<'s> Sets<'s> {
    pub(super) fn of(spec: &'s TableSpec) -> Self {
        Self { named: &spec.named, countries: spec.countries() }
    }

    /// The number of a provider's set.
    fn learned(&self, provider: &str) -> Option<usize> {
        self.named.iter().position(|one| one == provider).map(|place| place + 1)
    }

    /// The number of the set of these countries.
    fn countries(&self, wanted: &Countries) -> Option<usize> {
        self.countries.iter().position(|one| *one == wanted).map(|place| place + 1)
    }
}

/// Whose receivers a rule takes.
#[derive(Clone, Copy)]
enum Receivers<'r> {
    Anyones,
    In(&'r [IpNet]),
    Learned(usize),
}

impl<'r> Receivers<'r> {
    /// A rule for each way of telling them.
    fn of(lane: &'r Lane, sets: &Sets<'_>) -> Vec<Self> {
        let networks = (!lane.networks.is_empty()).then_some(Self::In(&lane.networks));
        let ways: Vec<Self> =
            networks.into_iter().chain(sets.learned(&lane.provider).map(Self::Learned)).collect();
        if ways.is_empty() { vec![Self::Anyones] } else { ways }
    }
}

/// The rules that send a lane's connections to its chain.
pub(super) fn matches(lane: &Lane, origin: Origin, cgroups: &[&str], sets: &Sets<'_>) -> Vec<Line> {
    let who = &lane.matches;
    let local_only =
        !(who.uids.is_empty() && who.gids.is_empty() && who.cgroups.is_empty() && who.tags.is_empty());
    let elsewhere = match origin {
        Origin::Local => is_forwarded(who),
        Origin::Forwarded => local_only,
    };
    if elsewhere {
        return Vec::new();
    }
    let comment = title(lane);
    let countries = sets.countries(&who.countries);
    Receivers::of(lane, sets)
        .into_iter()
        .flat_map(|whose| address_matches(who, whose, countries))
        .map(|addresses| {
            let mut rule = plain_matches(who, cgroups);
            rule.extend(addresses);
            rule.push(goto(chain::lane(lane.id)));
            Line::new(rule, comment.clone())
        })
        .collect()
}

fn plain_matches(who: &LaneMatch, cgroups: &[&str]) -> Vec<Stmt> {
    let indexes = who
        .cgroups
        .iter()
        .filter_map(|path| cgroups.binary_search(&path.as_str()).ok())
        .filter_map(|index| u32::try_from(index).ok())
        .map(|index| CGROUP_MAGIC | index);
    let numbers = |list: &[u32]| list.iter().copied().map(number).collect::<Vec<_>>();
    let lists = [
        (meta(MetaKey::Skuid), numbers(&who.uids)),
        (meta(MetaKey::Skgid), numbers(&who.gids)),
        (mark(), indexes.map(number).collect()),
        (mark(), numbers(&who.marks)),
        (meta(MetaKey::Iifname), who.via.iter().map(text).collect()),
    ];
    lists
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(key, values)| is_any(key, values))
        .collect()
}

/// One rule's worth of matches for each family that can match; one without any where addresses do not matter.
/// `countries`: the set of those that the receiver is in; none where that does not matter.
fn address_matches(who: &LaneMatch, whose: Receivers<'_>, countries: Option<usize>) -> Vec<Vec<Stmt>> {
    let tags: Vec<IpNet> = who.tags.iter().copied().map(IpNet::from).collect();
    let (provider, learned): (&[IpNet], Option<usize>) = match whose {
        Receivers::Anyones => (&[], None),
        Receivers::In(networks) => (networks, None),
        Receivers::Learned(number) => (&[], Some(number)),
    };
    let lists: [(&str, &[IpNet]); 4] =
        [("saddr", &tags), ("saddr", &who.subnets), ("daddr", &who.destinations), ("daddr", provider)];
    if lists.iter().all(|(_, list)| list.is_empty()) && learned.is_none() && countries.is_none() {
        return vec![Vec::new()];
    }
    let in_sets = |family| {
        let learned = learned.map(|number| map::learned(number, family));
        let sets = learned.into_iter().chain(countries.map(|number| map::countries(number, family)));
        sets.map(|set| is(header(protocol(family), "daddr"), text(format!("@{set}")))).collect::<Vec<_>>()
    };
    let of = |family, list: &[IpNet]| -> Vec<Expr> {
        let ours = list.iter().filter(|net| Family::of(net.addr()) == family);
        ours.copied().map(network).collect()
    };
    Family::BOTH
        .into_iter()
        .filter_map(|family| {
            let wanted = lists.iter().filter(|(_, list)| !list.is_empty());
            let listed: Option<Vec<Stmt>> = wanted
                .map(|(field, list)| {
                    let values = of(family, list);
                    (!values.is_empty()).then(|| is_any(header(protocol(family), field), values))
                })
                .collect();
            Some([listed?, in_sets(family)].concat())
        })
        .collect()
}

/// The mark that says: seen, of this lane (0: of none), not steered.
pub(super) const fn stamp_of(lane: u8) -> u32 {
    Mark { uplink: 0, lane, source: 0 }.pack()
}

/// Rules that leave a connection alone, and say so. `armed`: the guard drops what bears no word of ours.
pub(super) fn leave_alone(lane: u8, armed: bool) -> Vec<Line> {
    let stamp = || number(stamp_of(lane));
    let mut rules =
        vec![Line::new(vec![is(ct_mark(), number(0)), set(ct_mark(), stamp()), back()], "seen, not steered")];
    if armed {
        rules.push(Line::new(
            vec![is(mark(), number(0)), set(mark(), stamp()), back()],
            "untracked, or another's ct mark: said packet by packet",
        ));
        rules.push(Line::new(vec![set(ct_mark(), stamp())], "both marks are another's: the guard needs one"));
    }
    rules
}

/// A lane's chain.
pub(super) fn chain_of(spec: &LaneSpec, armed: bool, timeouts: bool) -> Vec<Line> {
    let lane = &spec.lane;
    if !steers(lane) {
        return leave_alone(lane.id.0, armed);
    }
    let mut rules = unplaceable(lane);
    if let Steering::Canary(share) = lane.steering {
        let draw =
            named(NamedExpression::Numgen(Numgen { mode: NgMode::Random, ng_mod: 1000, offset: None }));
        rules.push(Line::new(
            vec![
                at_least(draw, number(u32::from(share))),
                set(ct_mark(), number(stamp_of(lane.id.0))),
                back(),
            ],
            "the share that is not steered",
        ));
    }
    rules.extend(draws(spec));
    rules.push(Line::new(vec![set(ct_mark(), mapped(ct_mark(), map::SLOTS))], "what the slot says"));
    rules.push(Line::new(
        vec![
            is_not(masked(ct_mark(), Mark::MAGIC_MASK), number(Mark::MAGIC)),
            count(Counter::HeldGap),
            drop(),
        ],
        "no such slot: a gap, which holds",
    ));
    rules.push(Line::new(
        vec![is(masked(ct_mark(), Mark::SOURCE_MASK), number(HOLD)), count(Counter::HeldPending), drop()],
        "its pool's addresses are being put on the host: the next SYN will find them",
    ));
    rules.extend(refusals(lane));
    rules.push(Line::new(
        vec![is(masked(ct_mark(), Mark::SOURCE_MASK), number(0)), back()],
        "pass: not steered",
    ));
    for family in Family::BOTH.into_iter().filter(|_| timeouts) {
        let policy = Statement::CTTimeout(text(timeout(family)));
        rules.push(Line::new(vec![of_family(family), policy], "closed connections leave conntrack soon"));
    }
    rules.push(Line::new(vec![set(mark(), ct_mark())], "leave by the source's uplink"));
    rules
}

/// Whether a new connection of this family can be told "prohibited", which reads as this host's doing. IPv6 gets a reset,
/// since Linux drops an ICMPv6 error for a socket that is just connecting and would notice only at its first
/// retransmission, a second later. So do containers: the kernel sends one host 6 ICMP errors in a row and then one a second
/// (`net.ipv4.icmp_ratelimit`), except by lo, and the others would time out.
fn is_prohibited(lane: &Lane, family: Family) -> bool {
    family == Family::V4 && !is_forwarded(&lane.matches)
}

/// Slots that refuse.
fn refusals(lane: &Lane) -> Vec<Line> {
    let applies = |reason, family| match reason {
        RefuseReason::Exhausted | RefuseReason::Surge | RefuseReason::Stopped | RefuseReason::Fuse => true,
        RefuseReason::NoIpv4Source => family == Family::V4,
        RefuseReason::NoIpv6Source => family == Family::V6,
    };
    let mut rules = Vec::new();
    for reason in RefuseReason::ALL {
        for family in Family::BOTH.into_iter().filter(|family| applies(reason, *family)) {
            let id = u32::from(refusal(reason));
            rules.push(Line::new(
                vec![
                    of_family(family),
                    is(masked(ct_mark(), Mark::SOURCE_MASK), number(id)),
                    count(Counter::Refused(lane.id, reason)),
                    // An entry that outlives this packet must not bear the refusal as if it were a source.
                    set(ct_mark(), number(0)),
                    if is_prohibited(lane, family) { prohibit() } else { reset() },
                ],
                "a decision, which refuses",
            ));
        }
    }
    rules
}

/// What cannot be given a source: connections that conntrack does not follow, or whose entry was lost.
fn unplaceable(lane: &Lane) -> Vec<Line> {
    let untracked = || is(ct("state"), any_of([text("invalid"), text("untracked")]));
    let counted = |cause| count(Counter::Rejected(lane.id, cause));
    let why = "a stranger's notrack rule, or invalid: no source can be set";
    let told = |family| {
        Line::new(
            vec![
                of_family(family),
                untracked(),
                is(tcp_flags(), text("syn")),
                counted(RejectCause::Untracked),
                prohibit(),
            ],
            why,
        )
    };
    let mut rules: Vec<Line> =
        Family::BOTH.into_iter().filter(|family| is_prohibited(lane, *family)).map(told).collect();
    rules.extend([
        Line::new(vec![untracked(), counted(RejectCause::Untracked), reset()], why),
        Line::new(
            vec![is_not(tcp_flags(), text("syn")), counted(RejectCause::Midstream), reset()],
            "its conntrack entry was lost, and its address with it",
        ),
    ]);
    rules
}

fn draws(spec: &LaneSpec) -> Vec<Line> {
    let lane = &spec.lane;
    Family::BOTH
        .into_iter()
        .filter_map(|family| {
            let slots = spec.slots.get(&family).copied().filter(|slots| *slots > 0)?;
            let offset = Some(slot_key(lane.id.0, family == Family::V6, 0));
            let drawn = match lane.balance {
                Balance::RoundRobin => {
                    NamedExpression::Numgen(Numgen { mode: NgMode::Inc, ng_mod: slots, offset })
                }
                Balance::Random => {
                    NamedExpression::Numgen(Numgen { mode: NgMode::Random, ng_mod: slots, offset })
                }
                Balance::Sticky => NamedExpression::JHash(JHash {
                    hash_mod: slots,
                    offset,
                    expr: Box::new(header(protocol(family), "daddr")),
                    seed: Some(0),
                }),
            };
            Some(Line::new(vec![of_family(family), set(ct_mark(), named(drawn))], "draw a slot"))
        })
        .collect()
}
