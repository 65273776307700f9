//! The supervisor: starts processes in dependency order, keeps them, and stops them in the order that keeps everything a
//! request still needs alive.

pub mod machine;
pub mod plan;
