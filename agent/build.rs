//! Compiles the gRPC definition. `protox` is a protobuf compiler in Rust, so that no `protoc` is needed.

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto/mailsteer/v1/mailsteer.proto");
    let descriptors = protox::compile(["mailsteer/v1/mailsteer.proto"], ["proto"])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
