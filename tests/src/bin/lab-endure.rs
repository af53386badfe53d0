//! Endurance: `lab-endure CONNECTIONS SEED`, answers with the account in JSON. `cargo xtask endure` calls it.

use anyhow::{Context, Result};
use mailsteer_tests::endurance;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |what| -> Result<u64> {
        let text = args.next().with_context(|| format!("which {what}?"))?;
        text.parse().with_context(|| format!("{text}: {what}"))
    };
    let account = endurance::run(usize::try_from(number("number of connections")?)?, number("seed")?)?;
    println!("{}", serde_json::to_string(&account)?);
    Ok(())
}
