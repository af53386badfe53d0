//! How fast a failing source loses its traffic: `lab-failover FAULT TRIALS SOURCES`, answers in JSON. `cargo xtask bench failover`
//! calls it. SOURCES are those besides the four that matter; with any there are 64 lanes.

use anyhow::{Context, Result};
use mailsteer_tests::failover::{Fault, Place};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [fault, trials, sources] = &args[..] else {
        anyhow::bail!("which fault, how many trials, how many sources besides?");
    };
    let fault: Fault =
        serde_json::from_value(serde_json::Value::String(fault.clone())).context("which fault?")?;
    let trials: usize = trials.parse().context("how many trials?")?;
    let mut place = Place::new(sources.parse().context("how many sources?")?)?;
    let trials = (0..trials).map(|_| place.trial(fault)).collect::<Result<Vec<_>>>()?;
    place.close()?;
    println!("{}", serde_json::to_string(&trials)?);
    Ok(())
}
