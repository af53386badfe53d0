//! One look at one size: `lab-scale SOURCES SECONDS`, answers with figures in JSON. `cargo xtask bench scale` calls it.
//!
//! SECONDS is how long the idle agent's CPU is measured; 0: not at all.

use anyhow::{Context, Result};
use mailsteer_tests::scale;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |what| -> Result<u64> {
        let text = args.next().with_context(|| format!("how many {what}?"))?;
        text.parse().with_context(|| format!("{text} {what}"))
    };
    let figures = scale::measure(u32::try_from(number("sources")?)?, number("seconds")?)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
