//! The agent's view of the program's clock: leases are in jiffies, which userspace cannot read.

use crate::tables::tell_time;
use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Writes the time into `GLOBAL`. The agent runs it by BPF_PROG_TEST_RUN; it is attached to nothing.
#[xdp]
pub(crate) fn arp_clock(_ctx: XdpContext) -> u32 {
    tell_time();
    xdp_action::XDP_PASS
}
