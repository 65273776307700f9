//! What is fuzzed: each target takes bytes, has the control plane's core do what they say, and panics where it does not keep
//! to what always holds. cargo-fuzz finds the bytes (`make fuzz`), and a test draws some.
//!
//! | file | what |
//! |---|---|
//! | `input` | bytes, taken apart |
//! | `watched` | the core, and what always holds of it |
//! | `attach` | what filters and Envoys may say, in any order |
//! | `stored` | records of the durable store, whatever is in them |

pub mod attach;
mod input;
pub mod stored;
mod watched;
