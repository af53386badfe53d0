//! Runs a program under a filter of system calls: `lab-seccomp FILTER PROGRAM [ARGUMENT...]`, the filter as `confine`
//! writes it. What is not in it fails with EPERM, as under the units.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use mailsteer_tests::confine::Filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let mut next =
        |what: &str| -> Result<OsString> { args.next().with_context(|| format!("no {what} given")) };
    let filter = std::fs::read(next("filter")?)?;
    let program = next("program")?;
    seccompiler::apply_filter(&compiled(&serde_json::from_slice(&filter)?)?)?;
    Err(Command::new(program).args(args).exec().into())
}

/// A call without rules passes, whatever its arguments.
fn compiled(filter: &Filter) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        filter.calls.iter().map(|call| (*call, vec![])).collect();
    let of = |family: &u64| {
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *family)?;
        SeccompRule::new(vec![is])
    };
    rules.insert(libc::SYS_socket, filter.families.iter().map(of).collect::<Result<_, _>>()?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter =
        SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}
