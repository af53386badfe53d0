//! Unpacks the MTAs of the lab, and says where: for a machine that has no network.

fn main() -> anyhow::Result<()> {
    for folder in mailsteer_tests::mta::unpack_all()? {
        println!("{}", folder.display());
    }
    Ok(())
}
