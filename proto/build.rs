//! Compiles the `.proto` files with protox, a compiler in pure Rust, so that no `protoc` needs to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/peer.proto",
        "proto/control.proto",
        "proto/supervision.proto",
        "proto/archive.proto",
        "proto/rollout.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // `pgctl -o json` prints these messages as they are, in an order that never changes.
        .type_attribute(".pgctl.control.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".pgctl.archive.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".pgctl.rollout.v1", "#[derive(serde::Serialize)]")
        .btree_map(".pgctl.control.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
