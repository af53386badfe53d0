//! Bursts of connections or datagrams as another user: `lab-burst UID`; what is asked for in JSON on each line of its input,
//! what came of it on each line of its output. `lab-connect` calls it.

use anyhow::{Context, Result};
use mailsteer_tests::connect;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

fn main() -> Result<()> {
    let uid: u32 = std::env::args().nth(1).context("which user?")?.parse()?;
    // Before the first socket: the kernel remembers who made it.
    setgroups(&[])?;
    setgid(Gid::from_raw(uid))?;
    setuid(Uid::from_raw(uid))?;
    for line in std::io::stdin().lines() {
        let done = connect::run_burst(&serde_json::from_str(&line?)?)?;
        println!("{}", serde_json::to_string(&done)?);
    }
    Ok(())
}
