//! What the kernel side and the user side of mailsteer share: the mark, and the keys and values of every map.
//!
//! Owns: the layout of the 32-bit mark, and the `#[repr(C)]` types of the pinned maps. Must not: decide
//! anything. A change to any layout here raises [`ABI`], which is part of the pin path, so that an agent never
//! reads another version's maps as its own.
#![no_std]

mod flow;
mod mark;
#[cfg(feature = "user")]
mod user;

pub use flow::{
    ASKER_ELSEWHERE, ASKER_LEFT, ASKER_TOLD, Asker, CONN_DONE, CONN_ESTABLISHED, CONN_FIN_IN, CONN_FIN_OUT,
    CONN_GREETED, CONN_ORPHAN, CONN_TLS, Conn, FlowKey, TURNS, TURNS_MANY, Writer,
};
pub use mark::{Mark, SLOT_FAMILY_V6, SLOT_MAGIC, slot_key};
#[cfg(feature = "user")]
pub use user::OBJECT;

/// Version of the map layouts. Part of the pin path: `<bpffs>/mailsteer/v<ABI>/`.
pub const ABI: u32 = 2;

/// How many source ids there are (12 bits of the mark). Id 0 means "not steered".
pub const SOURCES: u32 = 4096;
/// Ids from here on are no sources but refusals: see [`Refusal`].
pub const FIRST_REFUSAL: u32 = 0xff0;
/// How many lanes there are (8 bits of the mark). Lane 0 means "matched by no stream".
pub const LANES: u32 = 256;
/// Length of a lane's stored name, `stream` NUL `provider`.
pub const LANE_NAME: usize = 128;

/// The source id of a slot whose connections wait, because addresses are being put on the host.
pub const HOLD: u32 = 0xffc;

/// Why a slot refuses, as the source id that stands in the slot map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Refusal {
    /// No eligible source is left in the pool.
    Exhausted = 0xfff,
    /// The pool has no source of IPv6.
    NoIpv6Source = 0xffe,
    /// The pool has no source of IPv4.
    NoIpv4Source = 0xffd,
    /// The share of a source that failed, of which its siblings may take no more.
    Surge = 0xffb,
    /// The stream is stopped at this provider.
    Stopped = 0xffa,
    /// Too much of what the stream sent from this share's source comes back.
    Fuse = 0xff9,
}

/// One entry of the `SOURCES` array, indexed by source id: which address a mark with that id must leave from.
/// All zero: no such source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SourceEntry {
    /// The address on the wire; IPv4 is mapped (`::ffff:a.b.c.d`).
    pub addr: [u8; 16],
    /// The interface it must leave by; 0: any.
    pub ifindex: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// One entry of the `LANES` array, indexed by lane id: its name, `stream` NUL `provider`, NUL-padded, so that
/// counters keep their meaning over a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct LaneEntry {
    /// `stream` NUL `provider` NUL ...
    pub name: [u8; LANE_NAME],
}

/// The one entry of the `SETTINGS` array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Settings {
    /// Network namespace that the agent serves: cgroup programs see every namespace and compare this.
    pub netns_cookie: u64,
    /// Steered ports, host byte order; unused places are 0.
    pub ports: [u16; 8],
    /// 1: the guard drops what has no right to leave. 0: it only counts (no stream is steered).
    pub armed: u32,
    /// 1: streams matched by cgroup exist, so connect programs look the cgroup up.
    pub cgroup_streams: u32,
}

impl Settings {
    /// Whether a port is steered.
    ///
    /// Every program asks this of every packet, so the places are compared four at a time, and where one is the port nothing is left of it.
    /// A place is zero only where taking 1 from it sets its top bit, which did not stand before: so a zero byte is found in a word. Above
    /// the first zero this may say so of others too, which changes nothing.
    #[inline(always)]
    #[must_use]
    pub const fn is_steered(&self, port: u16) -> bool {
        const EACH: u64 = 0x0001_0001_0001_0001;
        const TOP: u64 = EACH << 15;
        // SAFETY: as many bytes, and any are a number.
        let [first, second] = unsafe { core::mem::transmute::<[u16; 8], [u64; 2]>(self.ports) };
        let (first, second) = (first ^ (port as u64 * EACH), second ^ (port as u64 * EACH));
        let zeros = (first.wrapping_sub(EACH) & !first) | (second.wrapping_sub(EACH) & !second);
        // Places that are not used are 0.
        zeros & TOP != 0 && port != 0
    }
}

/// Key of the `EXCLUDE` LPM trie: destinations that are not steered. IPv4 is mapped, so its prefix is 96 longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ExcludeKey {
    /// Prefix length in bits, of the mapped address.
    pub prefix_len: u32,
    /// The mapped address.
    pub addr: [u8; 16],
}

/// How many cgroup entries there are.
pub const CGROUPS: u32 = 256;
/// Length of a cgroup's stored path.
pub const CGROUP_PATH: usize = 256;

/// One entry of the `CGROUP_PATHS` array, indexed as the marks from [`CGROUP_MAGIC`] on: the path a stream names,
/// NUL-padded, so that it can be read back. The programs themselves look cgroup ids up in `CGROUPS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct CgroupEntry {
    /// The path from the root of the cgroup2 hierarchy.
    pub path: [u8; CGROUP_PATH],
}

/// Key of the `COUNTERS` hash: a lane and the source its connections left from (0: not steered).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CounterKey {
    /// Lane id.
    pub lane: u16,
    /// Source id.
    pub source: u16,
}

/// Value of `COUNTERS` (per CPU): what became of the connections of a lane from a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Connections whose first SYN left.
    pub attempts: u64,
    /// Connections whose SYN was answered by a SYN-ACK.
    pub established: u64,
    /// Connections whose SYN was answered by a reset.
    pub refused: u64,
    /// Connections whose SYN was answered by an ICMP error.
    pub unreachable: u64,
    /// Established connections that ended by a reset, from either side.
    pub reset: u64,
    /// Connections whose SYN left, was never answered, and was given up.
    pub unanswered: u64,
    /// Connections that have ended, by whatever outcome; open now is attempts minus this.
    pub closed: u64,
    /// Bytes of packets sent by connections that have ended, from the IP header on.
    pub bytes_out: u64,
    /// Bytes of packets that they received, likewise.
    pub bytes_in: u64,
    /// Packets that left with another address than their mark says: invariant 1 broken.
    pub wrong: u64,
    /// SYNs sent again.
    pub retransmits: u64,
}

/// One entry of the `TOLD` array, indexed by lane id and written by the user side alone: what connections after whose
/// `connect()` no SYN left turned out to be. The programs know only their sum, [`Total::NotSent`]: at that moment
/// nobody can tell a refusal of ours from a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Told {
    /// Refused by us, by decision.
    pub policy: u64,
    /// Lost on this host.
    pub local: u64,
}

/// Why the guard dropped a packet; index of the per-CPU `HELD` array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Held {
    /// It bears no mark of ours: our rules are away, or a stranger took it past them.
    NoMark = 0,
    /// Its mark names another source address than it has.
    WrongAddress = 1,
    /// It would leave by another interface than its source's.
    WrongUplink = 2,
    /// Its headers could not be read.
    Unreadable = 3,
    /// It would leave by an interface that is no uplink, unsteered.
    Undeclared = 4,
}
/// How many reasons [`Held`] has.
pub const HELD_REASONS: u32 = 5;

/// Index of the per-CPU `TOTALS` array: counts that belong to no lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Total {
    /// `connect()` calls to a steered port in our namespace.
    Asked = 0,
    /// Connections after whose `connect()` no SYN left, whatever the cause: refused by us, or lost on this host.
    NotSent = 1,
    /// Connections that could not be followed: the connection map was full, or a stranger's program ended the chain
    /// at the uplink before ours.
    Untracked = 2,
    /// Events that did not fit the ring buffer (the counters have them all the same).
    EventsLost = 3,
    /// Counts that were lost because the counter map was full: more pairs of lane and source than it holds.
    Uncounted = 4,
}
/// How many entries [`Total`] has.
pub const TOTALS: u32 = 5;

/// What became of a connection attempt, as an [`Event`] tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The SYN was answered by a SYN-ACK.
    Established = 1,
    /// The SYN was answered by a reset.
    Refused = 2,
    /// The SYN was answered by an ICMP error.
    Unreachable = 3,
    /// The SYN left and nobody ever answered.
    Unanswered = 4,
    /// No SYN ever left this host: refused by us, or lost on the way to the wire.
    NotSent = 5,
    /// No outcome yet: nobody answered the first SYN, and it was sent a second time.
    Again = 6,
    /// It stood, and the receiver's reset ended it before any greeting.
    Cut = 7,
}

/// Bytes of a reply that are kept: the codes, and as much of the text as tells one block list from another.
pub const SAID_TEXT: usize = 96;

/// The other kind of record of the `EVENTS` ring buffer: a receiver said 4xx or 5xx, in clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Said {
    /// When: nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// Socket cookie; 0 for forwarded traffic.
    pub cookie: u64,
    /// Who said it, IPv4 mapped.
    pub daddr: [u8; 16],
    /// Address on the wire to which it was said, IPv4 mapped.
    pub saddr: [u8; 16],
    /// The connection's mark.
    pub mark: u32,
    /// Port on the wire, host byte order.
    pub sport: u16,
    /// The receiver's port, host byte order.
    pub dport: u16,
    /// 1: it was the first that the receiver said.
    pub greeting: u32,
    /// How many bytes of `text` there are.
    pub length: u32,
    /// How the reply begins, the code included; not to be trusted.
    pub text: [u8; SAID_TEXT],
}

/// A third kind of record of the `EVENTS` ring buffer: a process turned to a connection, which another process used before,
/// or which it left for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Turned {
    /// When: nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// Socket cookie.
    pub cookie: u64,
    /// The receiver, IPv4 mapped.
    pub daddr: [u8; 16],
    /// Process id (the kernel's, of the first namespace).
    pub pid: u32,
    /// 1: the process has many connections at a time; what it turns to is told no more.
    pub many: u32,
}

/// One record of the `EVENTS` ring buffer: one connection attempt whose outcome is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Event {
    /// When `connect()` was called or the first SYN left: nanoseconds of CLOCK_BOOTTIME.
    pub started: u64,
    /// When the outcome was known: nanoseconds of CLOCK_BOOTTIME.
    pub decided: u64,
    /// Socket cookie; 0 for forwarded traffic.
    pub cookie: u64,
    /// cgroup id of the connecting process; 0 where unknown.
    pub cgroup: u64,
    /// Destination, IPv4 mapped.
    pub daddr: [u8; 16],
    /// Address on the wire (or, where no SYN left, the socket's own), IPv4 mapped.
    pub saddr: [u8; 16],
    /// Process id (the kernel's, of the first namespace); 0 where unknown.
    pub pid: u32,
    /// User id at `connect()`; `u32::MAX` where unknown.
    pub uid: u32,
    /// The packet mark at the wire; 0 where none.
    pub mark: u32,
    /// Port on the wire, host byte order.
    pub sport: u16,
    /// Port of the socket before translation, host byte order; 0 where unknown.
    pub local_port: u16,
    /// Destination port, host byte order.
    pub dport: u16,
    /// An [`Outcome`].
    pub outcome: u8,
    /// SYNs sent again before the outcome.
    pub retransmits: u8,
    /// Group id at `connect()`; `u32::MAX` where unknown.
    pub gid: u32,
}

/// Packet mark that a connect program gives a socket whose process lies in a stream's cgroup: this plus the index
/// of the cgroup entry. The nftables rules match it where they cannot see the cgroup themselves.
pub const CGROUP_MAGIC: u32 = 0x4c00_0000;

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn a_port_is_steered_wherever_it_stands_and_no_other_is() {
        let some = [1, 2, 25, 26, 0x00ff, 0x0100, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff];
        for place in 0..8 {
            for own in some {
                let mut settings = Settings::default();
                settings.ports[place] = own;
                for port in 0..=u16::MAX {
                    assert_eq!(settings.is_steered(port), port == own, "{own} at {place}: {port}");
                }
            }
        }
        let full = Settings { ports: [25, 26, 465, 587, 2525, 1, 0xffff, 0x8000], ..Settings::default() };
        for port in 0..=u16::MAX {
            assert_eq!(full.is_steered(port), full.ports.contains(&port), "{port}");
        }
        assert!((0..=u16::MAX).all(|port| !Settings::default().is_steered(port)));
    }
}
