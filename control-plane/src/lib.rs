//! Ebb.

pub mod address;
