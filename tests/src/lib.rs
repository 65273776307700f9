//! Harness of the end-to-end tests and of the demo: a real Envoy, a real control plane, an upstream that behaves as
//! a path says, and clients that hide nothing.
//!
//! Everything that is started is a guard: dropping it kills it, waits for its end, and prints the tail of its log
//! (test runners show that for failed tests only). Ports are never fixed: what can binds port 0, and Envoy is asked.

pub mod admin;
pub mod api;
pub mod bins;
pub mod bootstrap;
pub mod cli;
pub mod client;
pub mod demo;
pub mod disk;
pub mod ebb;
pub mod envoy;
pub mod fake_control;
pub mod fake_filter;
pub mod gateway;
pub mod haproxy;
pub mod load;
pub mod ports;
pub mod process;
pub mod relay;
pub mod stalls;
pub mod upstream;
pub mod vms;
pub mod wait;
pub mod world;

/// Makes two tests of each `async fn name(EnvoyVersion) -> Result<()>`: one per supported Envoy.
#[macro_export]
macro_rules! on_both_envoys {
    ($($name:ident),+ $(,)?) => {
        mod envoy_1_40 {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name($crate::bins::EnvoyVersion::V1_40).await
            })+
        }
        mod envoy_1_37 {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name($crate::bins::EnvoyVersion::V1_37).await
            })+
        }
    };
}
