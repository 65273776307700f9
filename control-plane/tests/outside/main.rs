//! What `ebb::outside` sees of real Envoys, in each of the versions that are supported.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod delivery;
mod envoy;
mod sessions;
mod upstreams;
