//! Compiles `ebb/v1/*.proto` with `protox`, so that nobody needs an installed protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 4] = [
    "ebb/v1/filter.proto",
    "ebb/v1/drain.proto",
    "ebb/v1/fleet.proto",
    "ebb/v1/process.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=ebb");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Read by gRPC server reflection.
    fs::write(out.join("ebb_descriptor.bin"), descriptors.encode_to_vec())?;
    let service = env::var_os("CARGO_FEATURE_SERVICE").is_some();
    tonic_prost_build::configure()
        .build_client(service)
        .build_server(service)
        .codec_path("crate::codec::ProstCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
