//! Measuring who answers how fast, from inside a pod: [`Requester`] asks, [`compare()`] lets responders take turns, [`Flood`] only
//! asks.

mod compare;
mod flood;
mod format;
mod requester;
mod sample;

pub use compare::{Comparison, Responder, Slice, TURNS, compare};
pub use flood::{Flood, Flooded};
pub use format::number;
pub use requester::{BURST, InFlight, Requester};
pub use sample::{Spread, quantile};
