//! `all` against the interface's own values.

use crate::matrix::Ask::For;
use crate::matrix::Expect::{Fast, Silent};
use crate::matrix::{Expect, L, X, Y, ask, rows, when};

const PROXY_OFF: Expect = Silent("proxy_arp_off");
const PVLAN_OFF: Expect = Silent("pvlan_off");
const FORWARDING_OFF: Expect = Silent("forwarding_off");

rows! {
    proxy_arp_is_on_where_either_says_so: [
        when(&["all.proxy_arp=0", "v0.proxy_arp=0"], For(X), PROXY_OFF), ask(For(Y), PVLAN_OFF),
        when(&["v0.proxy_arp=1"], For(X), Fast), ask(For(Y), PVLAN_OFF),
        when(&["all.proxy_arp=1", "v0.proxy_arp=0"], For(X), Fast), ask(For(Y), PVLAN_OFF),
        when(&["v0.proxy_arp=1"], For(X), Fast), ask(For(Y), PVLAN_OFF),
    ];
    pvlan_is_on_where_either_says_so: [
        when(&["v0.proxy_arp=0"], For(Y), PVLAN_OFF), ask(For(X), PROXY_OFF),
        when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast), ask(For(X), PROXY_OFF),
        when(&["all.proxy_arp_pvlan=1", "v0.proxy_arp_pvlan=0"], For(Y), Fast), ask(For(X), PROXY_OFF),
        when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast), ask(For(X), PROXY_OFF),
    ];
    // A local target needs none.
    forwarding_is_the_interfaces_own_and_all_rewrites_it: [
        when(&["all.forwarding=1"], For(X), Fast), ask(For(L), Fast),
        when(&["v0.forwarding=0"], For(X), FORWARDING_OFF), ask(For(L), Fast),
        when(&["u0.forwarding=0", "v0.forwarding=1"], For(X), Fast), ask(For(L), Fast),
        when(&["all.forwarding=0"], For(X), FORWARDING_OFF), ask(For(L), Fast),
        when(&["v0.forwarding=1"], For(X), Fast), ask(For(L), Fast),
    ];
    forwarding_off_ends_pvlan_too: [when(&["v0.proxy_arp_pvlan=1", "v0.forwarding=0"], For(Y), FORWARDING_OFF)];
}
