//! Two nodes built alike, down to the indexes of their interfaces: one with the kernel alone, one with the kernel and
//! the fast path. The same steps are done to both, the same frames sent to both, and what they do is compared: the
//! frames that come back, and the neighbour tables.
//!
//! Differences between two kernels alone are avoided: nothing here waits for a timer. The neighbours' timers are hours
//! long; `locktime` is endless or 0; `proxy_delay` is 0, or longer than any run (then an answer counts as silence); the
//! multipath hash has the same seed on both.

mod frames;
mod play;
mod script;
mod side;

pub use frames::Frame;
pub use play::{Divergence, FastPath, FrameBatch, Pair, Seen};
pub use script::{Script, ScriptStep};
pub use side::{NODE_MAC, PORTS, stillness};
