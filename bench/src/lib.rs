//! Measuring who answers how fast, from inside a pod: [`Requester`] asks, [`Flood`] only asks, a [`Stand`] has one
//! [`Responder`] ready; [`quantile`] and [`Spread`] are what is made of it. The benchmarks of `cargo xtask bench` and the
//! demonstration of `cargo xtask run` use it.

mod flood;
mod requester;
mod responder;
mod sample;
pub mod units;

pub use flood::{Flood, Flooded};
pub use requester::{BURST, InFlight, Requester};
pub use responder::{DEFAULT_DELAY, KERNEL, Responder, Stand, Subject, gro, received, stands};
pub use sample::{Quartiles, Spread, quantile};
