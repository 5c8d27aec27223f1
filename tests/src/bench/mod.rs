//! Measuring who answers how fast, from inside a pod: [`Asker`] asks, [`compare()`] lets responders take turns, [`Flood`] only
//! asks.

mod asker;
mod compare;
mod flood;
mod format;
mod sample;

pub use asker::{Asker, BURST, InFlight};
pub use compare::{Comparison, Responder, Slice, TURNS, compare};
pub use flood::{Flood, Flooded};
pub use format::number;
pub use sample::{Spread, quantile};
