//! Ebb.

pub mod address;
pub mod cli;
