//! Measures from inside a pod who answers how fast: a [`Requester`] asks and waits for the replies, a [`Flood`] only
//! asks, a [`Stand`] is a pod with its [`Responder`]; [`quantile`] and [`Spread`] summarise the times. The benchmarks
//! of `cargo xtask bench` and the demonstration of `cargo xtask run` use it.

mod flood;
mod requester;
mod responder;
mod sample;
pub mod units;

pub use flood::{Flood, Flooded};
pub use requester::{BURST, InFlight, Requester};
pub use responder::{DEFAULT_DELAY, KERNEL, Responder, Stand, Subject, gro, received, settled, stands};
pub use sample::{Quartiles, Spread, quantile};
