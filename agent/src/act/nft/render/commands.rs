//! The commands of a batch: chains, maps, counters and elements.
//!
//! Owns: how each is declared and filled. Must not: know what the rules say.

use std::borrow::Cow;
use std::collections::BTreeSet;

use mailsteer_core::model::{Family, ReceiverSets, RefuseReason, Slots};
use mailsteer_core::plan::TableSpec;
use nftables::expr::{Expression, NamedExpression};
use nftables::schema::{
    Chain, Element, FlushObject, Map, NfCmd, NfListObject, NfObject, Rule, Set, SetFlag, SetType,
    SetTypeValue,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::lane::steers;
use super::words::{Expr, named, network, number, text};
use super::{Elements, Line};
use crate::nftnl::{ChainInfo, Counter, RejectCause, TABLE, chain, map, slot_element};

/// Base chains: name, type, hook, its number in the inet family, priority.
const BASE: [(&str, NfChainType, NfHook, u32, i32); 4] = [
    (chain::OUTPUT, NfChainType::Route, NfHook::Output, 3, -150),
    (chain::PREROUTING, NfChainType::Filter, NfHook::Prerouting, 0, -150),
    // Before srcnat, where Docker and most others masquerade.
    (chain::TRANSLATE, NfChainType::NAT, NfHook::Postrouting, 4, 90),
    (chain::VERIFY, NfChainType::Filter, NfHook::Postrouting, 4, 300),
];

fn plain_chain(name: &str) -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), name: name.to_owned().into(), ..Chain::default() }
}

fn declared(name: &str) -> Chain<'static> {
    let mut wanted = plain_chain(name);
    if let Some((_, kind, hook, _, priority)) = BASE.into_iter().find(|base| base.0 == name) {
        wanted._type = Some(kind);
        wanted.hook = Some(hook);
        wanted.prio = Some(priority);
        wanted.policy = Some(NfChainPolicy::Accept);
    }
    wanted
}

/// Whether a chain that stands hooks where the one of its name should.
pub(super) fn fits(found: &ChainInfo) -> bool {
    let wanted = BASE.iter().find(|base| base.0 == found.name).map(|(_, kind, _, number, priority)| {
        let kind = match kind {
            NfChainType::Filter => "filter",
            NfChainType::Route => "route",
            NfChainType::NAT => "nat",
        };
        (*number, *priority, kind.to_owned())
    });
    found.hook == wanted
}

/// Commands in the order in which nft carries them out.
#[derive(Default)]
pub(super) struct Commands(pub(super) Vec<Value>);

impl Commands {
    /// A chain as it should be, empty.
    pub(super) fn declare_chain(&mut self, name: &str) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Add(NfListObject::Chain(declared(name))))?;
        self.flush_chain(name)
    }

    pub(super) fn delete_chain(&mut self, name: &str) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Delete(NfListObject::Chain(plain_chain(name))))
    }

    pub(super) fn add_rule(&mut self, chain: &str, line: Line) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.to_owned().into(),
            expr: line.statements.into(),
            comment: Some(line.comment.into()),
            ..Rule::default()
        })))
    }

    fn push(&mut self, command: NfCmd<'static>) -> Result<(), serde_json::Error> {
        self.0.push(serde_json::to_value(NfObject::CmdObject(command))?);
        Ok(())
    }

    pub(super) fn flush_chain(&mut self, name: &str) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Flush(FlushObject::Chain(plain_chain(name))))
    }

    /// Sets of providers and countries that the spec has no more: no rule names them by now.
    pub(super) fn delete_stale_sets(&mut self, spec: &TableSpec, standing: &[String]) {
        let (named, countries) = (spec.named.len(), spec.countries().len());
        let wanted: BTreeSet<String> = Family::BOTH
            .into_iter()
            .flat_map(|family| {
                let learned = (1..=named).map(move |number| map::learned(number, family));
                learned.chain((1..=countries).map(move |number| map::countries(number, family)))
            })
            .collect();
        let ours = |name: &&String| map::learned_of(name).is_some() || map::is_countries(name);
        for name in standing.iter().filter(ours).filter(|name| !wanted.contains(*name)) {
            let set = json!({ "family": "inet", "table": TABLE, "name": name });
            self.0.push(json!({ "delete": { "set": set } }));
        }
    }

    pub(super) fn declare_maps(&mut self, spec: &TableSpec) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Add(NfListObject::Map(Box::new(a_map(map::SLOTS, SetType::Mark)))))?;
        for family in Family::BOTH {
            let kind = address_type(family);
            self.push(NfCmd::Add(NfListObject::Map(Box::new(a_map(map::addresses(family), kind)))))?;
            let pairs = SetTypeValue::Concatenated(vec![SetType::Mark, kind].into());
            self.push(NfCmd::Add(NfListObject::Set(Box::new(a_set(map::eligible(family), pairs, None)))))?;
            let nets = a_set(map::exclude(family), SetTypeValue::Single(kind), Some(SetFlag::Interval));
            self.push(NfCmd::Add(NfListObject::Set(Box::new(nets))))?;
            for set in (1..=spec.named.len()).map(|number| learned(number, family)) {
                self.push(NfCmd::Add(NfListObject::Set(Box::new(set))))?;
            }
            for set in (1..=spec.countries().len()).map(|number| countries(number, family)) {
                self.push(NfCmd::Add(NfListObject::Set(Box::new(set))))?;
            }
        }
        Ok(())
    }

    /// Counters. The crate writes one without a value as null, which nft does not take.
    pub(super) fn declare_counters(&mut self, spec: &TableSpec) {
        let lanes = spec.lanes.iter().filter(|lane| steers(&lane.lane)).map(|lane| lane.lane.id);
        let counted = lanes.flat_map(|lane| {
            let refused = RefuseReason::ALL.map(|reason| Counter::Refused(lane, reason));
            refused.into_iter().chain(RejectCause::ALL.map(|cause| Counter::Rejected(lane, cause)))
        });
        for counter in [Counter::HeldGap, Counter::HeldPending, Counter::HeldUnowned, Counter::DroppedWrong]
            .into_iter()
            .chain(counted)
        {
            let counter = json!({ "family": "inet", "table": TABLE, "name": counter.to_string() });
            self.0.push(json!({ "add": { "counter": counter } }));
        }
    }

    pub(super) fn fill_maps(
        &mut self,
        spec: &TableSpec,
        Elements { slots, translations, receivers }: Elements<'_>,
    ) -> Result<(), serde_json::Error> {
        let mut drawn = Vec::new();
        for ((lane, family), Slots(targets)) in slots {
            for (slot, target) in (0..=u16::MAX).zip(targets) {
                let (key, value) = slot_element(*lane, *family, slot, *target);
                drawn.push(Expression::List(vec![number(key), number(value)]));
            }
        }
        self.refill_map(map::SLOTS, SetType::Mark, drawn)?;
        for family in Family::BOTH {
            let kind = address_type(family);
            let of_family = || translations.iter().filter(|(_, address)| Family::of(**address) == family);
            let addresses = of_family()
                .map(|(id, address)| {
                    Expression::List(vec![number(u32::from(id.0)), text(address.to_string())])
                })
                .collect();
            self.refill_map(map::addresses(family), kind, addresses)?;
            let pairs = of_family()
                .map(|(id, address)| {
                    named(NamedExpression::Concat(vec![number(u32::from(id.0)), text(address.to_string())]))
                })
                .collect();
            let pair = SetTypeValue::Concatenated(vec![SetType::Mark, kind].into());
            self.refill_set(a_set(map::eligible(family), pair, None), pairs)?;
            let excluded = spec.exclude.iter().filter(|net| Family::of(net.addr()) == family);
            let nets = a_set(map::exclude(family), SetTypeValue::Single(kind), Some(SetFlag::Interval));
            self.refill_set(nets, excluded.copied().map(network).collect())?;
            self.fill_receivers(spec, receivers, family)?;
        }
        Ok(())
    }

    /// Sets that tell whose a receiver is, and where.
    fn fill_receivers(
        &mut self,
        spec: &TableSpec,
        receivers: &ReceiverSets,
        family: Family,
    ) -> Result<(), serde_json::Error> {
        for (number, provider) in (1..).zip(&spec.named) {
            let all = receivers.get(provider).into_iter().flatten();
            let addresses = all.filter(|address| Family::of(**address) == family);
            self.refill_set(learned(number, family), addresses.map(|one| text(one.to_string())).collect())?;
        }
        for (number, listed) in (1..).zip(spec.countries()) {
            let networks = listed.networks().iter().filter(|net| Family::of(net.addr()) == family);
            self.refill_set(countries(number, family), networks.copied().map(network).collect())?;
        }
        Ok(())
    }

    fn refill_map(
        &mut self,
        name: &'static str,
        data: SetType,
        elements: Vec<Expr>,
    ) -> Result<(), serde_json::Error> {
        self.push(NfCmd::Flush(FlushObject::Map(Box::new(a_map(name, data)))))?;
        self.elements(name, elements)
    }

    fn refill_set(&mut self, set: Set<'static>, elements: Vec<Expr>) -> Result<(), serde_json::Error> {
        let name = set.name.to_string();
        self.push(NfCmd::Flush(FlushObject::Set(Box::new(set))))?;
        self.elements(&name, elements)
    }

    fn elements(&mut self, name: &str, elements: Vec<Expr>) -> Result<(), serde_json::Error> {
        if elements.is_empty() {
            return Ok(());
        }
        self.push(NfCmd::Add(NfListObject::Element(Element {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.to_owned().into(),
            elem: elements.into(),
        })))
    }
}

const fn address_type(family: Family) -> SetType {
    match family {
        Family::V4 => SetType::Ipv4Addr,
        Family::V6 => SetType::Ipv6Addr,
    }
}

fn a_map(name: &'static str, data: SetType) -> Map<'static> {
    Map {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        set_type: SetTypeValue::Single(SetType::Mark),
        map: SetTypeValue::Single(data),
        ..Map::default()
    }
}

fn learned(number: usize, family: Family) -> Set<'static> {
    a_set(map::learned(number, family), SetTypeValue::Single(address_type(family)), None)
}

fn countries(number: usize, family: Family) -> Set<'static> {
    let kind = SetTypeValue::Single(address_type(family));
    a_set(map::countries(number, family), kind, Some(SetFlag::Interval))
}

fn a_set(
    name: impl Into<Cow<'static, str>>,
    kind: SetTypeValue<'static>,
    flag: Option<SetFlag>,
) -> Set<'static> {
    Set {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        set_type: kind,
        flags: flag.map(|flag| [flag].into()),
        ..Set::default()
    }
}
