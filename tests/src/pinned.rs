//! How many entries a pinned eBPF map has, by the kernel's own word.
//!
//! Owns: that one question. Must not: know what an entry says, or go by what the agent says of it.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_GET: libc::c_long = 7;

/// The start of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_MAP_GET_NEXT_KEY.
#[repr(C)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
    flags: u64,
}

/// Where the maps of the agent with this bpffs are pinned; of several versions' the first.
///
/// # Errors
/// When there are none.
pub fn dir(bpffs: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(bpffs.join("mailsteer"))?.collect::<std::io::Result<Vec<_>>>()?;
    let found = entries.into_iter().map(|entry| entry.path()).find(|path| path.join("CONNS").exists());
    found.with_context(|| format!("no maps are pinned below {}", bpffs.display()))
}

/// Counts the entries of a hash map.
///
/// # Errors
/// When it is not there, or its keys change faster than they are counted.
pub fn entries(pin: &Path) -> Result<u64> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let opened = call(OBJ_GET, &mut ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 })
        .with_context(|| format!("opening {}", pin.display()))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let map = unsafe { OwnedFd::from_raw_fd(i32::try_from(opened)?) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let field = |name: &str| -> Result<usize> {
        let value = info.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(value.trim().parse()?)
    };
    let (size, most) = (field("key_size:")?, field("max_entries:")?);
    let (mut key, mut next) = (None::<Vec<u8>>, vec![0u8; size]);
    for count in 0..=most {
        let mut attr = NextKey {
            map: u32::try_from(map.as_raw_fd())?,
            padding: 0,
            key: key.as_ref().map_or(0, |key| key.as_ptr() as u64),
            next: next.as_mut_ptr() as u64,
            flags: 0,
        };
        match call(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => key = Some(next.clone()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count as u64),
            Err(error) => return Err(error).with_context(|| format!("reading {}", pin.display())),
        }
    }
    bail!("{} has more keys than entries: they change while they are counted", pin.display())
}

fn call<T>(command: libc::c_long, attr: &mut T) -> std::io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a plain struct; what its pointers name outlives the call and is
    // as long as the map's keys.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok(answer) }
}
