//! A stranger's tcx program: gives one verdict on every packet and ends the chain, as many in the field do. And a
//! stranger's hand that takes a pinned program off.
//!
//! Owns: two instructions and their link. Must not: stay: the link ends with its file, or with the namespace.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Attach before every other program there is now.
const BEFORE: u32 = 1 << 3;

/// The start of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    unused: [u64; 12],
}

/// `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    unused: [u64; 12],
}

/// `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    unused: [u32; 9],
}

/// How many tcx programs are attached to an interface, in both directions.
///
/// # Errors
/// Where the kernel has no tcx (before 6.6).
pub fn attached(ns: &NetNs, interface: &str) -> Result<u32> {
    ns.run(|| -> Result<u32> {
        let ifindex = nix::net::if_::if_nametoindex(interface)?;
        let mut count = 0;
        for attach_type in [TCX_INGRESS, TCX_EGRESS] {
            let mut query = ProgQuery { ifindex, attach_type, ..ProgQuery::default() };
            // SAFETY: the kernel reads and writes `size_of::<ProgQuery>()` bytes of a plain struct that outlives the
            // call; it writes no ids, since there is room for none.
            let answer =
                unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<ProgQuery>()) };
            if answer < 0 {
                return Err(std::io::Error::last_os_error()).context("asking for attached programs");
            }
            count += query.count;
        }
        Ok(count)
    })?
}

/// The start of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_LINK_DETACH.
#[repr(C)]
struct LinkDetach {
    link: u32,
}

/// What the program says of every packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// `TCX_NEXT`: as if it were not there.
    Next = u32::MAX,
    /// `TC_ACT_OK`: out with it, and nobody else is asked.
    Accept = 0,
    /// `TC_ACT_SHOT`.
    Drop = 2,
}

/// An attached program; dropping it detaches.
#[derive(Debug)]
pub struct Program {
    _link: OwnedFd,
}

impl Program {
    /// Attaches it to an interface's egress, before every program that is there.
    ///
    /// # Errors
    /// Where the kernel has no tcx (before 6.6).
    pub fn attach(ns: &NetNs, interface: &str, verdict: Verdict) -> Result<Self> {
        // r0 = verdict; exit
        let code: [u64; 2] = [0xb7 | (u64::from(verdict as u32) << 32), 0x95];
        let load = ProgLoad {
            kind: SCHED_CLS,
            count: 2,
            code: code.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            ..ProgLoad::default()
        };
        let program = bpf(PROG_LOAD, &load).context("loading a stranger's program")?;
        let link = ns.run(|| -> Result<OwnedFd> {
            let attr = LinkCreate {
                program: u32::try_from(program.as_raw_fd())?,
                ifindex: nix::net::if_::if_nametoindex(interface)?,
                attach_type: TCX_EGRESS,
                flags: BEFORE,
                ..LinkCreate::default()
            };
            bpf(LINK_CREATE, &attr).context("attaching a stranger's program")
        })??;
        Ok(Self { _link: link })
    }
}

/// Takes the program of a pinned link off, at once, and removes the pin.
///
/// # Errors
/// When it is no pinned link.
pub fn detach(pin: &Path) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = bpf(OBJ_GET, &ObjGet { path: path.as_ptr() as u64, ..ObjGet::default() })
        .with_context(|| format!("opening {}", pin.display()))?;
    call(LINK_DETACH, &LinkDetach { link: u32::try_from(link.as_raw_fd())? })
        .with_context(|| format!("detaching {}", pin.display()))?;
    Ok(std::fs::remove_file(pin)?)
}

/// A command that answers with a descriptor.
fn bpf<T>(command: libc::c_long, attr: &T) -> Result<OwnedFd> {
    let fd = i32::try_from(call(command, attr)?)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_long, attr: &T) -> Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a plain struct that outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if answer < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(answer)
}
