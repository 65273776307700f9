//! Ebb: gRPC control plane, supervisor and command line.
//!
//! | module | what |
//! |---|---|
//! | `address` | where a gRPC server listens and where a client finds it |
//! | `cli` | the command line |
//! | `config` | the configuration file of `ebb run` and `ebb serve` |
//! | `core` | the pure core: everything that is known and decided |
//! | `engine` | the one task that owns the core, and the handle to it |
//! | `envoy_config` | the Envoy configuration that puts the filter into a listener |
//! | `late_sync` | the store's file: written at once, on disk a moment later |
//! | `limits` | how many connections there may be |
//! | `local` | processes of this machine, as `/proc` tells of them |
//! | `outside` | what an Envoy owes its clients, as it is seen from outside of its filters |
//! | `serve` | the gRPC services and the sockets they are on |
//! | `socket` | Unix sockets, and accepting on whatever is bound |
//! | `store` | what is kept over restarts |
//! | `supervisor` | processes: started, kept and stopped in order |
//! | `text` | texts from elsewhere, made fit for a terminal or a log |

pub mod address;
pub mod cli;
pub mod config;
pub mod core;
pub mod engine;
pub mod envoy_config;
mod late_sync;
pub mod limits;
pub mod local;
pub mod outside;
pub mod serve;
mod socket;
pub mod store;
pub mod supervisor;
mod text;
