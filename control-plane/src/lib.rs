//! Ebb: gRPC control plane, supervisor and command line.
//!
//! | module | what |
//! |---|---|
//! | `core` | the pure core: everything that is known and decided |

pub mod core;
pub mod engine;
pub mod store;
