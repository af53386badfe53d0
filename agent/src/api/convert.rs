//! Between the view and the wire: one rule per type, both ways, and the one place where an error becomes a
//! gRPC status and comes back.
//!
//! Owns: every conversion. Must not: decide anything, or drop a field: each type is listed field by field, so
//! that a field that one side lacks does not compile.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mailsteer_core::config::Tier;
use mailsteer_core::model::Family;
use prost_types::Timestamp;
use tonic::{Code, Status as Rpc};

use super::server::ControlError;
use super::v1;
use super::view::*;

/// What came over the wire is not what it should be: the other side is of another version.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A type with a form on the wire.
pub(super) trait Wire<P>: Sized {
    /// To the wire.
    fn to_wire(self) -> P;
    /// From the wire.
    fn from_wire(wire: P) -> Result<Self, Malformed>;
}

macro_rules! same {
    ($($t:ty),*) => {$(
        impl Wire<$t> for $t {
            fn to_wire(self) -> $t {
                self
            }
            fn from_wire(wire: $t) -> Result<Self, Malformed> {
                Ok(wire)
            }
        }
    )*};
}
same!(String, bool, u32, u64, f64, BTreeMap<String, String>);

impl<P, T: Wire<P>> Wire<Vec<P>> for Vec<T> {
    fn to_wire(self) -> Vec<P> {
        self.into_iter().map(T::to_wire).collect()
    }
    fn from_wire(wire: Vec<P>) -> Result<Self, Malformed> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<P, T: Wire<P>> Wire<Option<P>> for Option<T> {
    fn to_wire(self) -> Option<P> {
        self.map(T::to_wire)
    }
    fn from_wire(wire: Option<P>) -> Result<Self, Malformed> {
        wire.map(T::from_wire).transpose()
    }
}

impl Wire<u32> for u16 {
    fn to_wire(self) -> u32 {
        self.into()
    }
    fn from_wire(wire: u32) -> Result<Self, Malformed> {
        wire.try_into().map_err(|_| Malformed(format!("{wire} is more than 65535")))
    }
}

impl Wire<String> for IpAddr {
    fn to_wire(self) -> String {
        self.to_string()
    }
    fn from_wire(wire: String) -> Result<Self, Malformed> {
        wire.parse().map_err(|_| Malformed(format!("`{wire}` is no IP address")))
    }
}

impl Wire<String> for serde_json::Value {
    fn to_wire(self) -> String {
        self.to_string()
    }
    fn from_wire(wire: String) -> Result<Self, Malformed> {
        serde_json::from_str(&wire).map_err(|e| Malformed(format!("no JSON: {e}")))
    }
}

impl Wire<Timestamp> for jiff::Timestamp {
    fn to_wire(self) -> Timestamp {
        // The wire wants nanoseconds that count forward, also before 1970.
        let nanos = self.as_nanosecond();
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
        Timestamp { seconds, nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) }
    }
    fn from_wire(wire: Timestamp) -> Result<Self, Malformed> {
        jiff::Timestamp::new(wire.seconds, wire.nanos).map_err(|e| Malformed(e.to_string()))
    }
}

impl Wire<Option<Timestamp>> for jiff::Timestamp {
    fn to_wire(self) -> Option<Timestamp> {
        Some(self.to_wire())
    }
    fn from_wire(wire: Option<Timestamp>) -> Result<Self, Malformed> {
        Self::from_wire(wire.ok_or_else(|| Malformed("a time is missing".to_owned()))?)
    }
}

macro_rules! mirror {
    ($view:ident => $wire:ident { $($field:ident),* }) => {
        impl Wire<v1::$wire> for $view {
            fn to_wire(self) -> v1::$wire {
                v1::$wire { $($field: self.$field.to_wire()),* }
            }
            fn from_wire(wire: v1::$wire) -> Result<Self, Malformed> {
                Ok(Self {
                    $($field: Wire::from_wire(wire.$field).map_err(|e| {
                        Malformed(format!(concat!(stringify!($wire), ".", stringify!($field), ": {}"), e))
                    })?),*
                })
            }
        }

        impl Wire<Option<v1::$wire>> for $view {
            fn to_wire(self) -> Option<v1::$wire> {
                Some(self.to_wire())
            }
            fn from_wire(wire: Option<v1::$wire>) -> Result<Self, Malformed> {
                Self::from_wire(
                    wire.ok_or_else(|| Malformed(concat!(stringify!($wire), " is missing").to_owned()))?,
                )
            }
        }
    };
}

macro_rules! mirror_enum {
    ($name:ident { $($variant:ident),* }) => {
        impl Wire<i32> for $name {
            fn to_wire(self) -> i32 {
                match self {
                    $(Self::$variant => v1::$name::$variant as i32),*
                }
            }
            fn from_wire(wire: i32) -> Result<Self, Malformed> {
                match v1::$name::try_from(wire) {
                    $(Ok(v1::$name::$variant) => Ok(Self::$variant),)*
                    Ok(v1::$name::Unspecified) | Err(_) => {
                        Err(Malformed(format!(concat!(stringify!($name), " cannot be {}"), wire)))
                    }
                }
            }
        }
    };
}

mirror_enum!(Level { Ok, Attention, Broken });
mirror_enum!(StreamMode { Observe, Canary, Enforce, Bypass });
mirror_enum!(SourceState { Healthy, Suspended, Ineligible, Suspect, Isolated, Probation });
mirror_enum!(Outcome { Established, Refused, Unreachable, Unanswered, Local, Policy });
mirror_enum!(Fate { Alone, Steered, Refused, Held });
mirror_enum!(Tier { Primary, Spare });
mirror_enum!(Family { V4, V6 });
mirror!(Headline => Headline { level, sentence, advice });
mirror!(Status => StatusReply { headline, version, uptime_seconds, reconcile_age_seconds, config, locks, streams, pools, totals, conntrack_used_ratio, table_repairs, suspended, bypasses, hold, faults, time, cgroup_root });
mirror!(ConfigState => ConfigState { file, loaded, error });
mirror!(Locks => Locks { table, table_owned, guard, guard_armed, guard_error });
mirror!(StreamState => StreamState { name, pool, mode, share, matches, exhausted, tags, uids, gids, cgroups, forwarded, marks });
mirror!(PoolState => PoolState { pool, tier, family, eligible, total, suspended });
mirror!(Totals => Totals { wrong, held, refused, attempts, established, stopped, wrong_last, stopped_last });
mirror!(Suspension => Suspension { source, reason, since, until });
mirror!(HoldState => HoldState { reason, since, until });
mirror!(BypassState => BypassState { stream, reason, until });
mirror!(SourceRow => Source { name, public, local, pools, tier, weight, uplink, state, reason, counters });
mirror!(SourceCounters => SourceCounters { attempts, established, refused, unreachable, reset, unanswered, open, bytes_out, bytes_in, partial });
mirror!(ConnectionRow => Connection { time, pid, uid, cgroup, stream, provider, wanted_source, wanted_address, real_address, destination, destination_port, local_port, cookie, outcome, handshake_ms, retransmits });
mirror!(EventRow => Event { number, time, kind, subject, text, evidence });
mirror!(Who => Who { uid, gid, cgroup, tag, subnet, mark, via });
mirror!(Destination => Destination { address, port });
mirror!(Explanation => Explanation { who, destination, not_steered, streams, provider, provider_by, pool, family, sources, result, assumed, stream, fate, share });
mirror!(StreamStep => StreamStep { stream, matched, why });
mirror!(SourceStep => SourceStep { source, address, tier, share, why });
mirror!(PlanRow => PlanRow { text, action });
mirror!(ReloadReport => ReloadReport { file, changed, warnings });
mirror!(Done => Done { text, changed });
mirror!(OutcomeReport => OutcomeReport { time, destination, host, source, stream, pid, handed, connecting, local_port, reply, complaint });
mirror!(OutcomesTaken => OutcomesTaken { joined, ambiguous, unknown, refused, sources });
mirror!(Report => ReportReply { from, to, kept_since, rows, notes });
mirror!(ReportRow => ReportRow { source, public, attempts, established, accepted, deferred, blocked, bounced, complaints, listed, listed_seconds, flips });
mirror!(TeardownReport => TeardownReport { removed, left });

impl From<ControlError> for Rpc {
    fn from(error: ControlError) -> Self {
        let code = match &error {
            ControlError::NotFound(_) => Code::NotFound,
            ControlError::Invalid(_) => Code::InvalidArgument,
            ControlError::Unavailable(_) => Code::Unavailable,
            ControlError::Denied(_) => Code::PermissionDenied,
            ControlError::BadConfig(_) => Code::FailedPrecondition,
            ControlError::Failed(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Rpc> for ControlError {
    fn from(status: Rpc) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound(text),
            Code::InvalidArgument => Self::Invalid(text),
            Code::Unavailable => Self::Unavailable(text),
            Code::PermissionDenied => Self::Denied(text),
            Code::FailedPrecondition => Self::BadConfig(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<Malformed> for ControlError {
    fn from(error: Malformed) -> Self {
        Self::Invalid(format!("malformed message ({error}): are agent and command of the same version?"))
    }
}
