//! The table as one batch for `nft -j -f -`: pure.
//!
//! Owns: chains, rules and the order of commands. Must not: run anything. Rules are constant for a spec; what moves
//! are elements. The batch flushes our chains and fills them again, and does the same with the maps, in one
//! transaction: it never deletes the table, and named counters go on counting.
//!
//! The connection's fate is drawn into the ct mark, not the packet mark: a connection that is left alone keeps the
//! packet mark it came with.

mod commands;
mod counting;
mod lane;
mod probe;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::model::{Family, LaneId, ReceiverSets, Slots, SourceId};
use mailsteer_core::plan::TableSpec;
use mailsteer_ebpf::{CGROUP_MAGIC, Mark};
use nftables::expr::{MetaKey, NamedExpression};
use serde_json::{Value, json};

use crate::nftnl::{ChainInfo, Counter, chain, map};
use commands::{Commands, fits};
use lane::{Origin, leave_alone, steers};
use words::{
    Expr, Stmt, any_of, at_least, back, count, ct, ct_mark, destination_type, drop, goto, header, is, is_any,
    is_not, mapped, mark, masked, meta, named, number, of_family, protocol, set, snat, tcp_flags, text,
};

/// A rule without its chain.
#[derive(Clone, Debug)]
struct Line {
    statements: Vec<Stmt>,
    comment: String,
}

impl Line {
    fn new(statements: Vec<Stmt>, comment: impl Into<String>) -> Self {
        // nftables takes comments of at most 128 bytes, and nft 1.0.6 cannot read a quote inside.
        let comment = comment.into().chars().filter(|c| *c != '"' && !c.is_control()).take(60).collect();
        Self { statements, comment }
    }
}

/// A batch and what it leaves.
#[derive(Debug)]
pub struct Batch {
    /// What `nft -j -f -` reads.
    pub json: Value,
    /// How many rules stand afterwards.
    pub rules: usize,
}

/// What is in the maps and sets.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'e> {
    /// Slots of every lane.
    pub slots: &'e BTreeMap<(LaneId, Family), Slots>,
    /// Addresses of source ids.
    pub translations: &'e BTreeMap<SourceId, IpAddr>,
    /// Learned addresses of providers.
    pub receivers: &'e ReceiverSets,
}

/// The batch that makes the table say `spec`, whatever of ours and of strangers stands in it (`standing`, and `sets` by name).
/// `timeouts`: the conntrack timeouts stand, so rules may name them.
///
/// # Errors
/// Only if a type of the `nftables` crate cannot be written as JSON.
pub fn render(
    spec: &TableSpec,
    elements: Elements<'_>,
    standing: &[ChainInfo],
    sets: &[String],
    timeouts: bool,
) -> Result<Batch, serde_json::Error> {
    let chains = chains_of(spec, timeouts);
    let wanted: BTreeSet<&str> = chains.iter().map(|(name, _)| name.as_str()).collect();
    let mut commands = Commands::default();
    let stale: Vec<&ChainInfo> =
        standing.iter().filter(|found| !wanted.contains(found.name.as_str()) || !fits(found)).collect();
    for found in standing {
        commands.flush_chain(&found.name)?;
    }
    for found in stale {
        commands.delete_chain(&found.name)?;
    }
    commands.delete_stale_sets(spec, sets);
    commands.declare_maps(spec)?;
    commands.declare_counters(spec);
    for (name, _) in &chains {
        commands.declare_chain(name)?;
    }
    commands.fill_maps(spec, elements)?;
    let mut rules = 0;
    for (name, lines) in chains {
        rules += lines.len();
        for line in lines {
            commands.add_rule(&name, line)?;
        }
    }
    Ok(Batch { json: json!({ "nftables": commands.0 }), rules })
}

/// Every chain with its rules. Lane chains and `check` come before the chains that go there.
fn chains_of(spec: &TableSpec, timeouts: bool) -> Vec<(String, Vec<Line>)> {
    let steering = spec.lanes.iter().any(|lane| steers(&lane.lane));
    // Whether there is a guard that drops what bears no word of ours.
    let armed = steering && spec.guarded;
    let cgroups: Vec<&str> = spec
        .lanes
        .iter()
        .flat_map(|lane| lane.lane.matches.cgroups.iter().map(String::as_str))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut chains: Vec<(String, Vec<Line>)> = spec
        .lanes
        .iter()
        .map(|lane| (chain::lane(lane.lane.id), lane::chain_of(lane, armed, timeouts)))
        .collect();
    chains.push((chain::UNMATCHED.into(), leave_alone(0, armed)));
    if spec.guarded {
        chains.push((chain::CHECK.into(), check(armed)));
    } else {
        counting::name(&mut chains, spec);
        chains.extend(counting::chains());
        chains.push((chain::CHECK.into(), counting::check()));
    }
    if steering {
        chains.push((chain::PROBE.into(), probe::chain()));
    }
    chains.push((chain::OUTPUT.into(), classify(spec, Origin::Local, steering, &cgroups)));
    chains.push((chain::PREROUTING.into(), classify(spec, Origin::Forwarded, steering, &cgroups)));
    chains.push((chain::TRANSLATE.into(), translate()));
    chains.push((chain::VERIFY.into(), verify(spec)));
    chains
}

fn ours() -> Stmt {
    is(masked(ct_mark(), Mark::MAGIC_MASK), number(Mark::MAGIC))
}

fn unsteered() -> Stmt {
    is(masked(ct_mark(), Mark::MAGIC_MASK | Mark::SOURCE_MASK), number(Mark::MAGIC))
}

fn only_steered_ports(spec: &TableSpec) -> Vec<Line> {
    let tcp = Line::new(vec![is_not(meta(MetaKey::L4proto), text("tcp")), back()], "not TCP");
    let ports: Vec<Expr> = spec.ports.iter().map(|port| number(u32::from(*port))).collect();
    let other = if ports.is_empty() {
        vec![back()]
    } else {
        vec![is_not(header("tcp", "dport"), any_of(ports)), back()]
    };
    vec![tcp, Line::new(other, "no steered port")]
}

/// Which connections are looked at, and by which lane.
fn classify(spec: &TableSpec, origin: Origin, steering: bool, cgroups: &[&str]) -> Vec<Line> {
    let mut rules = Vec::new();
    if origin == Origin::Forwarded && !spec.uplinks.is_empty() {
        let uplinks = || is_any(meta(MetaKey::Iifname), spec.uplinks.iter().map(text).collect());
        if !spec.guarded {
            rules.push(counting::answers(uplinks()));
        }
        rules.push(Line::new(
            vec![
                uplinks(),
                is(ct("direction"), text("reply")),
                ours(),
                is_not(masked(ct_mark(), Mark::SOURCE_MASK), number(0)),
                set(mark(), ct_mark()),
            ],
            "replies get their mark back, for a strict rp_filter",
        ));
        rules.push(Line::new(vec![uplinks(), back()], "comes from the world"));
    }
    rules.extend(only_steered_ports(spec));
    rules.push(Line::new(vec![unsteered(), back()], "seen before, not steered"));
    rules.push(Line::new(vec![ours(), set(mark(), ct_mark()), back()], "steered before: keeps its source"));
    if steering && origin == Origin::Local {
        rules.extend(probe::asks());
    }
    let local = ["local", "broadcast", "multicast", "anycast"].map(text);
    rules.push(Line::new(
        vec![is(destination_type(), any_of(local)), back()],
        "to this host, or to no one host",
    ));
    for family in Family::BOTH {
        let excluded = text(format!("@{}", map::exclude(family)));
        rules.push(Line::new(vec![is(header(protocol(family), "daddr"), excluded), back()], "excluded"));
    }
    let unowned = steering && origin == Origin::Local;
    if unowned {
        // The far end's data came back to a source's address after a stranger had taken the connection's entry away:
        // no translation, no socket, and the kernel's own answer would leave by whatever uplink the host prefers. A
        // client that calls from a steered port gets a reset with ACK for its SYN, or had its word before.
        rules.push(Line::new(
            vec![
                is(ct("direction"), text("reply")),
                is(tcp_flags(), text("rst")),
                count(Counter::HeldUnowned),
                drop(),
            ],
            "into a connection whose conntrack entry was lost",
        ));
    }
    rules.push(Line::new(
        vec![is(ct("direction"), text("reply")), goto(chain::UNMATCHED)],
        "an answer to a client that calls from a steered port",
    ));
    let sets = lane::Sets::of(spec);
    rules.extend(spec.lanes.iter().flat_map(|lane| lane::matches(&lane.lane, origin, cgroups, &sets)));
    if unowned {
        // A reset or the last words of a closed socket, in no connection that conntrack knows: they may be a steered
        // connection's, whose entry a stranger took away, and would leave with the host's own address.
        let owned = at_least(meta(MetaKey::Skuid), number(0));
        rules.push(Line::new(vec![owned, goto(chain::UNMATCHED)], "a process's, and matched by no stream"));
        rules.push(Line::new(
            vec![count(Counter::HeldUnowned), drop()],
            "nobody's any more: whose it was cannot be told",
        ));
        return rules;
    }
    rules.push(Line::new(vec![goto(chain::UNMATCHED)], "matched by no stream"));
    rules
}

/// Keyed by the ct mark: a stranger may set the packet mark after us.
fn translate() -> Vec<Line> {
    let mut rules = vec![Line::new(
        vec![is_not(masked(ct_mark(), Mark::MAGIC_MASK), number(Mark::MAGIC)), back()],
        "not ours",
    )];
    rules.extend(Family::BOTH.map(|family| {
        let source = masked(ct_mark(), Mark::SOURCE_MASK);
        Line::new(
            vec![of_family(family), snat(family, mapped(source, map::addresses(family)))],
            "its source's address",
        )
    }));
    rules
}

fn verify(spec: &TableSpec) -> Vec<Line> {
    let mut rules = only_steered_ports(spec);
    rules.push(Line::new(vec![ours(), goto(chain::CHECK)], "bears a word of ours"));
    rules.push(Line::new(
        vec![
            is(masked(mark(), Mark::MAGIC_MASK), number(Mark::MAGIC)),
            is_not(masked(mark(), Mark::SOURCE_MASK), number(0)),
            count(Counter::DroppedWrong),
            drop(),
        ],
        "steered, and a stranger took its ct mark",
    ));
    rules
}

/// The packet mark serves as scratch here: routing is over.
fn check(armed: bool) -> Vec<Line> {
    let mut rules = Vec::new();
    if armed {
        rules.push(Line::new(
            vec![unsteered(), set(mark(), ct_mark()), back()],
            "tell the guard: not steered",
        ));
    } else {
        rules.push(Line::new(
            vec![unsteered(), is(mark(), number(0)), set(mark(), ct_mark()), back()],
            "tell who counts at the uplink; another's mark stays",
        ));
        rules.push(Line::new(
            vec![
                unsteered(),
                is(masked(mark(), Mark::MAGIC_MASK), number(CGROUP_MAGIC)),
                set(mark(), ct_mark()),
                back(),
            ],
            "our own cgroup mark has done its work",
        ));
        rules.push(Line::new(vec![unsteered(), back()], "not steered"));
    }
    rules.extend(has_its_sources_address());
    rules.push(Line::new(vec![set(mark(), ct_mark())], "tell the guard: this source"));
    rules
}

/// What is steered, and has another address than its source's, is dropped. The packet mark is scratch afterwards.
fn has_its_sources_address() -> Vec<Line> {
    let mut rules = vec![Line::new(vec![set(mark(), masked(ct_mark(), Mark::SOURCE_MASK))], "which source")];
    for family in Family::BOTH {
        let pair = named(NamedExpression::Concat(vec![mark(), header(protocol(family), "saddr")]));
        rules.push(Line::new(
            vec![
                of_family(family),
                is_not(pair, text(format!("@{}", map::eligible(family)))),
                count(Counter::DroppedWrong),
                drop(),
            ],
            "not its source's address: another's NAT, or none",
        ));
    }
    rules
}

#[cfg(test)]
mod tests;
