//! The ordered shutdown of a real gateway: an Envoy that asks a policy engine about every request, which asks a Python
//! executor; under `ebb run`, from the shipped `envoy-config/ebb.toml`.

mod admin;
mod arrivals;
mod checkup;
mod cut;
mod grace;
mod last_look;
mod left;
mod order;
mod pair;
mod pid1;
mod rolling;
mod signals;
mod world;
