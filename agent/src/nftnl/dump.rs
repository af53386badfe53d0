//! Dumps of what stands in our table.
//!
//! Owns: reading it by netlink, and the fingerprint by which an edit is seen. Must not: parse rules: they are
//! constant, so equal bytes say all there is to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::model::{Family, LaneId, ReceiverSets, SlotTarget, Slots, SourceId};
use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_netfilter::nftables::{
    ChainMessage, DataAttribute, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementList, SetElementMessage, SetMessage, TableAttribute, TableMessage,
};

use super::connection::{attributes, string, u32_be};
use super::{
    Connection, Element, FLAG_DORMANT, NetlinkError, Reply, TABLE, chain, map, receiver, slot_of,
    source_address,
};

const FAMILY_INET: u8 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
const TABLE_HANDLE: u16 = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
/// In a rule's user data: its comment.
const COMMENT: u8 = 0;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJECT_COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_INTERVAL_END: u32 = 1;
const DATA_VALUE: u16 = 1;
/// Asking by key beats a dump up to here: 262,144 elements are dumped in 1 s, and 50,000 asked for in a tenth of that.
const LOOKUP_LIMIT: usize = 100_000;
/// So many keys in one question: the kernel allocates a page or two for each answer, and all of them have to fit into a
/// socket's smallest buffer.
const KEYS: usize = 16;

/// What the kernel says of the table itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableInfo {
    /// `NFT_TABLE_F_*`.
    pub flags: u32,
    /// Netlink port of its owner.
    pub owner: Option<u32>,
    /// Its number: no other table gets it between two boots.
    pub handle: u64,
}

/// A chain of the table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChainInfo {
    /// Its name.
    pub name: String,
    /// Hook number, priority and type of a base chain.
    pub hook: Option<(u32, i32, String)>,
    /// Its policy, where it is a base chain.
    pub policy: Option<u32>,
}

/// A hash over all rules, chains, excluded destinations and networks of countries: constant while only elements and counters move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub u64);

/// What the maps hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// Slots of every lane and family, up to the first hole.
    pub slots: BTreeMap<(LaneId, Family), Slots>,
    /// Addresses of source ids.
    pub translations: BTreeMap<SourceId, IpAddr>,
    /// Pairs that may leave.
    pub eligible: BTreeMap<SourceId, IpAddr>,
    /// Learned addresses by the number of their provider.
    pub receivers: BTreeMap<usize, BTreeSet<IpAddr>>,
    /// Elements that we would not have written.
    pub foreign: usize,
}

impl Contents {
    /// Whether the maps hold just this and nothing else.
    #[must_use]
    pub fn are(
        &self,
        slots: &BTreeMap<(LaneId, Family), Slots>,
        translations: &BTreeMap<SourceId, IpAddr>,
        receivers: &ReceiverSets,
    ) -> bool {
        let learned = (1..).zip(receivers.values()).filter(|(_, addresses)| !addresses.is_empty());
        let some = slots.iter().filter(|(_, slots)| !slots.0.is_empty());
        some.eq(self.slots.iter())
            && self.translations == *translations
            && self.eligible == *translations
            && learned.eq(self.receivers.iter().map(|(number, addresses)| (*number, addresses)))
            && self.foreign == 0
    }
}

/// The table, if it stands.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn table(connection: &mut Connection) -> Result<Option<TableInfo>, NetlinkError> {
    let ask =
        NfTablesMessage::GetTable(TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] });
    match connection.get(ask) {
        Ok(replies) => Ok(replies.first().map(table_info)),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a reply says of the table.
pub(crate) fn table_info(reply: &Reply) -> TableInfo {
    let found = attributes(&reply.attributes);
    let number = |kind| found.get(&kind).and_then(|bytes| u32_be(bytes));
    let handle = found.get(&TABLE_HANDLE).and_then(|bytes| bytes.first_chunk::<8>());
    TableInfo {
        flags: number(TABLE_FLAGS).unwrap_or(0),
        owner: number(TABLE_OWNER),
        handle: handle.map_or(0, |bytes| u64::from_be_bytes(*bytes)),
    }
}

/// Every chain of the table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn chains(connection: &mut Connection) -> Result<Vec<ChainInfo>, NetlinkError> {
    let replies = connection.dump(&NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))?;
    Ok(replies.iter().filter_map(chain_info).collect())
}

/// What a reply says of a chain; `None` where it is none of ours.
pub(crate) fn chain_info(reply: &Reply) -> Option<ChainInfo> {
    let chain = attributes(&reply.attributes);
    let table = chain.get(&CHAIN_TABLE).map(|name| string(name));
    if reply.family != FAMILY_INET || table.as_deref() != Some(TABLE) {
        return None;
    }
    let hook = chain.get(&CHAIN_HOOK).and_then(|bytes| {
        let hook = attributes(bytes);
        let kind = string(chain.get(&CHAIN_TYPE)?);
        Some((u32_be(hook.get(&HOOK_NUMBER)?)?, u32_be(hook.get(&HOOK_PRIORITY)?)?.cast_signed(), kind))
    });
    Some(ChainInfo {
        name: chain.get(&CHAIN_NAME).map(|name| string(name)).unwrap_or_default(),
        hook,
        policy: chain.get(&CHAIN_POLICY).and_then(|policy| u32_be(policy)),
    })
}

/// A rule as the kernel tells it.
#[derive(Debug)]
pub(crate) struct Rule {
    chain: String,
    expressions: Vec<u8>,
    comment: Option<String>,
}

fn rules(connection: &mut Connection) -> Result<Vec<Rule>, NetlinkError> {
    let ask = NfTablesMessage::GetRule(RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.into())] });
    let replies = match connection.dump(&ask) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(replies.iter().map(rule_info).collect())
}

pub(crate) fn rule_info(reply: &Reply) -> Rule {
    let rule = attributes(&reply.attributes);
    Rule {
        chain: rule.get(&RULE_CHAIN).map(|name| string(name)).unwrap_or_default(),
        expressions: rule.get(&RULE_EXPRESSIONS).map(|bytes| bytes.to_vec()).unwrap_or_default(),
        comment: rule.get(&RULE_USERDATA).and_then(|bytes| comment(bytes)),
    }
}

impl Rule {
    /// The lane whose chain it stands in, and what it says of it.
    pub(crate) fn lane(self) -> Option<(LaneId, String)> {
        Some((chain::lane_of(&self.chain)?, self.comment?))
    }
}

/// The comment among a rule's user data: pairs of a kind and a length, a byte each, with their bytes.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(string(value));
        }
        data = &rest[value.len()..];
    }
    None
}

/// Stream and provider of each lane whose chain begins with a rule that names them.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn lane_names(connection: &mut Connection) -> Result<BTreeMap<LaneId, (String, String)>, NetlinkError> {
    let mut names = BTreeMap::new();
    for (id, comment) in rules(connection)?.into_iter().filter_map(Rule::lane) {
        // The first rule of a chain comes first: one that says something else further down is no name.
        names.entry(id).or_insert(comment);
    }
    let named = |(id, comment): (LaneId, String)| {
        let (stream, provider) = comment.split_once(chain::AT)?;
        Some((id, (stream.to_owned(), provider.to_owned())))
    };
    Ok(names.into_iter().filter_map(named).collect())
}

/// How many rules stand in the table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn rule_count(connection: &mut Connection) -> Result<usize, NetlinkError> {
    rules(connection).map(|rules| rules.len())
}

/// The fingerprint of the table as it stands; `None`: there is no table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn fingerprint(connection: &mut Connection) -> Result<Option<Fingerprint>, NetlinkError> {
    let Some(info) = table(connection)? else { return Ok(None) };
    let mut hash = Fnv::default();
    hash.add(&(info.flags & FLAG_DORMANT).to_be_bytes());
    let mut chains = chains(connection)?;
    chains.sort();
    for chain in chains {
        hash.add(format!("{chain:?}").as_bytes());
    }
    // The kernel lists rules chain by chain; the chains' own order is not ours to rely on.
    let mut rules = rules(connection)?;
    rules.sort_by(|left, right| left.chain.cmp(&right.chain));
    for rule in rules {
        hash.add(rule.chain.as_bytes());
        hash.add(&rule.expressions);
    }
    let mut constant: Vec<String> = Family::BOTH.map(|family| map::exclude(family).to_owned()).into();
    let countries = sets(connection)?.into_iter().filter(|name| map::is_countries(name));
    constant.extend(countries.collect::<BTreeSet<String>>());
    for name in constant {
        let mut networks = elements(connection, &name)?;
        networks.sort();
        for element in networks {
            hash.add(&element.key);
            hash.add(&[u8::from(element.end)]);
        }
    }
    Ok(Some(Fingerprint(hash.0)))
}

/// FNV-1a: the same on every host and version, so that a fingerprint outlives a restart. It guards against
/// strangers' edits, not against forgers.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_be_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Packets counted by every named counter of the table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn counters(connection: &mut Connection) -> Result<BTreeMap<String, u64>, NetlinkError> {
    let table = DefaultNla::new(OBJECT_TABLE, [TABLE.as_bytes(), &[0]].concat());
    let kind = DefaultNla::new(OBJECT_TYPE, OBJECT_COUNTER.to_be_bytes().to_vec());
    let replies = match connection.dump(&NfTablesMessage::GetObject(vec![table, kind])) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(BTreeMap::new()),
        other => other?,
    };
    replies.iter().filter_map(|reply| counter(reply).transpose()).collect()
}

/// Name and packets of a counter; `None` where the reply is of no counter of ours.
pub(crate) fn counter(reply: &Reply) -> Result<Option<(String, u64)>, NetlinkError> {
    let object = attributes(&reply.attributes);
    let is_counter = object.get(&OBJECT_TYPE).is_some_and(|kind| *kind == OBJECT_COUNTER.to_be_bytes());
    let table = object.get(&OBJECT_TABLE).map(|name| string(name));
    if reply.family != FAMILY_INET || !is_counter || table.as_deref() != Some(TABLE) {
        return Ok(None);
    }
    let packets = object
        .get(&OBJECT_DATA)
        .and_then(|data| {
            attributes(data).get(&COUNTER_PACKETS).and_then(|bytes| bytes.first_chunk::<8>()).copied()
        })
        .ok_or(NetlinkError::Unreadable("a counter without packets"))?;
    let name = object.get(&OBJECT_NAME).map(|name| string(name)).unwrap_or_default();
    Ok(Some((name, u64::from_be_bytes(packets))))
}

/// What the maps hold.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn contents(connection: &mut Connection) -> Result<Contents, NetlinkError> {
    let mut found = Contents::default();
    let mut slots: BTreeMap<(LaneId, Family), BTreeMap<u16, SlotTarget>> = BTreeMap::new();
    for element in elements(connection, map::SLOTS)? {
        match slot_of(&element) {
            Some(((lane, family, slot), target)) => {
                slots.entry((lane, family)).or_default().insert(slot, target);
            }
            None => found.foreign += 1,
        }
    }
    for (lane, targets) in slots {
        let total = targets.len();
        let whole: Vec<_> = (0..=u16::MAX).map_while(|slot| targets.get(&slot).copied()).collect();
        found.foreign += total - whole.len();
        found.slots.insert(lane, Slots(whole));
    }
    for family in Family::BOTH {
        for (name, into) in
            [(map::addresses(family), &mut found.translations), (map::eligible(family), &mut found.eligible)]
        {
            for element in elements(connection, name)? {
                match source_address(&element) {
                    Some((id, address)) if into.insert(id, address).is_none() => {}
                    _ => found.foreign += 1,
                }
            }
        }
    }
    for name in sets(connection)? {
        let Some((number, family)) = map::learned_of(&name) else { continue };
        for element in elements(connection, &name)? {
            match receiver(&element).filter(|address| Family::of(*address) == family) {
                Some(address) => drop(found.receivers.entry(number).or_default().insert(address)),
                None => found.foreign += 1,
            }
        }
    }
    Ok(found)
}

/// Names of the table's sets, maps among them.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn sets(connection: &mut Connection) -> Result<Vec<String>, NetlinkError> {
    let ask = NfTablesMessage::GetSet(SetMessage { attributes: vec![SetAttribute::Table(TABLE.into())] });
    let replies = match connection.dump(&ask) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(replies.iter().filter_map(set_name).collect())
}

/// Name of a set; `None` where the reply is of none of ours.
pub(crate) fn set_name(reply: &Reply) -> Option<String> {
    let set = attributes(&reply.attributes);
    let table = set.get(&SET_TABLE).map(|name| string(name));
    let is_ours = reply.family == FAMILY_INET && table.as_deref() == Some(TABLE);
    set.get(&SET_NAME).map(|name| string(name)).filter(|_| is_ours)
}

/// The elements that stand under these keys of a map; missing ones are left out.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn lookup(
    connection: &mut Connection,
    name: &str,
    keys: &[Vec<u8>],
) -> Result<BTreeMap<Vec<u8>, Element>, NetlinkError> {
    let mut found = BTreeMap::new();
    if keys.len() > LOOKUP_LIMIT {
        found.extend(elements(connection, name)?.into_iter().map(|element| (element.key.clone(), element)));
        return Ok(found);
    }
    for part in keys.chunks(KEYS) {
        match ask(connection, name, part) {
            // One of them is missing, and it is not said which.
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                for key in part {
                    match ask(connection, name, std::slice::from_ref(key)) {
                        Err(error) if error.errno() == Some(libc::ENOENT) => {}
                        other => found.extend(other?),
                    }
                }
            }
            other => found.extend(other?),
        }
    }
    Ok(found)
}

fn ask(
    connection: &mut Connection,
    name: &str,
    keys: &[Vec<u8>],
) -> Result<Vec<(Vec<u8>, Element)>, NetlinkError> {
    let wanted = |key: &Vec<u8>| {
        ListAttribute::Element(vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))])
    };
    let mut ask = names(name);
    ask.push(SetElementList::Elements(keys.iter().map(wanted).collect()));
    let replies = connection.get(NfTablesMessage::GetSetElement(SetElementMessage { attributes: ask }))?;
    let found = replies.iter().flat_map(|reply| parse(&reply.attributes));
    Ok(found.map(|element| (element.key.clone(), element)).collect())
}

fn names(name: &str) -> Vec<SetElementList> {
    vec![SetElementList::Table(TABLE.into()), SetElementList::Set(name.into())]
}

fn elements(connection: &mut Connection, name: &str) -> Result<Vec<Element>, NetlinkError> {
    let ask = NfTablesMessage::GetSetElement(SetElementMessage { attributes: names(name) });
    match connection.dump(&ask) {
        Ok(replies) => Ok(replies.iter().flat_map(|reply| parse(&reply.attributes)).collect()),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(crate) fn parse(message: &[u8]) -> Vec<Element> {
    let list = attributes(message);
    let Some(list) = list.get(&ELEMENTS) else { return Vec::new() };
    NlasIterator::new(*list)
        .flatten()
        .map(|nla| {
            let parts = attributes(nla.value());
            let value = |kind| {
                parts.get(&kind).and_then(|data| attributes(data).get(&DATA_VALUE).map(|v| v.to_vec()))
            };
            let flags = parts.get(&ELEMENT_FLAGS).and_then(|flags| u32_be(flags)).unwrap_or(0);
            Element {
                key: value(ELEMENT_KEY).unwrap_or_default(),
                data: value(ELEMENT_DATA),
                end: flags & ELEMENT_INTERVAL_END != 0,
            }
        })
        .collect()
}
