//! Ebb.
fn main() {}
