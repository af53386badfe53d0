//! What is remembered of one connection while it lives: on the wire (`CONNS`) and at its socket (`ASKERS`).
//!
//! Owns: the layout of both and the meaning of their flag bits. Must not: decide when a bit is set; the programs do.

/// Key of the `CONNS` hash: a connection as the wire sees it, after translation, from this host's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Address on the wire, IPv4 mapped; the numbers hold network byte order.
    pub saddr: [u32; 4],
    /// Destination, likewise.
    pub daddr: [u32; 4],
    /// Port on the wire, host byte order.
    pub sport: u16,
    /// Destination port, host byte order.
    pub dport: u16,
}

/// The SYN was answered by a SYN-ACK.
pub const CONN_ESTABLISHED: u32 = 1;
/// A FIN left.
pub const CONN_FIN_OUT: u32 = 2;
/// A FIN came.
pub const CONN_FIN_IN: u32 = 4;
/// Its end is counted; who sets this bit counts it, so it is counted once.
pub const CONN_DONE: u32 = 8;
/// Its socket has closed after the connection stood; a reset may follow.
pub const CONN_ORPHAN: u32 = 16;
/// The receiver has sent something: its greeting is over.
pub const CONN_GREETED: u32 = 32;
/// The receiver speaks TLS from here on: nothing is read any more.
pub const CONN_TLS: u32 = 64;

/// Value of the `CONNS` hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// When `connect()` was called, or the first SYN left: nanoseconds of CLOCK_BOOTTIME.
    pub started: u64,
    /// When the first SYN left.
    pub sent: u64,
    /// When the last packet left or came: nanoseconds of CLOCK_MONOTONIC, as fine as the kernel's tick. Cheaper than
    /// the others, and every packet sets it.
    pub last: u64,
    /// Socket cookie; 0 for forwarded traffic.
    pub cookie: u64,
    /// cgroup id of the connecting process; 0 where unknown.
    pub cgroup: u64,
    /// Bytes of packets sent, from the IP header on.
    pub bytes_out: u64,
    /// Bytes of packets received, likewise.
    pub bytes_in: u64,
    /// The packet mark of its first SYN.
    pub mark: u32,
    /// Sequence number of its SYN.
    pub isn: u32,
    /// Process id; 0 where unknown.
    pub pid: u32,
    /// User id; `u32::MAX` where unknown.
    pub uid: u32,
    /// Group id; `u32::MAX` where unknown.
    pub gid: u32,
    /// Bits `CONN_*`.
    pub flags: u32,
    /// Port of the socket before translation; 0 where unknown.
    pub local_port: u16,
    /// SYNs sent again.
    pub retransmits: u16,
    /// Sequence number of what the receiver says next.
    pub next_in: u32,
}

/// Its SYN left by an uplink: from here on `CONNS` knows what becomes of it.
pub const ASKER_LEFT: u32 = 1;
/// Its SYN left by an interface that is no uplink: none of ours.
pub const ASKER_ELSEWHERE: u32 = 2;
/// Its outcome is told.
pub const ASKER_TOLD: u32 = 4;

/// Value of the `ASKERS` socket storage: who called `connect()` on this socket, and how far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Asker {
    /// When `connect()` was called: nanoseconds of CLOCK_BOOTTIME.
    pub started: u64,
    /// Socket cookie.
    pub cookie: u64,
    /// cgroup id of the process.
    pub cgroup: u64,
    /// The connection: as its socket has it (`saddr` is 0 while `connect()` chooses), then as it is on the wire.
    pub flow: FlowKey,
    /// Process id.
    pub pid: u32,
    /// User id at `connect()`.
    pub uid: u32,
    /// Group id at `connect()`.
    pub gid: u32,
    /// Bits `ASKER_*`.
    pub flags: u32,
    /// The process that wrote to it last; at first the one that called `connect()`.
    pub writer: u32,
}

/// Value of the `WRITERS` hash, keyed by process id: which of its sockets to steered ports a process is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Writer {
    /// Cookie of the socket that it connected, or wrote to, last.
    pub cookie: u64,
    /// When [`Writer::turns`] began to be counted: nanoseconds of CLOCK_BOOTTIME.
    pub since: u64,
    /// How often it turned to another socket within a second; [`TURNS_MANY`]: too often once.
    pub turns: u64,
}

/// A process that turns to another of its sockets more often in a second has many connections at a time, and is told of no
/// more: every write of an event loop would be a record.
pub const TURNS: u64 = 1_000;
/// See [`Writer::turns`].
pub const TURNS_MANY: u64 = u64::MAX;
