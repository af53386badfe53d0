//! The sets whose elements count packets of each pair of lane and source.
//!
//! Owns: how such a set is made and read. Must not: know which rule counts into it. Their key is the ct mark without
//! magic and uplink. nft 1.0.6 cannot make them from JSON, so they are made by netlink; rules then only name them.

use std::collections::BTreeMap;

use mailsteer_ebpf::Mark;
use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_CREATE, NlasIterator};
use netlink_packet_netfilter::nftables::{
    NfTablesMessage, SetAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
};

use super::connection::attributes;
use super::{Connection, NetlinkError, PairSet, TABLE};

/// `NFT_SET_EVAL`: rules add elements.
const DYNAMIC: u32 = 0x20;
/// nft's number for the type `mark`, by which it shows the elements.
const TYPE_MARK: u32 = 19;
const SET_DESCRIPTION: u16 = 9;
const SET_EXPRESSION: u16 = 17;
const DESCRIPTION_SIZE: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const DATA_VALUE: u16 = 1;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// As many pairs as the eBPF programs have counters for.
const ROOM: u32 = 16_384;

/// A lane and a source of it; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pair {
    /// Lane id.
    pub lane: u8,
    /// Source id.
    pub source: u16,
}

impl Pair {
    /// The bits of a ct mark that are the key.
    pub const MASK: u32 = 0x000f_ffff;

    /// What a key says; `None` where we would not have counted under it.
    fn of_key(key: &[u8]) -> Option<Self> {
        let key = u32::from_ne_bytes(key.try_into().ok()?);
        let mark = Mark::unpack(Mark::MAGIC | key).filter(|_| key & !Self::MASK == 0)?;
        Some(Self { lane: mark.lane, source: mark.source })
    }
}

/// What one element has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// The messages that make the sets where they are not there, and leave those that are as they stand.
pub(crate) fn declared() -> Vec<(NfTablesMessage, u16)> {
    let sets = PairSet::ALL.into_iter().zip(1..);
    sets.map(|(set, id)| (NfTablesMessage::NewSet(declaration(set, id)), NLM_F_CREATE)).collect()
}

fn declaration(set: PairSet, id: u32) -> SetMessage {
    let size = DefaultNla::new(DESCRIPTION_SIZE, ROOM.to_be_bytes().to_vec());
    let counter = [
        DefaultNla::new(EXPRESSION_NAME, b"counter\0".to_vec()),
        DefaultNla::new(EXPRESSION_DATA | NLA_F_NESTED, Vec::new()),
    ];
    SetMessage {
        attributes: vec![
            SetAttribute::Table(TABLE.into()),
            SetAttribute::Name(set.as_str().into()),
            SetAttribute::Flags(SetFlags::from_bits_retain(DYNAMIC)),
            SetAttribute::KeyType(TYPE_MARK),
            SetAttribute::KeyLen(4),
            SetAttribute::Other(nested(SET_DESCRIPTION, &[size])),
            SetAttribute::Id(id),
            SetAttribute::Other(nested(SET_EXPRESSION, &counter)),
        ],
    }
}

/// An attribute of attributes.
pub(crate) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// What stands in a set; nothing where it is not there, as with eBPF.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn pairs(connection: &mut Connection, set: PairSet) -> Result<BTreeMap<Pair, Counted>, NetlinkError> {
    let names = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(set.as_str().into())];
    let ask = NfTablesMessage::GetSetElement(SetElementMessage { attributes: names });
    let replies = match connection.dump(&ask) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(BTreeMap::new()),
        other => other?,
    };
    Ok(replies.iter().flat_map(|reply| elements(&reply.attributes)).collect())
}

pub(crate) fn elements(message: &[u8]) -> Vec<(Pair, Counted)> {
    let list = attributes(message);
    let Some(list) = list.get(&ELEMENTS) else { return Vec::new() };
    NlasIterator::new(*list).flatten().filter_map(|nla| element(nla.value())).collect()
}

fn element(bytes: &[u8]) -> Option<(Pair, Counted)> {
    let parts = attributes(bytes);
    let key = attributes(parts.get(&ELEMENT_KEY)?);
    let counter = attributes(parts.get(&ELEMENT_EXPRESSION)?);
    let counter = attributes(counter.get(&EXPRESSION_DATA)?);
    let number = |kind| counter.get(&kind)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    let counted = Counted { packets: number(COUNTER_PACKETS)?, bytes: number(COUNTER_BYTES)? };
    Some((Pair::of_key(key.get(&DATA_VALUE)?)?, counted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_mark_without_magic_and_uplink() {
        let mark = Mark { uplink: 15, lane: 255, source: 4079 };
        let key = mark.pack() & Pair::MASK;
        assert_eq!(Pair::of_key(&key.to_ne_bytes()), Some(Pair { lane: 255, source: 4079 }));
        assert_eq!(Pair::of_key(&mark.pack().to_ne_bytes()), None);
        assert_eq!(Pair::of_key(&[0; 3]), None);
    }
}
