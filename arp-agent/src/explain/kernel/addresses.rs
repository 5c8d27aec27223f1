//! Targets that are the node's own: `arp_ignore` and `arp_filter` (net/ipv4/arp.c, 6.18).

use super::settings::InterfaceSetting;
use super::{Answer, Cause, Destination, Kernel, KernelVerdict, answers, open, silent};
use crate::event::{Address, Link, LocalAndMain, Route, RouteKind};
use crate::kernel::LookedUp;
use crate::mirror::routes::TABLE_LOCAL;
use crate::mirror::walk::{End, LOOPBACK};
use crate::prefix::Prefix;
use arp_common::maps::IfaceAddr;
use arp_common::{Lladdr, Reason, settings as names};
use std::net::Ipv4Addr;

impl Kernel<'_> {
    /// The target is the node's own, and the sender is accepted; 0.0.0.0 probes.
    pub(super) fn local(
        &self,
        link: &Link,
        target: Ipv4Addr,
        sender: Ipv4Addr,
        destination: &Destination<'_>,
    ) -> KernelVerdict {
        if let Some(verdict) = self.ignored(link, target, sender) {
            return verdict;
        }
        let filter = InterfaceSetting::of(self.snapshot, link, names::ARP_FILTER);
        if !sender.is_unspecified()
            && filter.is_on()
            && let Some(verdict) = self.filters(link, target, sender, &filter, destination.route)
        {
            return verdict;
        }
        let is_known =
            self.snapshot.neighbours.contains_key(&IfaceAddr { ifindex: link.ifindex, addr: sender.octets() });
        if self.beyond.table_full && !is_known && !sender.is_unspecified() {
            let what = "the neighbour table of the machine is full: the kernel answers for own addresses only if it finds room \
                for the sender";
            return open(
                Reason::NEIGHBOUR_UNKNOWN,
                Cause::new("neighbour", what).at("sysctl net.ipv4.neigh.default.gc_thresh3"),
            );
        }
        answers(link, self.own(target, destination))
    }

    /// Why the target is the node's own.
    fn own(&self, target: Ipv4Addr, destination: &Destination<'_>) -> Cause {
        let holders = self.snapshot.addresses.iter().filter(|address| address.local == target);
        let holders: Vec<String> = holders.map(|address| super::interface(self.snapshot, address.ifindex)).collect();
        if !holders.is_empty() {
            let what = format!("{target} is an address of this node, on {}", holders.join(" and "));
            return Cause::new("address", what).at(format!("ip addr show to {target}"));
        }
        match destination.route {
            Some(route) => {
                self.route_cause(destination.rule, route, &format!("makes {target} an address of this node"))
            }
            None => Cause::new("address", format!("{target} is an address of this node"))
                .at(format!("ip route get {target}")),
        }
    }

    /// `arp_ignore`, if it lets the interface not answer.
    fn ignored(&self, link: &Link, target: Ipv4Addr, sender: Ipv4Addr) -> Option<KernelVerdict> {
        let ignore = InterfaceSetting::of(self.snapshot, link, names::ARP_IGNORE);
        let no = |so: String| Some(silent(Reason::ARP_IGNORE, ignore.cause(&so)));
        let name = &link.name;
        let of = |ifindex: u32| {
            let of = move |address: &&Address| address.ifindex == ifindex;
            self.snapshot.addresses.iter().filter(of)
        };
        let subnets = |ifindex| of(ifindex).map(|address| Prefix::new(address.peer.octets(), address.prefix_len));
        let covers = |subnet: &Prefix| subnet.contains(target.into());
        let elsewhere =
            self.snapshot.addresses.iter().find(|address| address.local == target && address.ifindex != link.ifindex);
        let owner =
            elsewhere.map(|address| format!(" (it is on {})", super::interface(self.snapshot, address.ifindex)));
        let owner = owner.unwrap_or_default();
        match ignore.value() {
            8 => no(format!("so {name} answers for no own address")),
            1 | 2 => {
                if !of(link.ifindex).any(|address| address.local == target) {
                    return no(format!(
                        "so {name} answers for its own addresses only, and {target} is none of them{owner}"
                    ));
                }
                if !subnets(link.ifindex).any(|subnet| covers(&subnet)) {
                    return no(format!("and {target} lies in no subnet of {name} (it is given with a peer)"));
                }
                let covers_both = |subnet: Prefix| covers(&subnet) && subnet.contains(sender.into());
                if ignore.value() == 2 && !sender.is_unspecified() && !subnets(link.ifindex).any(covers_both) {
                    return no(format!("and {sender} is in no subnet of {name} together with {target}"));
                }
                None
            }
            3 => {
                let counts = |address: &&Address| {
                    let localnet =
                        self.snapshot.links.get(&address.ifindex).is_some_and(|link| {
                            InterfaceSetting::of(self.snapshot, link, names::ROUTE_LOCALNET).is_on()
                        });
                    let is_wide = !self.beyond.host_addresses.contains(&(address.ifindex, address.local));
                    address.local == target
                        && (localnet || is_wide)
                        && subnets(address.ifindex).any(|subnet| covers(&subnet))
                };
                if self.snapshot.addresses.iter().any(|address| counts(&address)) {
                    return None;
                }
                no(format!("and {target} is no address of a scope wider than the host's"))
            }
            _ => None,
        }
    }

    /// `arp_filter`, if it refuses: the route back to the sender must leave by this interface.
    fn filters(
        &self,
        link: &Link,
        target: Ipv4Addr,
        sender: Ipv4Addr,
        filter: &InterfaceSetting<'_>,
        route: Option<&Route>,
    ) -> Option<KernelVerdict> {
        let no = |so: String| Some(silent(Reason::ARP_FILTER, filter.cause(&so)));
        let is_address = self.snapshot.addresses.iter().any(|address| address.local == target);
        if !is_address && route.is_some_and(|route| route.table != TABLE_LOCAL) {
            if self.snapshot.rules.are_default() && self.snapshot.local_and_main != Some(LocalAndMain::Split) {
                let so = format!("and {target} is local in another table than local, which may be one with it");
                return Some(open(Reason::ARP_FILTER, filter.cause(&so)));
            }
            return no(format!("and {target} is local in another table than local, where arp_filter does not look"));
        }
        // The way out is looked up by the VRF, and since 6.15 a rule can ask for that in `oif`.
        let vrf = link.master.filter(|_| self.snapshot.vrf_of(link.ifindex).is_some());
        let is_known = vrf.is_none() || !self.snapshot.rules.ask_for_oif();
        match is_known.then(|| self.snapshot.walk_back(link.ifindex, LOOPBACK, target, sender)) {
            Some(End::NoRoute | End::Refused(..)) => no(format!("and there is no route back to {sender}")),
            Some(End::Route(_, back)) => self.leads_back(link, sender, filter, back),
            Some(End::Unknown(_)) | None => match self.lookup.output(vrf, target, sender) {
                Some(LookedUp::Route(back)) => self.leads_back(link, sender, filter, &back),
                Some(LookedUp::Refused(error)) => no(format!("and the way back to {sender} ends with `{error}`")),
                None => Some(open(Reason::ARP_FILTER, filter.cause("and the way back to the sender is not known"))),
            },
        }
    }

    /// What `arp_filter` refuses because of the route back to the sender.
    fn leads_back(
        &self,
        link: &Link,
        sender: Ipv4Addr,
        filter: &InterfaceSetting<'_>,
        back: &Route,
    ) -> Option<KernelVerdict> {
        let no = |so: String| Some(silent(Reason::ARP_FILTER, filter.cause(&so)));
        let perhaps = |so: &str| Some(open(Reason::ARP_FILTER, filter.cause(so)));
        if self.is_one_of_several_defaults(back) {
            return perhaps("and of several default routes the kernel takes one by the state of their gateways");
        }
        match (back.kind, self.legs(back)) {
            (RouteKind::Unicast, None) => perhaps("and the next hops of the route back to the sender are not told"),
            (RouteKind::Unicast, Some(legs)) => {
                let usable = legs.iter().filter(|&&leg| self.snapshot.carries(leg));
                let (here, elsewhere): (Vec<u32>, Vec<u32>) = usable.partition(|&&leg| leg == link.ifindex);
                if elsewhere.is_empty() {
                    return None;
                }
                if here.is_empty() {
                    let by = elsewhere.iter().map(|&leg| super::interface(self.snapshot, leg));
                    let by = by.collect::<Vec<_>>().join(" and ");
                    return no(format!("and the route back to {sender} leaves by {by}"));
                }
                let cause = filter.cause(&format!(
                    "and the route back to {sender} has several next hops, of which the kernel picks one"
                ));
                let mac = link.mac.map(Lladdr::new);
                Some(KernelVerdict { answer: Answer::Sometimes, mac, ..open(Reason::ARP_FILTER, cause) })
            }
            (RouteKind::Local, _) => no(format!("and {sender} is not routed back by {}", link.name)),
            // What leaves by the interface itself passes, also by a route of such a type.
            _ => perhaps("and the route back to the sender is of a type that no sender has"),
        }
    }

    /// Whether the kernel picks among default routes of one metric by what it knows of their gateways (`fib_select_default`,
    /// net/ipv4/fib_semantics.c, 6.18).
    fn is_one_of_several_defaults(&self, route: &Route) -> bool {
        let at = self.snapshot.routes.at(route.table, route.prefix);
        route.prefix.len == 0 && at.iter().filter(|other| other.metric == route.metric).count() > 1
    }
}
