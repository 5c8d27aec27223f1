//! Whether the kernel follows routes by an interface, for certain.

use super::snapshot::{IFF_UP, Snapshot};
use crate::event::Settings;
use nix::libc;

const IFF_RUNNING: u32 = libc::IFF_RUNNING as u32;

/// Whether the kernel follows a route with these next hops, and surely the one that the mirror has. It skips the route only
/// where all of them are dead.
pub(super) fn is_followed_by(snapshot: &Snapshot, legs: &[u32]) -> bool {
    legs.iter().all(|&ifindex| followed(snapshot, ifindex).is_some())
        && legs.iter().any(|&ifindex| is_usable(snapshot, ifindex))
}

/// The IPv4 settings of an interface that is followed, and that has not lost routes.
pub(super) fn followed(snapshot: &Snapshot, ifindex: u32) -> Option<Settings> {
    let untrusted = [&snapshot.doubted, &snapshot.stale, &snapshot.flapping];
    if untrusted.iter().any(|untrusted| untrusted.contains(&ifindex)) {
        return None;
    }
    snapshot.links.get(&ifindex)?.settings
}

/// Whether the kernel follows routes by the interface (`fib_lookup_good_nhc`, net/ipv4/fib_trie.c, 6.18).
pub(super) fn is_usable(snapshot: &Snapshot, ifindex: u32) -> bool {
    let Some(link) = snapshot.links.get(&ifindex) else { return false };
    let (Some(own), Some(all)) = (link.settings, snapshot.all) else { return false };
    let ignores_linkdown = all.ignore_routes_with_linkdown != 0 || own.ignore_routes_with_linkdown != 0;
    let has_carrier = link.carrier && link.flags & IFF_RUNNING != 0;
    link.flags & IFF_UP != 0 && (has_carrier || !ignores_linkdown)
}
