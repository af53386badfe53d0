//! The one interpreter of the plan's actions.
//!
//! Owns: carrying each action out, and the memory of what was written and read back, so that a pass need not read a
//! table of a hundred thousand elements that nobody has touched. Must not: decide, or read what others did; the
//! daemon tells it what was observed, by [`Executor::found`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use mailsteer_core::config::{Config, OwnTable};
use mailsteer_core::model::{Family, LaneId, ReceiverSets, Slots, SourceId};
use mailsteer_core::plan::{Action, GuardSpec, SlotChange, TableSpec, takes_a_last_slot};
use thiserror::Error;

use super::bpf::{BpfError, BpfPaths, Programs};
use super::guard::{Guard, Told};
use super::live::{self, Ending, LiveError};
use super::net::Net;
use super::nft::{self, Elements, Numbers, Table};
use super::sysctls::Sysctls;
use crate::bpf_maps::pin_dir;
use crate::conntrack::{self, ConntrackError};
use crate::netlink::{Connection, NetError};
use crate::nftnl::{Contents, Fingerprint, Ours};

/// Why an action failed.
#[derive(Debug, Error)]
pub enum ActError {
    /// Addresses, routes or rules.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The table.
    #[error(transparent)]
    Table(#[from] nft::Error),
    /// The guard.
    #[error(transparent)]
    Guard(#[from] BpfError),
    /// Connection tracking.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// Live connections.
    #[error(transparent)]
    Live(#[from] LiveError),
}

/// What an action did besides what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// conntrack entries deleted.
    pub healed: u64,
    /// Pending connections that take another source with their next SYN.
    pub moved: u64,
    /// Live connections ended.
    pub ended: u64,
}

/// The table as it was last written and read back.
#[derive(Clone, Debug)]
pub struct Written {
    /// The rules.
    pub spec: TableSpec,
    /// All rules in one number.
    pub fingerprint: Fingerprint,
    /// The slots.
    pub slots: BTreeMap<(LaneId, Family), Slots>,
    /// Addresses of source ids.
    pub translations: BTreeMap<SourceId, IpAddr>,
    /// Learned addresses of providers.
    pub receivers: ReceiverSets,
}

/// What was taken away, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Teardown {
    /// In words.
    pub removed: Vec<String>,
    /// In words, with the cause.
    pub left: Vec<String>,
}

/// Carries actions out.
pub struct Executor {
    net: Net,
    /// Serves `net`'s requests for as long as it lives.
    _connection: Connection,
    table: Table,
    guard: Guard,
    paths: BpfPaths,
    sysctls: Sysctls,
    written: Option<Written>,
    unhealed: bool,
    unmoved: bool,
    ending: Ending,
}

impl Executor {
    /// Opens everything that is needed, and takes over what an earlier agent left. The guard's programs are loaded
    /// and attached to the cgroup, where the config has them and the kernel takes them; nothing else changes.
    ///
    /// # Errors
    /// Where the kernel refuses, or nft is missing.
    pub fn open(paths: BpfPaths, config: &Config, state: &Path, ours: Ours) -> Result<Self, ActError> {
        let guard = Guard::open(&paths, config.ebpf)?;
        let table = Table::open(config.own_table, ours)?;
        let sysctls = Sysctls::open(state)?;
        let connection = Connection::open()?;
        let net = Net::new(connection.handle().clone());
        Ok(Self {
            net,
            _connection: connection,
            table,
            guard,
            paths,
            sysctls,
            written: None,
            unhealed: true,
            unmoved: true,
            ending: Ending::default(),
        })
    }

    /// Why there is no eBPF guard; `None` where there is one.
    #[must_use]
    pub fn no_guard(&self) -> Option<&str> {
        self.guard.missing()
    }

    /// Whether it is told which process uses a connection.
    #[must_use]
    pub fn turns_told(&self) -> bool {
        self.guard.turns_told()
    }

    /// Source and lane ids that an earlier agent gave out: the guard's maps have them, or the table where there is no
    /// guard.
    ///
    /// # Errors
    /// Where the pinned maps or the table cannot be read.
    pub fn given_out(&mut self) -> Result<Numbers, ActError> {
        let Some(GuardSpec { lanes, .. }) = self.guard.found()? else { return Ok(self.table.numbers()?) };
        let sources = self.told().sources.iter().map(|(&id, source)| (id, source.address)).collect();
        Ok(Numbers { sources, lanes })
    }

    /// The table as it was last written; `None` where it has to be written anew.
    #[must_use]
    pub const fn written(&self) -> Option<&Written> {
        self.written.as_ref()
    }

    /// Forgets the table unless it stands, every rule and element, as it was last written. One element that a
    /// stranger took away may have let connections begin without it, so that a whole repair is due and not a flip.
    pub fn found(&mut self, table: Option<(Fingerprint, &Contents)>) {
        let as_written =
            table.zip(self.written.as_ref()).is_some_and(|((fingerprint, contents), written)| {
                fingerprint == written.fingerprint
                    && contents.are(&written.slots, &written.translations, &written.receivers)
            });
        if !as_written {
            self.forget_table();
        }
    }

    /// The rules were away, or may have been.
    fn forget_table(&mut self) {
        self.written = None;
        self.unhealed = true;
    }

    /// Connections that missed the rules may still stand.
    #[must_use]
    pub const fn unhealed(&self) -> bool {
        self.unhealed
    }

    /// What the guard was told.
    #[must_use]
    pub const fn told(&self) -> &Told {
        self.guard.told()
    }

    /// Reads what the guard was told, and forgets it where it was changed since.
    ///
    /// # Errors
    /// Where the pinned maps cannot be read.
    pub fn distrust_guard(&mut self) -> Result<(), ActError> {
        Ok(self.guard.distrust()?)
    }

    /// Takes away what another version of mailsteer left; says which versions.
    ///
    /// # Errors
    /// Where something of it cannot be read or removed.
    pub fn retire_earlier(&mut self) -> Result<Vec<u32>, ActError> {
        Ok(self.guard.retire_earlier()?)
    }

    /// Interfaces at which the guard is attached.
    #[must_use]
    pub fn attached(&self) -> Vec<u32> {
        self.guard.attached()
    }

    /// Whether a stranger's program stands before the guard of an interface.
    #[must_use]
    pub fn guard_is_behind(&self, ifindex: u32) -> bool {
        self.guard.is_behind(ifindex)
    }

    /// Whether strangers are kept from the table.
    #[must_use]
    pub const fn table_is_owned(&self) -> bool {
        self.table.owned()
    }

    /// Owns the table from now on, or no longer.
    ///
    /// # Errors
    /// Where another process owns it.
    pub fn own_table(&mut self, mode: OwnTable) -> Result<(), ActError> {
        Ok(self.table.own(mode)?)
    }

    /// Carries an action out and reads it back.
    ///
    /// # Errors
    /// [`ActError`]; what is true then has to be observed again.
    pub async fn carry_out(&mut self, action: &Action) -> Result<Carried, ActError> {
        match action {
            Action::AddAddress(entry) => drop(self.net.add_address(entry).await?),
            Action::RemoveAddress(entry) => drop(self.net.remove_address(entry).await?),
            Action::AddRoute(route) => self.net.add_route(route).await?,
            Action::RemoveRoute(route) => self.net.remove_route(route).await?,
            Action::AddRule(rule) => {
                self.sysctls.accept_marked_replies(rule)?;
                self.net.add_rule(rule).await?;
            }
            Action::RemoveRule(rule) => self.net.remove_rule(rule).await?,
            Action::GuardSources { set, clear } => self.guard.tell_sources(set, clear)?,
            Action::Guard(spec) => self.guard.tell(spec)?,
            Action::Attach { ifindex } => self.guard.attach(*ifindex)?,
            Action::Detach { ifindex } => self.guard.detach(*ifindex)?,
            Action::Table { spec, slots, translations, receivers } => {
                self.write(spec, Elements { slots, translations, receivers }).await?;
            }
            Action::Receivers { add, remove } => self.receivers(add, remove)?,
            Action::Flip { add, slots, remove } => {
                self.flip(add, slots, remove).await?;
                if self.written.as_ref().is_some_and(|now| takes_a_last_slot(action, &now.slots)) {
                    self.slots_were_taken();
                }
            }
            Action::Heal { ports, exclude, sources } => {
                let report = conntrack::heal(ports, exclude, sources).await?;
                self.unhealed = false;
                return Ok(Carried { healed: report.deleted, ..Carried::default() });
            }
            Action::MovePending { ports } => {
                let moved = conntrack::move_pending(ports, &self.slots()).await?;
                self.unmoved = false;
                return Ok(Carried { moved, ..Carried::default() });
            }
            Action::EndLive { ports, lanes } => {
                let pins = self.no_guard().is_none().then(|| pin_dir(&self.paths.bpffs));
                let done = live::end_live(ports, lanes, &self.slots(), pins.as_deref()).await?;
                self.ending.looked(done);
                return Ok(Carried { ended: done.ended, ..Carried::default() });
            }
        }
        Ok(Carried::default())
    }

    fn slots(&self) -> BTreeMap<(LaneId, Family), Slots> {
        self.written.as_ref().map(|written| written.slots.clone()).unwrap_or_default()
    }

    /// Whether pending connections may be left with a source that holds no slot of theirs.
    #[must_use]
    pub const fn unmoved(&self) -> bool {
        self.unmoved
    }

    /// The same of live ones, as far as they are to be ended.
    #[must_use]
    pub fn unended(&self) -> bool {
        self.ending.is_due()
    }

    /// How long until busy ones are to be looked at again; `None` where none is left.
    #[must_use]
    pub fn until_next_ending(&self) -> Option<Duration> {
        self.ending.wait()
    }

    fn slots_were_taken(&mut self) {
        self.unmoved = true;
        self.ending = Ending::default();
    }

    async fn write(&mut self, spec: &TableSpec, elements: Elements<'_>) -> Result<(), ActError> {
        self.written = None;
        let fingerprint = self.table.apply(spec, elements).await?;
        self.written = Some(Written {
            spec: spec.clone(),
            fingerprint,
            slots: elements.slots.clone(),
            translations: elements.translations.clone(),
            receivers: elements.receivers.clone(),
        });
        self.slots_were_taken();
        Ok(())
    }

    fn receivers(&mut self, add: &ReceiverSets, remove: &ReceiverSets) -> Result<(), ActError> {
        let Some(written) = &mut self.written else { return Ok(()) };
        if let Err(error) = self.table.receivers(&written.spec.named, add, remove) {
            // What stands is not what was believed: write it all, whatever it is.
            self.forget_table();
            return Err(error.into());
        }
        for (provider, gone) in remove {
            written.receivers.entry(provider.clone()).or_default().retain(|one| !gone.contains(one));
        }
        for (provider, new) in add {
            written.receivers.entry(provider.clone()).or_default().extend(new);
        }
        Ok(())
    }

    async fn flip(
        &mut self,
        add: &BTreeMap<SourceId, IpAddr>,
        changes: &[SlotChange],
        remove: &BTreeMap<SourceId, IpAddr>,
    ) -> Result<(), ActError> {
        if let Err(error) = self.table.flip(add, changes, remove).await {
            // What stands is not what was believed: write it all, whatever it is.
            self.forget_table();
            return Err(error.into());
        }
        let Some(written) = &mut self.written else { return Ok(()) };
        written.translations.extend(add);
        written.translations.retain(|id, _| !remove.contains_key(id));
        for change in changes {
            let lane = written.slots.get_mut(&(change.lane, change.family));
            if let Some(slot) = lane.and_then(|lane| lane.0.get_mut(usize::from(change.slot))) {
                *slot = change.to;
            }
        }
        Ok(())
    }

    /// Takes away everything of ours. Goes on where something cannot be taken away, and says what was left.
    pub async fn teardown(&mut self) -> Teardown {
        take_away(&self.paths, &mut self.table, &mut self.net, &mut self.sysctls).await
    }
}

/// Takes away what an agent left that does not run any more; loads and attaches nothing for that.
///
/// # Errors
/// Where the kernel cannot be reached, or what was changed cannot be read.
pub async fn teardown(paths: &BpfPaths, state: &Path) -> Result<Teardown, ActError> {
    let mut sysctls = Sysctls::open(state)?;
    let mut table = Table::open(OwnTable::Auto, Ours::default())?;
    let connection = Connection::open()?;
    let mut net = Net::new(connection.handle().clone());
    Ok(take_away(paths, &mut table, &mut net, &mut sysctls).await)
}

async fn take_away(paths: &BpfPaths, table: &mut Table, net: &mut Net, sysctls: &mut Sysctls) -> Teardown {
    let mut done = Teardown::default();
    done.note("the guard and all pinned maps", Programs::remove(paths).map_err(ActError::from));
    done.note("table inet mailsteer", table.teardown().await.map_err(ActError::from));
    done.note("policy routing, routes and addresses", net.teardown().await.map(drop).map_err(ActError::from));
    done.note("kernel parameters", sysctls.restore().map_err(ActError::from));
    done
}

impl Teardown {
    fn note(&mut self, what: &str, result: Result<(), ActError>) {
        match result {
            Ok(()) => self.removed.push(what.to_owned()),
            Err(error) => self.left.push(format!("{what}: {error}")),
        }
    }
}
