//! What steering costs at one size: `lab-connect SOURCES PAIRS SEED`, answers in JSON. `cargo xtask bench connect` calls it.

use anyhow::{Context, Result};
use mailsteer_tests::connect;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |what| -> Result<u64> {
        let text = args.next().with_context(|| format!("which {what}?"))?;
        text.parse().with_context(|| format!("{text}: {what}"))
    };
    let (sources, pairs) = (u32::try_from(number("sources")?)?, usize::try_from(number("pairs")?)?);
    println!("{}", serde_json::to_string(&connect::measure(sources, pairs, number("seed")?)?)?);
    Ok(())
}
