//! The Proxy-Wasm filter of Ebb. It counts requests in flight per listener, and while its listener drains it marks
//! responses so that Envoy closes their connections.
//!
//! One Wasm VM runs per Envoy worker. Everything a VM decides is plain Rust in [`vm`] and the modules below it: events
//! and the time go in, [`session::Effect`]s come out. Only `host` knows Proxy-Wasm, on top of `hostcalls`; both are
//! compiled for wasm32 alone.
//!
//! - [`config`]: the plugin configuration of one listener or cluster, validated.
//! - [`request`]: what one HTTP stream, or one attempt of it, counts and where.
//! - [`counts`]: the counters of a listener, and the guard that a request in flight holds.
//! - [`upstreams`]: the same for upstream endpoints and attempts.
//! - [`blockers`]: the oldest requests in flight, as far as they may be shown.
//! - [`closing`]: which responses have to close their connection.
//! - [`session`]: the one stream of a VM to the control plane.
//! - [`vm`]: the root contexts of a VM, and which of them owns the stream.
//! - [`vms`]: the list in which the VMs of an Envoy process name themselves.
//!
//! Time is a [`std::time::Duration`] since an arbitrary origin, by a monotonic clock.

pub mod blockers;
pub mod closing;
pub mod config;
pub mod counts;
pub mod grpc_service;
pub mod identity;
pub mod pacing;
pub mod request;
pub mod session;
pub mod upstreams;
pub mod vm;
pub mod vms;

#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(target_arch = "wasm32")]
mod hostcalls;

/// Response header that tells the closer, the next filter on the way out, to close the connection and to remove it.
/// The closer stands right before this filter in `http_filters`, and both before all other filters.
pub const MARK: &str = "x-ebb-close";
