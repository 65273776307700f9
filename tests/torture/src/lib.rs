//! Torture: drains of real Envoys under drawn faults, judged by a witness that is not Ebb.
//!
//! A [`schedule`] is drawn from a seed. It is played in a [`world`] of real Envoys and a real `ebb serve`, round by round
//! ([`round`]): [`clients`] send requests, [`drains`] are asked for, [`faults`] happen, a [`stranger`] lies. The upstream is
//! the [`witness`]: from its own sockets, it knows what it holds. What was seen is a [`journal`], and the [`judge`], which is
//! pure, says which promises were not kept. What a drain has to wait for is written down in [`judge::scope`].
//!
//! | path | what |
//! |---|---|
//! | `schedule/` | pure: what is done, as data; drawing it; printing it |
//! | `journal/` | what was seen, and its timeline |
//! | `judge/` | pure: a file per rule, and the scope of drains |
//! | `witness/` | the upstreams, `tcp_proxy`'s upstream, the ext_authz service, and what they hold |
//! | `world/` | the processes |
//! | `clients/` | HTTP/1.1, HTTP/2, TLS, TCP; readers that are slow |
//! | `drains/`, `faults.rs`, `stranger.rs`, `crowd.rs` | carrying out a plan |
//! | `round.rs`, `play.rs` | a round, and a run |
//! | `clock.rs` | the clock of a run, and the stalls of the machine |
//! | `figures.rs` | the one line at the end |

pub mod clients;
pub mod clock;
mod crowd;
pub mod drains;
pub mod faults;
pub mod figures;
pub mod journal;
pub mod judge;
pub mod play;
pub mod round;
pub mod schedule;
pub mod stranger;
pub mod witness;
pub mod world;
