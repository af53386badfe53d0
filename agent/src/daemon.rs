//! The agent: wires what is observed to what is decided, planned and done.
//!
//! Owns: the wiring, and nothing else does: only here do `observe` and `act` meet. One reconcile runs at a time
//! ([`reconcile`]); everything else tells it that something changed, or reads what it published ([`shared`]). Must
//! not: decide. When the agent stops, by a signal or by SIGKILL, table and guard stay: only `teardown` takes them
//! away.

mod claims;
mod clock;
mod compliance;
mod config;
mod connections;
mod control;
mod counts;
mod diary;
mod disturbances;
mod feeder;
mod file;
mod handshakes;
mod hooks;
mod journal;
mod learner;
mod lister;
mod logs;
mod metrics;
mod outcomes;
mod probing;
mod reconcile;
mod report;
mod shared;
mod signals;
mod status;
mod systemd;
mod watch;

pub(crate) use control::until;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as tokio_watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use mailsteer_core::config::Config;

use crate::act::bpf::BpfPaths;
use crate::api::view::TeardownReport;
use crate::nftnl::Ours;
use crate::state::Store;
use crate::{act, api, telemetry};

use counts::Gatherer;
use probing::Prober;
use reconcile::{Outside, Reconciler};
use systemd::{Manager, Signals};

pub use config::LoadError;
pub use file::{explain_file, plan_file};

/// Where the agent finds and leaves things.
#[derive(Clone, Debug)]
pub struct Options {
    /// The config file; `None`: observe.
    pub config: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// A mounted bpffs, under which the pins go.
    pub bpffs: PathBuf,
    /// The cgroup whose processes are followed; `None`: the root of the cgroup2 hierarchy.
    pub cgroup: Option<PathBuf>,
    /// What has to outlive a restart and is in no kernel object.
    pub state: PathBuf,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Where it cannot start: a bad config, missing privileges, a kernel that lacks what is needed. Nothing has been
/// changed then, and what an agent before it put up stands; the error says so.
pub fn run(options: &Options) -> Result<()> {
    // Two threads: one may wait for the kernel while the other answers.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let pins = std::fs::read_dir(options.bpffs.join("mailsteer"));
    let standing = pins.is_ok_and(|mut pins| pins.next().is_some());
    let served = runtime.block_on(serve(options.clone()));
    // Where another agent runs, it follows what stands.
    served.map_err(|error| if standing && only_agent(options).is_ok() { on_its_own(&error) } else { error })
}

/// What stands steers on, and there is a way back.
fn on_its_own(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{error:#}\n  What the agent before put up still stands: mail is steered as it was last, and held rather than \
         let out wrongly; but nobody follows what becomes of its addresses.\n  Mend the cause and start it again, or \
         go back to the version that ran before (apt install mailsteer=VERSION): it takes over what stands."
    )
}

async fn serve(options: Options) -> Result<()> {
    let (signals, manager) = (Signals::watch()?, Manager::find());
    let passed = systemd::passed_socket()?;
    let config = config::load(options.config.as_deref()).await?;
    let paths = bpf_paths(&options);
    let _alone = only_agent(&options)?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    // First of all: a newer version's state ends the start before anything is changed.
    let (store, kept) = Store::open(&options.state, config.config.retention)?;
    let shared = Arc::new(shared::Shared::new(options.clone(), store, kept.events));
    shared.outcomes.judge_by(Arc::clone(&config.replies));
    // Before the first event.
    shared.hooks.start(&tasks, &stop);
    shared.hooks.set(&config.config.hooks);
    shared.outcomes.restore(kept.heard);
    shared.look_at_state();
    serve_metrics(config.config.metrics, &shared, &stop, &tasks).await?;
    let (triggers, inbox) = mpsc::channel(256);
    let ours = Ours::default();
    // Watched before the first look, so that no change falls between.
    watch::spawn(&tasks, &stop, &triggers, &ours)?;
    let (mut outside, door) = outside(&config.config, manager);
    let known = learner::kept(&options.state);
    let learned = learner::learned(config.config.learning.as_ref(), &known, jiff::Timestamp::now());
    ask_around(&mut outside, known, &tasks, &stop, &shared, &triggers.downgrade());
    let text = config.text.clone();
    let mut reconciler = Reconciler::open(
        &options,
        paths.clone(),
        config,
        (kept.word, kept.beliefs),
        Arc::clone(&shared),
        ours,
        outside,
    )?;
    reconciler.learn(learned);
    reconciler.reconcile_first().await;
    config::keep(&options.state, &text).await;

    let ebpf = reconciler.no_guard().is_none();
    let gatherer = Arc::new(Gatherer::open(&paths, ebpf, kept.checkpoint)?);
    connections::spawn(
        &tasks,
        &stop,
        &paths,
        (ebpf, reconciler.turns_told()),
        Arc::clone(&shared),
        Arc::clone(&gatherer),
        triggers.clone(),
    )?;
    let control = Arc::new(control::Handle::new(triggers, Arc::clone(&shared), Arc::clone(&gatherer)));
    let socket = api::Socket::open(passed.map_or(api::Listen::At(options.socket), api::Listen::Passed))?;
    let server = tasks.spawn(api::serve(socket, control, door, stop.clone()));
    shared.store.started();
    let torn_down = reconciler.run(inbox, signals, server).await?;
    info!(
        torn_down,
        "stopping: {}",
        match (torn_down, ebpf) {
            (true, _) => "nothing of ours is left",
            (false, true) => "table and guard stay",
            (false, false) => "the table stays, and nobody owns it: a flush takes it",
        }
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    // What is counted from now on, the kernel keeps for the next agent.
    gatherer.gather(&shared).await;
    shared.store.finish(gatherer.checkpoint().await);
    Ok(())
}

/// Begins whatever goes its own pace: who is asked what, the loop says as the config has it.
fn ask_around(
    outside: &mut Outside,
    known: Vec<mailsteer_core::signal::providers::KeptHost>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    shared: &Arc<shared::Shared>,
    triggers: &mpsc::WeakSender<reconcile::Trigger>,
) {
    let (lists, wanted) = tokio_watch::channel(lister::Wanted::default());
    outside.lists = Some(lists);
    lister::spawn(tasks, stop, wanted, Arc::clone(shared), triggers.clone());
    let (dns, wanted) = tokio_watch::channel(compliance::Wanted::default());
    outside.dns = Some(dns);
    compliance::spawn(tasks, stop, wanted, Arc::clone(shared), triggers.clone());
    let (learning, wanted) = tokio_watch::channel(None);
    outside.learning = Some(learning);
    learner::spawn(tasks, stop, wanted, known, Arc::clone(shared), triggers.clone());
    let (feeds, wanted) = tokio_watch::channel(feeder::Wanted::default());
    outside.feeds = Some(feeds);
    feeder::spawn(tasks, stop, wanted, Arc::clone(shared), triggers.clone());
    let (logs, wanted) = tokio_watch::channel(vec![]);
    outside.logs = Some(logs);
    logs::spawn(tasks, stop, wanted, Arc::clone(shared), triggers.clone());
    outside.prober = Some(Prober::new(tasks.clone(), stop.clone(), triggers.clone()));
}

fn outside(config: &Config, manager: Manager) -> (Outside, api::Door) {
    let access = api::Access::new(config.control.clone());
    let (tell, steering) = tokio_watch::channel(false);
    (
        Outside {
            access: access.clone(),
            steering: tell,
            manager,
            prober: None,
            lists: None,
            dns: None,
            learning: None,
            feeds: None,
            logs: None,
        },
        api::Door { access, steering },
    )
}

/// Puts up the locks and the last rules, and ends: what has to stand on a host before its MTA starts. A config that was
/// broken since is passed over for the last one that was in force, since no lock at all would let mail leave anyhow.
///
/// # Errors
/// Where there is no config that can come into force, or a lock cannot be put up.
pub fn boot(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _alone = only_agent(options)?;
        let loaded = match config::load(options.config.as_deref()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                warn!("{error}");
                let last = config::last_good(&options.state, options.config.as_deref())
                    .await
                    .context("there is no other config to start from")?;
                warn!(
                    "booting with the config that was last in force: mend the file, then `mailsteer check` it"
                );
                last
            }
        };
        let (outside, _door) = outside(&loaded.config, Manager::find());
        let paths = bpf_paths(options);
        let (store, kept) = Store::open_at_boot(&options.state, loaded.config.retention);
        let shared = Arc::new(shared::Shared::new(options.clone(), store, kept.events));
        shared.outcomes.restore(kept.heard);
        shared.look_at_state();
        let known = learner::kept(&options.state);
        let learned = learner::learned(loaded.config.learning.as_ref(), &known, jiff::Timestamp::now());
        let (said, ours) = ((kept.word, kept.beliefs), Ours::default());
        let mut reconciler =
            Reconciler::open(options, paths, loaded, said, Arc::clone(&shared), ours, outside)?;
        reconciler.learn(learned);
        reconciler.reconcile_first().await;
        // Nothing is read here: what the kernel counts is for the agent to take in.
        shared.store.finish(kept.checkpoint);
        reconciler.outcome()
    })
}

/// Takes away what an agent left that does not run any more.
///
/// # Errors
/// Where an agent runs after all, or privileges are missing.
pub fn teardown(options: &Options) -> Result<TeardownReport> {
    let _alone = only_agent(options)?;
    let paths = bpf_paths(options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let act::Teardown { removed, left } = runtime.block_on(act::teardown(&paths, &options.state))?;
    Ok(TeardownReport { removed, left })
}

/// Two agents would undo each other's work: the second one does not start. The directory itself is locked, which needs
/// no room and no right to write.
fn only_agent(options: &Options) -> Result<std::fs::File> {
    let dir = options.state.display();
    std::fs::create_dir_all(&options.state)
        .with_context(|| format!("cannot make the state directory {dir}"))?;
    let file = std::fs::File::open(&options.state)
        .with_context(|| format!("cannot open the state directory {dir}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            anyhow::bail!("another agent runs with --state {dir}: stop it first")
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock the state directory {dir}"))
        }
    }
}

async fn serve_metrics(
    address: Option<SocketAddr>,
    shared: &Arc<shared::Shared>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<()> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics at {address}: set `[metrics] listen`"))?;
    let source = Arc::new(metrics::Source::new(Arc::clone(shared)));
    tasks.spawn(telemetry::exporter::serve(listener, source, stop.clone()));
    Ok(())
}

/// Where the eBPF programs are pinned and attached.
fn bpf_paths(options: &Options) -> BpfPaths {
    let cgroup = options.cgroup.clone().or_else(cgroup_root);
    // Where there is none, loading the programs says so.
    let cgroup = cgroup.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    BpfPaths { bpffs: options.bpffs.clone(), cgroup }
}

/// The root of the cgroup2 hierarchy: not always at /sys/fs/cgroup (hybrid hosts).
fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut cgroups = fields.filter(|fields| fields.get(2) == Some(&"cgroup2"));
    cgroups.find_map(|fields| fields.get(1).map(PathBuf::from))
}
