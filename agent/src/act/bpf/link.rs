//! Links between programs and the places where they run, by the bpf(2) system call itself.
//!
//! Owns: making, pinning, updating and asking links. Must not: know which program goes where. The library cannot
//! put a new program behind a pinned cgroup link, which is what keeps a restart without a gap; so all kinds of
//! links take this one way.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const BY_LINK: u32 = 1 << 13;

/// Where a program runs, as the kernel numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Place {
    CgroupEgress = 1,
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SockRelease = 34,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// Where in a chain.
#[derive(Clone, Copy)]
pub(super) enum Order<'a> {
    /// The place has no order.
    None,
    /// Before all others.
    First,
    /// Right behind another link.
    After(BorrowedFd<'a>),
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    program: u32,
    target: u32,
    place: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct UpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    place: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    reserved: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// What the kernel says of a link.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    kind: u32,
    /// Its id.
    pub(super) id: u32,
    program: u32,
    reserved: u32,
    target: [u32; 2],
    rest: [u64; 4],
}

impl LinkInfo {
    /// Interface of a tcx link; 0 when the interface is gone.
    pub(super) fn ifindex(&self) -> u32 {
        self.target[0]
    }

    /// cgroup of a cgroup link; 0 when the cgroup is gone.
    pub(super) fn cgroup(&self) -> u64 {
        u64::from(self.target[0]) | (u64::from(self.target[1]) << 32)
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a `#[repr(C)]` prefix of the kernel's `union bpf_attr` for this command, and its size is
    // given; pointers in it outlive the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

fn new_fd(code: libc::c_long) -> io::Result<OwnedFd> {
    let raw = i32::try_from(code).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us and nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Attaches a program; `target` is an interface's number or a cgroup's descriptor.
pub(super) fn create(
    program: BorrowedFd<'_>,
    target: u32,
    place: Place,
    order: Order<'_>,
) -> io::Result<OwnedFd> {
    let (flags, relative) = match order {
        Order::None => (0, 0),
        Order::First => (BEFORE, 0),
        Order::After(link) => (AFTER | BY_LINK, raw(link)),
    };
    let mut attr = CreateAttr {
        program: raw(program),
        target,
        place: place as u32,
        flags,
        relative,
        ..CreateAttr::default()
    };
    new_fd(bpf(LINK_CREATE, &mut attr)?)
}

/// Attaches a program to a cgroup.
pub(super) fn create_at_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    place: Place,
) -> io::Result<OwnedFd> {
    create(program, raw(cgroup), place, Order::None)
}

/// Puts another program behind a link, without a gap.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = UpdateAttr { link: raw(link), program: raw(program), ..UpdateAttr::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Pins a link, so that it outlives us.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let mut attr = PinAttr { path: name.as_ptr() as u64, fd: raw(link), ..PinAttr::default() };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Detaches a link's program, and returns when it is off. Closing the last descriptor or removing the last pin only
/// leaves that to a kernel worker, and until then the program cannot be attached to the same place again.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// Opens a pinned link; `None` where there is no pin.
pub(super) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let name = c_path(path)?;
    let mut attr = PinAttr { path: name.as_ptr() as u64, ..PinAttr::default() };
    match bpf(OBJ_GET, &mut attr) {
        Ok(code) => new_fd(code).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks a link what it is attached to.
pub(super) fn info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Id of the first link in an interface's chain; `None` where the chain is empty.
pub(super) fn first(ifindex: u32, place: Place) -> io::Result<Option<u32>> {
    let mut programs = [0u32; 64];
    let mut links = [0u32; 64];
    let mut attr = QueryAttr {
        target: ifindex,
        place: place as u32,
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    Ok((attr.count > 0).then_some(links[0]))
}
