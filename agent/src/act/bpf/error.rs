//! What can go wrong with the eBPF programs, one variant for each thing an operator can act on.

use std::io;
use std::path::PathBuf;

use crate::bpf_maps::PinnedMapError;

/// Why the programs could not be loaded, attached or told.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The pins need a bpffs.
    #[error("{path} is no bpffs, and without one nothing survives the agent: mount -t bpf bpf {path}")]
    NoBpffs {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The second anchor needs a cgroup2 directory.
    #[error(
        "{path} is no cgroup2 directory: name the root of the cgroup2 mount (see /proc/mounts) with --cgroup"
    )]
    NoCgroup {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The pins serve another network namespace.
    #[error(
        "the pins in {path} serve another network namespace: use another --bpffs, or run `mailsteer teardown` there"
    )]
    OtherNamespace {
        /// The directory of the pins.
        path: PathBuf,
    },
    /// A pinned map is not ours to use.
    #[error(transparent)]
    Map(#[from] PinnedMapError),
    /// A map could not be read or written.
    #[error("cannot access the eBPF map {name}")]
    Access {
        /// The map.
        name: &'static str,
        /// Why not.
        #[source]
        source: aya::maps::MapError,
    },
    /// The kernel refused the object.
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks something.
    #[error("the eBPF object has no {what} {name}: it was built from other sources")]
    Missing {
        /// What it lacks.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the eBPF program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {name} to {to}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The interface or cgroup.
        to: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The first priority of an interface's filters is taken by a filter of another kind.
    #[error(
        "cannot put {name} before all filters of interface {ifindex}: one of another kind or protocol has priority 1 \
         (see `tc filter show dev ... egress`); give that one another priority"
    )]
    PriorityTaken {
        /// The program.
        name: &'static str,
        /// The interface.
        ifindex: u32,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A pin could not be read, written or removed.
    #[error("cannot {what} {path}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The namespace could not be identified.
    #[error("cannot read the cookie of the network namespace (kernel 5.14 and later have it)")]
    Namespace(#[source] io::Error),
    /// There is no guard.
    #[error("there is no eBPF guard to tell: {why}")]
    None {
        /// Why not.
        why: String,
    },
    /// The config wants none, and one stands.
    #[error(
        "`[guard] ebpf` is \"off\", and the guard of an earlier agent stands in {path}/mailsteer: it would hold what \
         changes from now on. Run `mailsteer teardown` first, which takes it away (mail leaves unsteered until the next \
         start), or write \"auto\""
    )]
    NotOff {
        /// The bpffs.
        path: PathBuf,
    },
    /// There is room for fewer.
    #[error("the guard has room for {room} {what}, and {wanted} are wanted")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        room: usize,
        /// How many there are.
        wanted: usize,
    },
}

impl BpfError {
    /// Whether it is this host's kernel, or what it lets us do, that stands against it: another start would not help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Object(error) => !matches!(**error, aya::EbpfError::ParseError(_)),
            Self::NoBpffs { .. }
            | Self::NoCgroup { .. }
            | Self::Program { .. }
            | Self::Attach { .. }
            | Self::Pin { .. }
            | Self::Namespace(_) => true,
            _ => false,
        }
    }
}
