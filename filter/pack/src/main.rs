//! Pack.
fn main() {}
