//! The wire contract of Ebb, generated from `proto/ebb/v1/*.proto`.
//!
//! The filter uses the messages alone; the control plane and its clients turn on the feature `service` for the
//! gRPC stubs. The `.proto` files are the reference: every field says there what it means and in which unit.

#[cfg(feature = "service")]
mod codec;

#[allow(missing_docs, unreachable_pub, clippy::all)]
/// Version 1 of every message and service.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/ebb.v1.rs"));
}

/// Serialized `FileDescriptorSet` of all files, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ebb_descriptor.bin"));
