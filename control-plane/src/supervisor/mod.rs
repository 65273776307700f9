//! The supervisor: starts processes in dependency order, keeps them, and stops them in the order that keeps everything a
//! request still needs alive.
//!
//! | file | what |
//! |---|---|
//! | `plan`, `machine` | the pure core: who may start or stop when |
//! | `driver`, `handle`, `tell` | the task that drives it, and what others see of it |
//! | `process`, `spawner`, `attach` | processes that Ebb starts, and those that it does not |
//! | `probe`, `http`, `admin` | readiness checks and Envoy's admin endpoint |
//! | `drains`, `evidence`, `arrivals` | the drains of a shutdown, and waiting for traffic to end, or to be turned away |
//! | `checkup` | whether a proxy that is ready can be drained as it is configured |
//! | `cut` | what a wait has left, and what the shutdown cut in the end |
//! | `succession`, `survivors`, `marked` | what a dead run left: which process stops when, pure, and the stopping |
//! | `health` | `/ready` and `/live` over HTTP |
//! | `output` | what processes print |
//! | `signals` | signals to Ebb itself |
//! | `run` | all of it together: `ebb run` |

pub mod admin;
mod arrivals;
pub mod attach;
mod checkup;
pub mod cut;
pub mod drains;
mod driver;
pub mod evidence;
pub mod handle;
pub mod health;
pub mod http;
pub mod machine;
mod marked;
pub mod output;
pub mod owing;
pub mod plan;
pub mod probe;
pub mod process;
mod run;
pub mod signals;
mod spawner;
pub mod succession;
pub mod survivors;
pub mod tell;

pub use driver::{Ended, Supervisor};
pub use handle::{Handle, Status, Told};
pub use run::run;
