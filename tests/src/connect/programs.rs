//! Nanoseconds of each eBPF program, by the kernel's own statistics.
//!
//! Owns: switching them on, the load for each case, and the empty program whose time is the measuring's own. Must not: run
//! while anything else is measured: the statistics cost every packet two readings of the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use serde::Serialize;

use super::burst::{Burst, Worker};
use crate::lab::Lab;
use crate::tcx::{Program, Verdict};
use crate::topology::receiver4;

/// Packets, or milliseconds of connections, of a case.
const DATAGRAMS: u64 = 200_000;
const MILLIS: u64 = 2000;

/// What one program costs in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// `foreign`: packets that are none of ours; `connections`: short ones to a steered port.
    pub case: &'static str,
    /// The program; `empty` is the one that does nothing.
    pub program: String,
    /// Nanoseconds of a run, measuring included.
    pub ns_per_run: f64,
    /// Runs for each packet (`foreign`) or each connection.
    pub runs: f64,
    /// Nanoseconds for each packet or connection, without what the empty program takes for as many runs.
    pub net_ns: f64,
}

/// Ids of all programs that are loaded.
pub(super) fn loaded() -> Result<BTreeSet<u32>> {
    Ok(loaded_programs()
        .collect::<std::result::Result<Vec<_>, _>>()?
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect())
}

/// Costs of the programs that are not in `known`, and of an empty one before them.
pub(super) fn costs(lab: &Lab, worker: &mut Worker, known: &BTreeSet<u32>) -> Result<Vec<Cost>> {
    let ours: BTreeSet<u32> = loaded()?.difference(known).copied().collect();
    let _empty = Program::attach(&lab.mail, "upa", Verdict::Next)?;
    let empty = *loaded()?.difference(known).find(|id| !ours.contains(id)).context("no empty program")?;
    let _on = enable_stats(Stats::RunTime)?;
    let receivers: Vec<IpAddr> = (1..=120).map(receiver4).collect();
    let mut costs = Vec::new();
    let before = times(&ours, empty)?;
    // By the worker, which is in the host's cgroup as every process of a host is: the guard there sees foreign packets too.
    let sent = worker.datagrams(receivers[0], DATAGRAMS)?;
    costs.extend(since(&before, &times(&ours, empty)?, "foreign", sent));
    let before = times(&ours, empty)?;
    let done = worker.burst(&Burst { threads: 1, millis: MILLIS, to: receivers, port: 25 })?;
    costs.extend(since(&before, &times(&ours, empty)?, "connections", done.connections));
    Ok(costs)
}

/// Nanoseconds and runs by program.
type Times = BTreeMap<String, (f64, f64)>;

fn times(ours: &BTreeSet<u32>, empty: u32) -> Result<Times> {
    let mut times = Times::new();
    for info in loaded_programs() {
        let info = info?;
        let name = match info.id() {
            id if id == empty => "empty",
            id if ours.contains(&id) => info.name_as_str().unwrap_or("unnamed"),
            _ => continue,
        };
        let (ns, runs) = times.entry(name.to_owned()).or_default();
        *ns += info.run_time().as_nanos() as f64;
        *runs += info.run_count() as f64;
    }
    Ok(times)
}

fn since(before: &Times, after: &Times, case: &'static str, units: u64) -> Vec<Cost> {
    let grown = |name: &str| {
        let (ns, runs) = after.get(name).copied().unwrap_or_default();
        let (ns_before, runs_before) = before.get(name).copied().unwrap_or_default();
        (ns - ns_before, runs - runs_before)
    };
    let (ns, runs) = grown("empty");
    let floor = ns / runs.max(1.0);
    let cost = |name: &String| {
        let (ns, runs) = grown(name);
        (runs > 0.0).then(|| Cost {
            case,
            program: name.clone(),
            ns_per_run: ns / runs,
            runs: runs / units as f64,
            net_ns: if name == "empty" { 0.0 } else { (ns - runs * floor) / units as f64 },
        })
    };
    after.keys().filter_map(cost).collect()
}
