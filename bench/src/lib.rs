//! Measuring who answers how fast, from inside a pod: [`Requester`] asks, [`Flood`] only asks; [`quantile`] and [`Spread`]
//! are what is made of it. The benchmarks of `cargo xtask bench` and the demonstration of `cargo xtask run` use it.

mod flood;
mod format;
mod requester;
mod sample;

pub use flood::{Flood, Flooded};
pub use format::number;
pub use requester::{BURST, InFlight, Requester};
pub use sample::{Spread, quantile};
