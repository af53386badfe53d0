//! What can go wrong when the kernel is asked about, or told, addresses, routes and rules.
//!
//! Owns: one variant for each thing that an operator can act on. Must not: hide the kernel's own answer.

use std::io;
use std::net::IpAddr;

/// A failure of rtnetlink, of a kernel setting or of an announcement.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The privilege is missing.
    #[error("{what}: not permitted; the agent needs CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no such interface.
    #[error("interface {name} does not exist")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The interface is down, so that nothing can be routed through it.
    #[error("{what}: the interface is down")]
    LinkDown {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel forgets who added an address.
    #[error("{address} on {interface}: the kernel keeps no IFA_PROTO; Linux 5.18 or newer is needed")]
    NoProtocolMark {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The kernel accepted a change that cannot be read back: something else undid it.
    #[error(
        "{what}: accepted by the kernel, but reading back shows otherwise; does another program manage it?"
    )]
    NotKept {
        /// What was asked.
        what: String,
    },
    /// Reading was disturbed by changes each time it was tried.
    #[error("{what}: the kernel's tables changed during every reading")]
    Unsteady {
        /// What was read.
        what: String,
    },
    /// The kernel did not answer in time.
    #[error("{what}: the kernel did not answer in time")]
    Timeout {
        /// What was asked.
        what: String,
    },
    /// The netlink connection's task is gone.
    #[error("{what}: the netlink connection is closed")]
    Closed {
        /// What was asked.
        what: String,
    },
    /// A kernel setting could not be read or written.
    #[error("kernel setting {path}")]
    Setting {
        /// Its file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Any other refusal.
    #[error("{what}")]
    Kernel {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// Sorts the kernel's answer.
    #[must_use]
    pub fn of(what: &str, source: io::Error) -> Self {
        let what = what.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what, source },
            Some(libc::ENETDOWN) => Self::LinkDown { what, source },
            _ => Self::Kernel { what, source },
        }
    }

    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NotPermitted { source, .. }
            | Self::LinkDown { source, .. }
            | Self::Setting { source, .. }
            | Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
