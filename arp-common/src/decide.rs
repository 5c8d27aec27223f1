//! Whether the kernel would answer a request just so, and leave its neighbour table as it is. If anything in that
//! is not known for certain, the verdict is to pass.
//!
//! The order follows `arp_process` (net/ipv4/arp.c) and `ip_route_input` (net/ipv4/route.c); docs/semantics.md has
//! the table, with the test of each row.

use crate::fib::LeafKind;
use crate::lladdr::Lladdr;
use crate::maps::{Iface, IfaceAddr, Oif};
use crate::packed::PackedArp;
use crate::reason::Reason;
use crate::tables::{Tables, lookup, lookup_in};

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the reply that carries this link-layer address.
    Reply(Lladdr),
    /// Hand the frame up, untouched.
    Pass(Reason),
}

/// Decides on a frame of EtherType ARP that came in on `ingress`.
#[inline(always)]
pub fn decide(frame: &PackedArp, ingress: u32, tables: &impl Tables) -> Verdict {
    let sequence = tables.sequence();
    if sequence & 1 != 0 {
        return Verdict::Pass(Reason::UPDATING);
    }
    match decide_unbracketed(frame, ingress, tables) {
        // A batch that was written meanwhile may have shown us half of itself.
        Verdict::Reply(_) if tables.sequence_after() != sequence => Verdict::Pass(Reason::UPDATING),
        verdict => verdict,
    }
}

#[inline(always)]
fn decide_unbracketed(frame: &PackedArp, ingress: u32, tables: &impl Tables) -> Verdict {
    if !frame.is_ipv4_over_ethernet() {
        return Verdict::Pass(Reason::BAD_HEADER);
    }
    if !frame.is_request() {
        return Verdict::Pass(Reason::NOT_REQUEST);
    }
    if !tables.lease_is_valid() {
        return Verdict::Pass(Reason::LEASE_EXPIRED);
    }
    if !tables.settings_are_read() {
        return Verdict::Pass(Reason::SETTING_WRITTEN);
    }
    let Some(iface) = tables.iface(ingress) else {
        return Verdict::Pass(Reason::INTERFACE_UNKNOWN);
    };
    if iface.blocked != 0 {
        return Verdict::Pass(Reason::from_raw(u32::from(iface.blocked)));
    }

    let mac = iface.lladdr();
    let to_us = frame.dst() == mac;
    if !to_us && !frame.dst().is_group() {
        return Verdict::Pass(Reason::OTHER_DESTINATION);
    }
    let (spa, tpa) = (frame.spa(), frame.tpa());
    if is_special(tpa) || tpa == [0; 4] {
        return Verdict::Pass(Reason::SPECIAL_TARGET);
    }

    // A probe asks the local table alone: no sender, no neighbour, no proxying, and no rules that its view could share.
    if spa == [0; 4] {
        let route = lookup_in(tables, iface.probe_view, tpa);
        return if !matches!(route.kind(), LeafKind::Local) || route.is_elsewhere() {
            Verdict::Pass(Reason::PROBE_NOT_LOCAL)
        } else if may_answer_local(&iface, ingress, tpa, tables) {
            Verdict::Reply(mac)
        } else {
            Verdict::Pass(Reason::ARP_IGNORE)
        };
    }

    if is_special(spa) {
        return Verdict::Pass(Reason::SPECIAL_SENDER);
    }
    if spa == tpa {
        return Verdict::Pass(Reason::ANNOUNCEMENT);
    }
    let Some(neighbour) = tables.neighbour(IfaceAddr { ifindex: ingress, addr: spa }) else {
        return Verdict::Pass(Reason::NEIGHBOUR_UNKNOWN);
    };
    if !neighbour.is_fixed() {
        if neighbour.lladdr() != frame.sha() {
            return Verdict::Pass(Reason::NEIGHBOUR_DIFFERS);
        }
        if neighbour.is_doubted() {
            return Verdict::Pass(Reason::NEIGHBOUR_DOUBTED);
        }
    }

    let route = lookup(tables, neighbour.view(), tpa);
    if !neighbour.is_accepted(route.differs()) {
        return Verdict::Pass(Reason::SENDER_ROUTE);
    }
    match route.kind() {
        LeafKind::None => return Verdict::Pass(Reason::NO_ROUTE),
        LeafKind::Unanswerable => return Verdict::Pass(Reason::UNANSWERABLE_ROUTE),
        LeafKind::Opaque | LeafKind::Fall => return Verdict::Pass(Reason::OPAQUE_ROUTE),
        LeafKind::OpaqueRule => return Verdict::Pass(Reason::OPAQUE_RULE),
        LeafKind::Local => {
            return if route.is_elsewhere() && iface.has(Iface::ARP_FILTER) {
                Verdict::Pass(Reason::ARP_FILTER)
            } else if may_answer_local(&iface, ingress, tpa, tables) {
                Verdict::Reply(mac)
            } else {
                Verdict::Pass(Reason::ARP_IGNORE)
            };
        }
        LeafKind::Unicast => {}
    }

    if !iface.has(Iface::FORWARDING) {
        return Verdict::Pass(Reason::FORWARDING_OFF);
    }
    let oif = match tables.oif(route.slot()) {
        Some(oif) if oif.ifindex != 0 => oif,
        _ => return Verdict::Pass(Reason::OPAQUE_ROUTE),
    };
    // Whether the request goes back to where it came from is a matter of the next hop that the kernel takes.
    if oif.is_several() && iface.has(Iface::NEXT_HOP) {
        return Verdict::Pass(Reason::OPAQUE_ROUTE);
    }
    let mut by_static_proxy = false;
    if oif.ifindex == ingress {
        if !iface.has(Iface::PVLAN) {
            return Verdict::Pass(Reason::PVLAN_OFF);
        }
    } else if !(iface.has(Iface::PROXY_ARP) && medium_allows(iface.medium_id, oif)) {
        if !(iface.has(Iface::HAS_PROXIES) && is_static_proxy(ingress, tpa, tables)) {
            let off = if iface.has(Iface::PROXY_ARP) { Reason::MEDIUM_ID } else { Reason::PROXY_ARP_OFF };
            return Verdict::Pass(off);
        }
        by_static_proxy = true;
    }
    if !to_us && iface.has(Iface::DELAYED) {
        return Verdict::Pass(Reason::PROXY_DELAY);
    }
    if by_static_proxy && !tables.proxies_are_confirmed() {
        return Verdict::Pass(Reason::PROXY_UNCONFIRMED);
    }
    Verdict::Reply(mac)
}

/// Multicast, loopback or 255.255.255.255: addresses that `ip_route_input` treats apart.
#[inline(always)]
fn is_special(addr: [u8; 4]) -> bool {
    addr[0] & 0xf0 == 0xe0 || addr[0] == 127 || addr == [0xff; 4]
}

/// Whether `arp_ignore` (net/ipv4/arp.c) surely lets the interface answer for a local target.
#[inline(always)]
fn may_answer_local(iface: &Iface, ingress: u32, tpa: [u8; 4], tables: &impl Tables) -> bool {
    iface.has(Iface::LOCAL_ALWAYS)
        || iface.has(Iface::LOCAL_OWN) && tables.owned(IfaceAddr { ifindex: ingress, addr: tpa })
}

/// `pneigh_lookup`: an entry on the ingress interface, or one without an interface.
#[inline(always)]
fn is_static_proxy(ingress: u32, tpa: [u8; 4], tables: &impl Tables) -> bool {
    tables.proxied(IfaceAddr { ifindex: ingress, addr: tpa }) || tables.proxied(IfaceAddr { ifindex: 0, addr: tpa })
}

/// `arp_fwd_proxy` (net/ipv4/arp.c): an ingress id of 0 allows all, -1 nothing; else the ids must differ, and the
/// outgoing one must not be -1. Of several interfaces with different ids nobody knows which one it is.
#[inline(always)]
const fn medium_allows(ingress: i32, out: Oif) -> bool {
    match ingress {
        0 => true,
        -1 => false,
        _ => out.medium_id != ingress && out.medium_id != -1 && out.ifindex != Oif::MIXED,
    }
}

#[cfg(test)]
mod order;
#[cfg(test)]
mod tests;
