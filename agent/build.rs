//! Compiles the gRPC definition. `protox` is a protobuf compiler in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

use anyhow::Context as _;
use prost::Message as _;

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto/mailsteer/v1/mailsteer.proto");
    let descriptors = protox::compile(["mailsteer/v1/mailsteer.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    std::fs::write(out.join("mailsteer.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
