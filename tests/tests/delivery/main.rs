//! An Envoy under `ebb run` is stopped only when its clients have what it has sent them: slow readers, who count their bytes.
#![allow(clippy::indexing_slicing)] // JSON values

mod mirrors;
mod readers;
mod world;

use anyhow::Result;

use crate::world::{Admin, Wire, every_byte_arrives};

/// One test for each: with Envoy's admin endpoint, and without.
macro_rules! every_byte {
    ($($name:ident: $wire:expr),+ $(,)?) => {
        $(mod $name {
            use super::*;

            #[tokio::test]
            async fn with_an_admin_endpoint() -> Result<()> {
                every_byte_arrives($wire, Admin::Yes).await
            }

            #[tokio::test]
            async fn without_an_admin_endpoint() -> Result<()> {
                every_byte_arrives($wire, Admin::No).await
            }
        })+
    };
}

every_byte!(
    http1: Wire::Http1,
    http2: Wire::Http2,
    http2_with_large_windows: Wire::Http2LargeWindows,
    tls: Wire::Tls,
);
