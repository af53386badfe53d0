//! Why a source does not serve a lane.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::traffic::{EVERYWHERE, Failure};

/// Why a source holds no slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// Its address is not on the host.
    AddressMissing,
    /// Duplicate address detection has not finished.
    AddressTentative,
    /// Another host has the address.
    DadFailed,
    /// Its uplink's interface does not exist.
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// Its uplink's interface is down.
    LinkDown {
        /// The interface.
        interface: String,
    },
    /// Its uplink has no way onward for its family.
    NoRoute {
        /// The uplink.
        uplink: String,
    },
    /// The operator suspended it.
    Suspended {
        /// In the operator's words.
        why: String,
    },
    /// The stream's fuse for it is blown.
    FuseBlown {
        /// Why.
        why: String,
    },
    /// Its weight is 0.
    WeightZero,
    /// It is a spare, and enough primary sources are eligible.
    Spare,
    /// It was lost and came back several times: its way back is held.
    Flapping {
        /// Until when.
        until: Timestamp,
    },
    /// It is new, others serve, and its port 25 is being tried.
    Untried,
    /// Nothing that it sends to port 25 arrives.
    PortBlocked {
        /// What the tries showed.
        why: String,
    },
    /// Isolated at a provider, by what its traffic met.
    Isolated {
        /// The provider; `*` for every one.
        provider: String,
        /// What it met.
        cause: Failure,
        /// Until when at least; `None`: on its way back, and probes are to tell first.
        until: Option<Timestamp>,
    },
}

impl Reason {
    /// The word for it in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddressMissing => "address-missing",
            Self::AddressTentative => "address-tentative",
            Self::DadFailed => "dad-failed",
            Self::NoInterface { .. } => "no-interface",
            Self::LinkDown { .. } => "link-down",
            Self::NoRoute { .. } => "no-route",
            Self::Suspended { .. } => "suspended",
            Self::FuseBlown { .. } => "fuse",
            Self::WeightZero => "weight-zero",
            Self::Spare => "spare",
            Self::Flapping { .. } => "flapping",
            Self::Untried => "untried",
            Self::PortBlocked { .. } => "port-blocked",
            Self::Isolated { .. } => "isolated",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressMissing => f.write_str("its address is not on this host"),
            Self::AddressTentative => f.write_str("duplicate address detection has not finished"),
            Self::DadFailed => f.write_str("another host on the link has its address"),
            Self::NoInterface { interface } => write!(f, "its interface {interface} does not exist"),
            Self::LinkDown { interface } => write!(f, "its interface {interface} is down"),
            Self::NoRoute { uplink } => write!(f, "uplink {uplink} has no way onward for its family"),
            Self::Suspended { why } => write!(f, "suspended by the operator: {why}"),
            Self::FuseBlown { why } => write!(f, "the fuse is blown: {why}"),
            Self::WeightZero => f.write_str("its weight is 0"),
            Self::Spare => f.write_str("a spare, and enough primary sources are eligible"),
            Self::Untried => f.write_str("new: its port 25 is being tried"),
            Self::PortBlocked { why } => write!(f, "port 25 is blocked on the way out: {why}"),
            Self::Flapping { until } => write!(f, "lost and back several times: held until {until:.0}"),
            Self::Isolated { provider, cause, until } => {
                let at = if provider == EVERYWHERE { "every provider" } else { provider };
                write!(f, "isolated at {at}: {cause}")?;
                match (cause.lasts(), until) {
                    (Some(lasts), _) => write!(f, "; {lasts}"),
                    (None, Some(until)) => write!(f, "; until {until:.0} at least"),
                    (None, None) => f.write_str("; probes are to tell whether it may come back"),
                }
            }
        }
    }
}
