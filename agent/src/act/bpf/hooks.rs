//! How programs stand at an interface: tcx links where the kernel has tcx (6.6 and later), clsact filters before.
//!
//! Owns: that choice, and the notes below the pins by which an agent finds again what an earlier one attached. A tcx
//! link is its own note: it lives as long as its pin, `link_<program>_<ifindex>`. A filter lives in the kernel without
//! a pin; its note is the directory `filter_<program>_<ifindex>`, made before the filter and removed after it, and
//! `qdisc_<ifindex>` notes that the qdisc was not there before us. Must not: decide what is attached, or where.
//!
//! `MAILSTEER_BPF_HOOK=clsact`, for tests alone, takes clsact where there is tcx.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mailsteer_ebpf::ABI;

use super::clsact::{self, Side, Spot};
use super::link::{self, Order, Place};
use super::{BpfError, Earlier, pin_error};

const FORCE_VARIABLE: &str = "MAILSTEER_BPF_HOOK";
/// Every network namespace has `lo` under this number.
const LOOPBACK: u32 = 1;
/// First byte of our filters' handles, as of our marks.
const MAGIC: u32 = 0x4d << 24;

/// A program of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Role {
    /// Its name in the object.
    pub(super) name: &'static str,
    side: Side,
    number: u32,
}

pub(super) const GUARD: Role = Role { name: "guard", side: Side::Egress, number: 1 };
pub(super) const FLOW_OUT: Role = Role { name: "flow_out", side: Side::Egress, number: 2 };
pub(super) const FLOW_IN: Role = Role { name: "flow_in", side: Side::Ingress, number: 3 };
/// In the order in which they are attached: who comes later stands before.
pub(super) const ROLES: [Role; 3] = [FLOW_IN, FLOW_OUT, GUARD];

impl Role {
    fn place(self) -> Place {
        match self.side {
            Side::Ingress => Place::TcxIngress,
            Side::Egress => Place::TcxEgress,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hook {
    Tcx,
    Clsact,
}

impl Hook {
    /// A kernel without tcx does not know the place that is asked for.
    fn find() -> Self {
        let unknown = |error: io::Error| error.raw_os_error() == Some(libc::EINVAL);
        if std::env::var_os(FORCE_VARIABLE).is_some_and(|value| value == "clsact") {
            tracing::warn!("{FORCE_VARIABLE}: clsact is taken, whether there is tcx or not");
            Self::Clsact
        } else if link::first(LOOPBACK, Place::TcxEgress).is_err_and(unknown) {
            tracing::info!("this kernel has no tcx (6.6 and later): guard and counting are clsact filters");
            Self::Clsact
        } else {
            Self::Tcx
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Tcx => "link",
            Self::Clsact => "filter",
        }
    }
}

/// The programs of all interfaces, by whichever hook.
#[derive(Clone, Debug)]
pub(super) struct Hooks {
    hook: Hook,
    pins: PathBuf,
    abi: u32,
}

impl Hooks {
    /// Finds out what the kernel has.
    pub(super) fn find(pins: &Path) -> Self {
        Self { hook: Hook::find(), pins: pins.to_owned(), abi: ABI }
    }

    /// Takes everything off that a version noted at its pins, by any hook.
    pub(super) fn remove_version(pins: &Path, abi: u32) -> Result<(), BpfError> {
        for hook in [Hook::Tcx, Hook::Clsact] {
            let hooks = Self { hook, pins: pins.to_owned(), abi };
            for ifindex in hooks.noted() {
                ROLES.iter().try_for_each(|role| hooks.take_off(*role, ifindex))?;
            }
        }
        Ok(())
    }

    /// Puts a program in the very place of another version's, without a gap and without a moment in which both run;
    /// false where there is none. That version's pin becomes ours.
    pub(super) fn supersede(
        &self,
        earlier: &Earlier,
        role: Role,
        ifindex: u32,
        program: BorrowedFd<'_>,
    ) -> Result<bool, BpfError> {
        let theirs = Self { hook: self.hook, pins: earlier.pins.clone(), abi: earlier.abi };
        if !theirs.stands(role, ifindex)? {
            return Ok(false);
        }
        match self.hook {
            Hook::Tcx => {
                theirs.replace(role, ifindex, program)?;
                let (from, to) = (theirs.note(role, ifindex), self.note(role, ifindex));
                fs::rename(&from, &to).map_err(pin_error("move", &from))?;
            }
            // Filters are known by handles that bear the version: ours is put before theirs, which then goes.
            Hook::Clsact => {
                self.put(role, ifindex, program)?;
                theirs.take_off(role, ifindex)?;
            }
        }
        Ok(true)
    }

    /// Whether a program of ours is attached to this interface.
    pub(super) fn stands(&self, role: Role, ifindex: u32) -> Result<bool, BpfError> {
        let note = self.note(role, ifindex);
        match self.hook {
            Hook::Tcx => {
                let Some(link) = self.link(role, ifindex)? else { return Ok(false) };
                let info = link::info(link.as_fd()).map_err(pin_error("ask", &note))?;
                Ok(info.ifindex() == ifindex)
            }
            Hook::Clsact => {
                let spot = self.spot(role, ifindex);
                let filters = clsact::filters(ifindex, spot.side).map_err(attach_error(role, ifindex))?;
                Ok(note.exists() && filters.contains(&spot.handle))
            }
        }
    }

    /// Whether the guard stands before everybody else's programs. With clsact also flow tracking has to, since it
    /// cannot be put behind the guard later.
    pub(super) fn in_order(&self, ifindex: u32) -> bool {
        match self.hook {
            Hook::Tcx => {
                let Ok(Some(link)) = self.link(GUARD, ifindex) else { return false };
                let id = link::info(link.as_fd()).map(|info| info.id).ok();
                link::first(ifindex, Place::TcxEgress).is_ok_and(|first| first.is_some() && first == id)
            }
            Hook::Clsact => {
                let wanted = [GUARD, FLOW_OUT].map(|role| self.spot(role, ifindex).handle);
                clsact::filters(ifindex, Side::Egress).is_ok_and(|all| all.starts_with(&wanted))
            }
        }
    }

    /// Attaches a program before all that are there; flow tracking behind the guard, where that stands.
    pub(super) fn put(&self, role: Role, ifindex: u32, program: BorrowedFd<'_>) -> Result<(), BpfError> {
        let note = self.note(role, ifindex);
        match self.hook {
            Hook::Tcx => {
                self.take_off(role, ifindex)?;
                let behind_guard = role == FLOW_OUT && self.stands(GUARD, ifindex)?;
                let guard = if behind_guard { self.link(GUARD, ifindex)? } else { None };
                let order = guard.as_ref().map_or(Order::First, |link| Order::After(link.as_fd()));
                let attached = link::create(program, ifindex, role.place(), order)
                    .map_err(attach_error(role, ifindex))?;
                link::pin(attached.as_fd(), &note).map_err(pin_error("pin", &note))
            }
            Hook::Clsact => {
                self.ensure_qdisc(role, ifindex)?;
                make_note(&note)?;
                let spot = self.spot(role, ifindex);
                // Also one whose note was lost with its bpffs.
                clsact::remove(spot).map_err(pin_error("detach", &note))?;
                clsact::create(spot, program, role.name).map_err(|error| match error.raw_os_error() {
                    Some(libc::EINVAL) => BpfError::PriorityTaken { name: role.name, ifindex, source: error },
                    _ => attach_error(role, ifindex)(error),
                })
            }
        }
    }

    /// Puts another program behind what is noted, without a gap.
    pub(super) fn replace(&self, role: Role, ifindex: u32, program: BorrowedFd<'_>) -> Result<(), BpfError> {
        match self.hook {
            Hook::Tcx => {
                let Some(link) = self.link(role, ifindex)? else { return Ok(()) };
                link::update(link.as_fd(), program).map_err(attach_error(role, ifindex))
            }
            Hook::Clsact if self.stands(role, ifindex)? => {
                clsact::replace(self.spot(role, ifindex), program, role.name)
                    .map_err(attach_error(role, ifindex))
            }
            // It is away although it is noted: attaching puts it back.
            Hook::Clsact => Ok(()),
        }
    }

    /// Takes a program off, and the note of it; nothing where there is none.
    pub(super) fn take_off(&self, role: Role, ifindex: u32) -> Result<(), BpfError> {
        let note = self.note(role, ifindex);
        match self.hook {
            Hook::Tcx => {
                if let Some(link) = self.link(role, ifindex)? {
                    match link::detach(link.as_fd()) {
                        // Its interface is gone, and the program with it.
                        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                            return Err(pin_error("detach", &note)(error));
                        }
                        _ => {}
                    }
                }
                absent(fs::remove_file(&note)).map_err(pin_error("remove", &note))
            }
            Hook::Clsact if note.exists() => {
                clsact::remove(self.spot(role, ifindex)).map_err(pin_error("detach", &note))?;
                absent(fs::remove_dir(&note)).map_err(pin_error("remove", &note))?;
                self.leave_qdisc(ifindex)
            }
            Hook::Clsact => Ok(()),
        }
    }

    /// Whether an interface that is noted has nothing of ours: it was deleted, and another may have its number.
    pub(super) fn is_gone(&self, ifindex: u32) -> Result<bool, BpfError> {
        for role in ROLES {
            if self.stands(role, ifindex)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets the notes of an interface that is gone. The qdisc that is there now may be another's.
    pub(super) fn forget(&self, ifindex: u32) -> Result<(), BpfError> {
        let note = self.qdisc_note(ifindex);
        absent(fs::remove_dir(&note)).map_err(pin_error("remove", &note))?;
        ROLES.iter().try_for_each(|role| self.take_off(*role, ifindex))
    }

    /// Interfaces of which there is any note.
    pub(super) fn noted(&self) -> Vec<u32> {
        let prefix = self.hook.prefix();
        let of_name = |name: &str| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('_')?;
            ROLES.iter().find_map(|role| rest.strip_prefix(role.name)?.strip_prefix('_')?.parse().ok())
        };
        let mut found: Vec<u32> = fs::read_dir(&self.pins)
            .into_iter()
            .flatten()
            .filter_map(|entry| of_name(entry.ok()?.file_name().to_str()?))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn ensure_qdisc(&self, role: Role, ifindex: u32) -> Result<(), BpfError> {
        if clsact::add_qdisc(ifindex).map_err(attach_error(role, ifindex))? {
            make_note(&self.qdisc_note(ifindex))?;
        }
        Ok(())
    }

    fn leave_qdisc(&self, ifindex: u32) -> Result<(), BpfError> {
        let note = self.qdisc_note(ifindex);
        if !note.exists() || ROLES.iter().any(|role| self.note(*role, ifindex).exists()) {
            return Ok(());
        }
        clsact::remove_empty_qdisc(ifindex).map_err(pin_error("detach", &note))?;
        absent(fs::remove_dir(&note)).map_err(pin_error("remove", &note))
    }

    fn spot(&self, role: Role, ifindex: u32) -> Spot {
        Spot { ifindex, side: role.side, handle: MAGIC | (self.abi & 0xffff) << 8 | role.number }
    }

    fn link(&self, role: Role, ifindex: u32) -> Result<Option<OwnedFd>, BpfError> {
        let path = self.note(role, ifindex);
        link::open(&path).map_err(pin_error("open", &path))
    }

    fn note(&self, role: Role, ifindex: u32) -> PathBuf {
        self.pins.join(format!("{}_{}_{ifindex}", self.hook.prefix(), role.name))
    }

    fn qdisc_note(&self, ifindex: u32) -> PathBuf {
        self.pins.join(format!("qdisc_{ifindex}"))
    }
}

/// bpffs holds directories and pins, no files.
fn make_note(path: &Path) -> Result<(), BpfError> {
    fs::create_dir_all(path).map_err(pin_error("make", path))
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn attach_error(role: Role, ifindex: u32) -> impl Fn(io::Error) -> BpfError {
    move |source| BpfError::Attach { name: role.name, to: format!("interface {ifindex}"), source }
}
