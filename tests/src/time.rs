//! The time of day as the agent takes it: Debian's libfaketime stands between.
//!
//! Owns: setting it. Must not: touch the machine's clock, or those clocks that nobody can set.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::lab::Lab;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// What the agent takes for the time of day.
#[derive(Debug)]
pub struct Time {
    file: PathBuf,
}

impl Time {
    /// From the agent's next start on. Its shared memory is the agent's own, so that none is left behind.
    ///
    /// # Errors
    /// When libfaketime is not there.
    pub fn give(lab: &Lab, agent: &mut Agent) -> Result<Self> {
        let time = Self { file: lab.dir().join("time") };
        time.is("+0d")?;
        let script = "mount -t tmpfs mailsteer-lab /dev/shm && exec \"$@\"";
        agent.set_wrapper(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        agent.set_wrapper_within([
            "env".to_owned(),
            format!("LD_PRELOAD={}", library()?.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", time.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]);
        Ok(time)
    }

    /// So far from the true time, from the agent's next look on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn is(&self, offset: &str) -> Result<()> {
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{offset}\n"))?;
        Ok(fs::rename(next, &self.file)?)
    }
}

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
    folders.into_iter().find(|path| path.exists()).context("no libfaketime: cargo xtask setup installs it")
}
