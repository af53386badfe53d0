//! The 32-bit mark that carries a choice through the kernel: `magic 8 | uplink 4 | lane 8 | source 12`.
//!
//! Owns: packing and unpacking. The same number is the packet mark and the connection's ct mark. A second magic
//! tells a slot that was drawn and not yet looked up: `magic 8 | lane 8 | family 1 | slot 15`.

/// Bit of a slot key that says IPv6.
pub const SLOT_FAMILY_V6: u32 = 1 << 15;
/// Magic of a slot key.
pub const SLOT_MAGIC: u32 = 0x4e00_0000;

/// A mark of ours, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Uplink id, 0 for none; 4 bits.
    pub uplink: u8,
    /// Lane id, 0 for none; 8 bits.
    pub lane: u8,
    /// Source id, 0 for not steered; 12 bits.
    pub source: u16,
}

impl Mark {
    /// First byte of every mark of ours.
    pub const MAGIC: u32 = 0x4d00_0000;
    /// Which bits the magic is in.
    pub const MAGIC_MASK: u32 = 0xff00_0000;
    /// Which bits the source id is in.
    pub const SOURCE_MASK: u32 = 0x0000_0fff;
    /// Which bits magic and uplink are in.
    pub const UPLINK_MASK: u32 = 0xfff0_0000;

    /// The mark as a number.
    #[must_use]
    pub const fn pack(self) -> u32 {
        Self::MAGIC
            | ((self.uplink as u32 & 0xf) << 20)
            | ((self.lane as u32) << 12)
            | (self.source as u32 & Self::SOURCE_MASK)
    }

    /// Takes a mark apart; `None` where it is not ours.
    #[must_use]
    pub const fn unpack(mark: u32) -> Option<Self> {
        if mark & Self::MAGIC_MASK != Self::MAGIC {
            return None;
        }
        Some(Self {
            uplink: ((mark >> 20) & 0xf) as u8,
            lane: ((mark >> 12) & 0xff) as u8,
            source: (mark & Self::SOURCE_MASK) as u16,
        })
    }
}

/// Key of a slot in the slot map.
#[must_use]
pub const fn slot_key(lane: u8, v6: bool, slot: u16) -> u32 {
    SLOT_MAGIC
        | ((lane as u32) << 16)
        | if v6 { SLOT_FAMILY_V6 } else { 0 }
        | (slot as u32 & (SLOT_FAMILY_V6 - 1))
}
