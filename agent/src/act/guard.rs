//! The second lock as this agent has it: the eBPF guard, or the reason why there is none.
//!
//! Owns: whether there has to be one, and the memory of what it was told. Must not: decide what it is told. Without
//! one a plan has no step for it, and all that is read of it is empty.

use std::collections::{BTreeMap, BTreeSet};

use mailsteer_core::config::Ebpf;
use mailsteer_core::model::{GuardSource, SourceId};
use mailsteer_core::plan::GuardSpec;

use super::bpf::{self, BpfError, BpfPaths, Programs};

/// The guard as it was last told and read back.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Sources.
    pub sources: BTreeMap<SourceId, GuardSource>,
    /// The rest; `None`: not told yet by this agent.
    pub spec: Option<GuardSpec>,
}

/// The eBPF guard, if there is one.
pub(super) struct Guard {
    programs: Result<Programs, String>,
    told: Told,
}

impl Guard {
    /// Loads the programs, or takes over those of an earlier agent. Where the kernel refuses them and none is needed,
    /// there is no guard; but never beside one of an earlier agent, which would hold what this one changes.
    ///
    /// # Errors
    /// Where there has to be one and cannot be, or may not be one and is.
    pub(super) fn open(paths: &BpfPaths, ebpf: Ebpf) -> Result<Self, BpfError> {
        let stands = bpf::stands(paths);
        if ebpf == Ebpf::Off {
            return match stands {
                Ok(true) => Err(BpfError::NotOff { path: paths.bpffs.clone() }),
                // Who said "off" has looked.
                Ok(false) | Err(_) => Ok(Self::none("[guard] ebpf = \"off\"".into())),
            };
        }
        match Programs::open(paths) {
            Ok(programs) => {
                let mut guard = Self { programs: Ok(programs), told: Told::default() };
                guard.told.sources = guard.sources()?;
                Ok(guard)
            }
            Err(error) if ebpf == Ebpf::Auto && error.is_refusal() && matches!(stands, Ok(false)) => {
                // What was pinned before the kernel refused must not look like an earlier agent's.
                if let Err(error) = Programs::remove(paths) {
                    tracing::debug!(%error, "nothing was pinned");
                }
                Ok(Self::none(bpf::in_one_line(&error)))
            }
            Err(error) => Err(error),
        }
    }

    fn none(why: String) -> Self {
        tracing::warn!(
            "one lock only: there is no eBPF guard ({why}). The rules steer and count by themselves; a flush of a table \
             that is not owned lets mail leave by a wrong address until it is repaired"
        );
        Self { programs: Err(why), told: Told::default() }
    }

    /// Why there is none.
    pub(super) fn missing(&self) -> Option<&str> {
        self.programs.as_ref().err().map(String::as_str)
    }

    /// Whether it is told which process uses a connection.
    pub(super) fn turns_told(&self) -> bool {
        self.programs.as_ref().is_ok_and(Programs::turns_told)
    }

    /// What it was told.
    pub(super) const fn told(&self) -> &Told {
        &self.told
    }

    fn sources(&mut self) -> Result<BTreeMap<SourceId, GuardSource>, BpfError> {
        self.programs.as_mut().map_or_else(|_| Ok(BTreeMap::new()), Programs::sources)
    }

    /// What an earlier agent told it besides the sources; nothing where there is none.
    pub(super) fn found(&mut self) -> Result<Option<GuardSpec>, BpfError> {
        self.programs.as_mut().ok().map(Programs::guard).transpose()
    }

    /// Reads what it was told, and forgets it where it was changed since.
    pub(super) fn distrust(&mut self) -> Result<(), BpfError> {
        let Some(found) = self.found()? else { return Ok(()) };
        self.told.sources = self.sources()?;
        self.told.spec.take_if(|told| !still_says(&found, told));
        self.programs()?.refresh_cgroups().map(drop)
    }

    /// Takes away what another version of mailsteer left; says which versions.
    pub(super) fn retire_earlier(&mut self) -> Result<Vec<u32>, BpfError> {
        self.programs.as_mut().map_or_else(|_| Ok(Vec::new()), Programs::retire_earlier)
    }

    /// Interfaces at which it is attached.
    pub(super) fn attached(&self) -> Vec<u32> {
        self.programs.as_ref().map(Programs::attached).unwrap_or_default()
    }

    /// Whether a stranger's program stands before it.
    pub(super) fn is_behind(&self, ifindex: u32) -> bool {
        self.programs.as_ref().is_ok_and(|programs| programs.guard_is_behind(ifindex))
    }

    pub(super) fn tell_sources(&mut self, set: &[GuardSource], clear: &[SourceId]) -> Result<(), BpfError> {
        self.programs()?.set_sources(set, clear)?;
        self.told.sources.retain(|id, _| !clear.contains(id));
        self.told.sources.extend(set.iter().map(|source| (source.id, source.clone())));
        Ok(())
    }

    pub(super) fn tell(&mut self, spec: &GuardSpec) -> Result<(), BpfError> {
        self.programs()?.set_guard(spec)?;
        self.told.spec = Some(spec.clone());
        Ok(())
    }

    pub(super) fn attach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.programs()?.attach(ifindex)
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.programs()?.detach(ifindex)
    }

    /// A plan that has a step for a guard that is not there is a defect, and says so.
    fn programs(&mut self) -> Result<&mut Programs, BpfError> {
        self.programs.as_mut().map_err(|why| BpfError::None { why: why.clone() })
    }
}

/// Whether the guard still says what it was told; names of lanes that are gone may stand besides.
fn still_says(found: &GuardSpec, told: &GuardSpec) -> bool {
    let networks = |spec: &GuardSpec| spec.exclude.iter().copied().collect::<BTreeSet<_>>();
    found.ports == told.ports
        && found.armed == told.armed
        && found.cgroups == told.cgroups
        && networks(found) == networks(told)
        && told.lanes.iter().all(|(id, names)| found.lanes.get(id) == Some(names))
}
