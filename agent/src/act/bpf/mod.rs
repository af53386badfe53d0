//! The eBPF programs: loads or adopts them, attaches them, tells them what the plan says.
//!
//! Owns: every pin under `<bpffs>/mailsteer/v<ABI>/`: maps under their names, links as `link_<program>_<ifindex>`
//! (`guard`, `flow_out`, `flow_in`) and `link_<program>` (`connect4`, `connect6`, `outcome`, `release`,
//! `guard_cgroup`). A link lives as long as its pin: removing `link_guard_<ifindex>` takes the guard off that
//! interface and nothing else. Before kernel 6.6 filters take the place of an interface's links: see [`hooks`].
//! Must not: read counters or events, that is `observe`'s.
//!
//! Nothing here depends on the agent's life: after SIGKILL the programs go on, and the next agent puts its own
//! programs behind the same links or filters and goes on counting in the same maps.

mod clsact;
mod earlier;
mod error;
mod hooks;
mod link;
mod settings;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::maps::HashMap;
use aya::programs::{
    BtfTracePoint, CgroupSkb, CgroupSock, CgroupSockAddr, FEntry, ProgramError, SchedClassifier, SockOps,
};
use aya::{Btf, Ebpf, EbpfLoader};

use earlier::Earlier;
pub use error::BpfError;
use hooks::{FLOW_OUT, GUARD, Hooks, ROLES, Role};
use link::Place;

use crate::bpf_maps::{self, MAPS};

const BPFFS_MAGIC: i64 = 0xcafe_4a11;
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Programs of the cgroup. Who notes comes before who judges.
const AT_CGROUP: [(&str, Place); 5] = [
    ("outcome", Place::SockOps),
    ("release", Place::SockRelease),
    ("guard_cgroup", Place::CgroupEgress),
    ("connect4", Place::Connect4),
    ("connect6", Place::Connect6),
];
/// Names an object that is loaded in place of the built-in one: for testing a rebuilt object.
const OBJECT_VARIABLE: &str = "MAILSTEER_BPF_OBJECT";

/// Where the kernel's file systems are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfPaths {
    /// A bpffs: `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// The cgroup whose sockets are watched: the root of the cgroup2 mount.
    pub cgroup: PathBuf,
}

impl BpfPaths {
    fn pins(&self) -> PathBuf {
        bpf_maps::pin_dir(&self.bpffs)
    }

    /// Everything of ours, of every version.
    fn ours(&self) -> PathBuf {
        self.bpffs.join("mailsteer")
    }

    /// Where root's bpffs lets nobody else in, our directory alone is shown to us, at its place.
    fn is_bpffs(&self) -> bool {
        magic(&self.ours()).or_else(|| magic(&self.bpffs)) == Some(BPFFS_MAGIC)
    }
}

/// Whether anything that an earlier agent pinned stands: the guard among it may be armed.
///
/// # Errors
/// Where that cannot be seen.
pub fn stands(paths: &BpfPaths) -> io::Result<bool> {
    match fs::read_dir(paths.ours()) {
        Ok(versions) => Ok(versions.filter_map(Result::ok).any(|version| !is_empty_dir(&version.path()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An error with its causes. The verifier's log is many lines long; the first says what it is about.
#[must_use]
pub fn in_one_line(error: &BpfError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    let mut lines: Vec<String> =
        causes.filter_map(|cause| cause.to_string().lines().next().map(str::to_owned)).collect();
    lines.dedup();
    lines.join(": ")
}

/// The programs, loaded and pinned. Dropping this changes nothing in the kernel.
#[derive(Debug)]
pub struct Programs {
    paths: BpfPaths,
    pins: PathBuf,
    hooks: Hooks,
    object: Ebpf,
    /// Other versions of which something stands.
    earlier: Vec<Earlier>,
    turns_told: bool,
}

impl Programs {
    /// Loads the programs, or takes over what an earlier agent left: its maps are kept, and its links get this
    /// agent's programs without a gap. Must be called in the network namespace that is served.
    ///
    /// # Errors
    /// See [`BpfError`]: every variant says what to do.
    pub fn open(paths: &BpfPaths) -> Result<Self, BpfError> {
        match std::env::var_os(OBJECT_VARIABLE) {
            None => Self::open_object(paths, mailsteer_ebpf::OBJECT),
            Some(file) => {
                let path = PathBuf::from(file);
                tracing::warn!(object = %path.display(), "loading another eBPF object than the built-in one");
                let bytes = fs::read(&path).map_err(|source| BpfError::Pin { what: "read", path, source })?;
                Self::open_object(paths, &bytes)
            }
        }
    }

    fn open_object(paths: &BpfPaths, bytes: &[u8]) -> Result<Self, BpfError> {
        if !paths.is_bpffs() {
            return Err(BpfError::NoBpffs { path: paths.bpffs.clone() });
        }
        if magic(&paths.cgroup) != Some(CGROUP2_MAGIC) {
            return Err(BpfError::NoCgroup { path: paths.cgroup.clone() });
        }
        let pins = paths.pins();
        let earlier = earlier::find(&paths.ours());
        fs::create_dir_all(&pins).map_err(pin_error("make", &pins))?;
        for shape in &MAPS {
            bpf_maps::check(&pins, shape)?;
        }
        let mut loader = EbpfLoader::new();
        for shape in &MAPS {
            loader.map_pin_path(shape.name, pins.join(shape.name));
        }
        let mut object = loader.load(bytes).map_err(|error| BpfError::Object(Box::new(error)))?;
        load_programs(&mut object)?;
        let turns_told = follow_writers(&mut object);
        let (paths, hooks) = (paths.clone(), Hooks::find(&pins));
        let mut programs = Self { paths, hooks, pins, object, earlier, turns_told };
        if programs.sources()?.is_empty() {
            programs.earlier.iter().try_for_each(|earlier| earlier.give_numbers(&mut programs.object))?;
        }
        programs.claim_namespace()?;
        programs.adopt_uplinks()?;
        programs.attach_cgroup()?;
        Ok(programs)
    }

    /// Whether it is told which process uses a connection, as long as this lives.
    #[must_use]
    pub const fn turns_told(&self) -> bool {
        self.turns_told
    }

    /// Attaches guard and flow tracking to an interface, the guard first in its chain. Does nothing where they
    /// stand already.
    ///
    /// # Errors
    /// Where the kernel refuses; what was attached until then stays, and a later call goes on from there.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.forget_gone()?;
        if self.hooks.stands(GUARD, ifindex)? && !self.hooks.in_order(ifindex) {
            // A program that came before ours may end the chain. The kernel takes one program once per chain, so
            // ours are taken off and put in front: microseconds in which the nftables rules stand alone.
            self.hooks.take_off(FLOW_OUT, ifindex)?;
            self.hooks.take_off(GUARD, ifindex)?;
        }
        for role in ROLES {
            if !self.hooks.stands(role, ifindex)? {
                self.put(role, ifindex)?;
            }
        }
        self.uplinks()?.insert(ifindex, 1, 0).map_err(access("UPLINKS"))
    }

    /// In the place of another version's program, where one stands there.
    fn put(&self, role: Role, ifindex: u32) -> Result<(), BpfError> {
        for earlier in &self.earlier {
            if self.hooks.supersede(earlier, role, ifindex, self.program(role.name)?)? {
                return Ok(());
            }
        }
        self.hooks.put(role, ifindex, self.program(role.name)?)
    }

    /// Takes away what another version left, and its counts over. To be called when all of ours stands.
    ///
    /// # Errors
    /// Where its maps cannot be read, or its pins not removed: what is left is tried again at the next call.
    pub fn retire_earlier(&mut self) -> Result<Vec<u32>, BpfError> {
        let mut retired = Vec::new();
        while let Some(earlier) = self.earlier.last() {
            earlier.retire(&mut self.object, &self.pins)?;
            retired.extend(self.earlier.pop().map(|earlier| earlier.abi));
        }
        Ok(retired)
    }

    /// Takes guard and flow tracking off an interface; nothing where there are none.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.undeclare(ifindex)?;
        ROLES.iter().try_for_each(|role| self.hooks.take_off(*role, ifindex))
    }

    /// Takes only the guard off an interface and leaves flow tracking, which then counts what the guard would have
    /// held: for showing what the guard is good for.
    ///
    /// # Errors
    /// Where the pin cannot be removed.
    pub fn detach_guard_only(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.hooks.take_off(GUARD, ifindex)
    }

    /// Interfaces at which all of ours stand, the guard first. One that was deleted is not among them, also if
    /// another has its number by now.
    #[must_use]
    pub fn attached(&self) -> Vec<u32> {
        let all = |ifindex: &u32| {
            ROLES.iter().all(|role| matches!(self.hooks.stands(*role, *ifindex), Ok(true)))
                && self.hooks.in_order(*ifindex)
        };
        self.hooks.noted().into_iter().filter(all).collect()
    }

    /// Takes everything of ours out of the kernel, of this and of every other version. Must be called in the network
    /// namespace that is served.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn remove(paths: &BpfPaths) -> Result<(), BpfError> {
        let root = paths.ours();
        let all = earlier::find(&root).into_iter().map(|earlier| (earlier.pins, earlier.abi));
        for (pins, abi) in all.chain([(paths.pins(), mailsteer_ebpf::ABI)]) {
            Hooks::remove_version(&pins, abi)?;
        }
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // One that was made for us, in a directory of root's, is left to who made it: there is nothing in it.
            Err(_) if is_empty(&root) => Ok(()),
            other => other.map_err(pin_error("remove", &root)),
        }
    }

    /// Whether the guard stands at an interface, and a stranger's program before it.
    #[must_use]
    pub fn guard_is_behind(&self, ifindex: u32) -> bool {
        matches!(self.hooks.stands(GUARD, ifindex), Ok(true)) && !self.hooks.in_order(ifindex)
    }

    /// Forgets interfaces that are gone: another with the same number would count as declared for the second anchor.
    fn forget_gone(&mut self) -> Result<(), BpfError> {
        for ifindex in self.hooks.noted() {
            if self.hooks.is_gone(ifindex)? {
                self.undeclare(ifindex)?;
                self.hooks.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// Puts this agent's programs in the place of those that an earlier one attached.
    fn adopt_uplinks(&mut self) -> Result<(), BpfError> {
        self.forget_gone()?;
        for ifindex in self.hooks.noted() {
            for role in ROLES {
                self.hooks.replace(role, ifindex, self.program(role.name)?)?;
            }
        }
        Ok(())
    }

    fn undeclare(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let mut uplinks = self.uplinks()?;
        if uplinks.get(&ifindex, 0).is_ok() {
            uplinks.remove(&ifindex).map_err(access("UPLINKS"))?;
        }
        Ok(())
    }

    fn attach_cgroup(&mut self) -> Result<(), BpfError> {
        let path = &self.paths.cgroup;
        let directory = fs::File::open(path).map_err(pin_error("open", path))?;
        let id = directory.metadata().map_err(pin_error("open", path))?.ino();
        for (name, place) in AT_CGROUP {
            let fail = |source| BpfError::Attach { name, to: path.display().to_string(), source };
            let pin = self.pins.join(format!("link_{name}"));
            let program = self.program(name)?;
            if let Some(link) = link::open(&pin).map_err(pin_error("open", &pin))?
                && link::info(link.as_fd()).map_err(pin_error("ask", &pin))?.cgroup() == id
            {
                link::update(link.as_fd(), program).map_err(fail)?;
                continue;
            }
            let attached = link::create_at_cgroup(program, directory.as_fd(), place).map_err(fail)?;
            // Made before the old pin goes, so that a move to another cgroup has no gap.
            if let Err(error) = fs::remove_file(&pin)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(pin_error("remove", &pin)(error));
            }
            link::pin(attached.as_fd(), &pin).map_err(pin_error("pin", &pin))?;
        }
        Ok(())
    }

    fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, BpfError> {
        let program = self.object.program(name).ok_or(BpfError::Missing { what: "program", name })?;
        let fd = program.fd().map_err(program_error(name))?;
        Ok(fd.as_fd())
    }

    fn uplinks(&mut self) -> Result<HashMap<&mut aya::maps::MapData, u32, u32>, BpfError> {
        settings::map_of(&mut self.object, "UPLINKS")
    }
}

fn load_programs(object: &mut Ebpf) -> Result<(), BpfError> {
    for Role { name, .. } in ROLES {
        typed::<SchedClassifier>(object, name)?.load().map_err(program_error(name))?;
    }
    for name in ["connect4", "connect6"] {
        typed::<CgroupSockAddr>(object, name)?.load().map_err(program_error(name))?;
    }
    typed::<SockOps>(object, "outcome")?.load().map_err(program_error("outcome"))?;
    typed::<CgroupSock>(object, "release")?.load().map_err(program_error("release"))?;
    typed::<CgroupSkb>(object, "guard_cgroup")?.load().map_err(program_error("guard_cgroup"))
}

/// Has it told which process uses a connection, as long as the object lives: nobody else listens. Replies are joined by it and
/// nothing is steered, so that a kernel without function tracing or BTF is none to refuse.
fn follow_writers(object: &mut Ebpf) -> bool {
    match at_tracepoint(object).or_else(|_older| at_function(object)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                "which process uses a connection is not told ({}): of replies on connections that an MTA's processes hand \
                 to one another, those are counted for nobody that could have come to several sources",
                in_one_line(&error)
            );
            false
        }
    }
}

/// Linux 6.3 and later.
fn at_tracepoint(object: &mut Ebpf) -> Result<(), BpfError> {
    let btf = btf("sent")?;
    let program = typed::<BtfTracePoint>(object, "sent")?;
    program.load("sock_send_length", &btf).map_err(program_error("sent"))?;
    program.attach().map(drop).map_err(program_error("sent"))
}

/// Where the kernel was built with function tracing.
fn at_function(object: &mut Ebpf) -> Result<(), BpfError> {
    let btf = btf("sends")?;
    let program = typed::<FEntry>(object, "sends")?;
    program.load("tcp_sendmsg", &btf).map_err(program_error("sends"))?;
    program.attach().map(drop).map_err(program_error("sends"))
}

fn btf(name: &'static str) -> Result<Btf, BpfError> {
    Btf::from_sys_fs().map_err(|error| program_error(name)(error.into()))
}

fn typed<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(BpfError::Missing { what: "program", name })?;
    program.try_into().map_err(program_error(name))
}

fn program_error(name: &'static str) -> impl Fn(ProgramError) -> BpfError {
    move |source| BpfError::Program { name, source: Box::new(source) }
}

fn access(name: &'static str) -> impl Fn(aya::maps::MapError) -> BpfError {
    move |source| BpfError::Access { name, source }
}

fn pin_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> BpfError {
    move |source| BpfError::Pin { what, path: path.to_owned(), source }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// A directory that a failed start left says nothing.
fn is_empty_dir(path: &Path) -> bool {
    path.is_dir() && is_empty(path)
}

/// The magic number of the file system that a path lies in.
fn magic(path: &Path) -> Option<i64> {
    nix::sys::statfs::statfs(path).ok().map(|found| found.filesystem_type().0)
}
