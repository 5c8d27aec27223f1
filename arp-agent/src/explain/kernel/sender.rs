//! Source validation: whether the kernel takes the sender for one that may ask here (`fib_validate_source` and
//! `__fib_validate_source`, net/ipv4/fib_frontend.c, 6.18).

use super::settings::InterfaceSetting;
use super::{Cause, Kernel, Question};
use crate::event::{Link, RouteKind};
use crate::explain::words::{describe_route, describe_rule, interface};
use crate::mirror::walk::End;
use arp_common::{Reason, settings as names};

/// What comes of it.
pub(super) enum Accepted {
    Yes,
    No(Reason, Cause),
    /// It depends on something that is not mirrored.
    Unknown(Cause),
}

/// What the walk back to the sender comes to.
enum ReverseLookup {
    /// A unicast route, one next hop of which leaves by the ingress interface.
    Via,
    /// A unicast route by others: which, in words.
    Else(String),
    /// No route, or one that refuses: which, in words.
    Nothing(String),
    /// A route of another type: which, in words.
    Other { what: String, local: bool },
}

impl Kernel<'_> {
    /// Whether the sender is accepted for a target behind `oif`.
    pub(super) fn source(&self, link: &Link, question: &Question, oif: u32) -> Accepted {
        let Question { target, sender, .. } = *question;
        let of = |key| InterfaceSetting::of(self.snapshot, link, key);
        let accept_local = of(names::ACCEPT_LOCAL);
        let back = match self.snapshot.walk_back(link.ifindex, oif, target, sender) {
            End::Unknown(rule) => {
                return Accepted::Unknown(
                    self.rule_cause(rule, &format!("it is not known whether it applies to the way back to {sender}")),
                );
            }
            End::NoRoute => ReverseLookup::Nothing(format!("there is no route back to {sender}")),
            End::Refused(rule, None) => {
                ReverseLookup::Nothing(format!("the routing rule `{}` refuses {sender}", describe_rule(rule)))
            }
            End::Refused(_, Some(route)) => ReverseLookup::Nothing(format!(
                "the route back to {sender} is `{}`",
                describe_route(self.snapshot, route)
            )),
            End::Route(_, route) => {
                let what = format!("the route back to {sender} is `{}`", describe_route(self.snapshot, route));
                match (route.kind, self.legs(route)) {
                    (RouteKind::Unicast, Some(legs)) if legs.contains(&link.ifindex) => ReverseLookup::Via,
                    (RouteKind::Unicast, Some(_)) => ReverseLookup::Else(format!("{what}, not by {}", link.name)),
                    (RouteKind::Unicast, None) => {
                        return Accepted::Unknown(self.route_cause(
                            None,
                            route,
                            "leads back to the sender, and its next hops are not told",
                        ));
                    }
                    // Then own addresses are as good as others.
                    (RouteKind::Local, Some(legs)) if accept_local.is_on() && legs.contains(&link.ifindex) => {
                        ReverseLookup::Via
                    }
                    (RouteKind::Local, _) if accept_local.is_on() => {
                        ReverseLookup::Else(format!("{what}, not by {}", link.name))
                    }
                    (kind, _) => ReverseLookup::Other { what, local: kind == RouteKind::Local },
                }
            }
        };
        let judged = self.judge(link, question, back);
        if !self.snapshot.rules.are_default() || !self.is_own(question) || accept_local.is_on() {
            return judged;
        }
        // While there was never a rule, nor a local route of somebody's, the kernel only looks whether the sender has an
        // address of the node's.
        let holder = self.snapshot.addresses.iter().find(|address| address.local == sender);
        let on =
            holder.map_or_else(String::new, |address| format!(" (on {})", interface(self.snapshot, address.ifindex)));
        let so = format!("the sender {sender} is an address of this node itself{on}");
        if let Accepted::No(..) = judged {
            return Accepted::No(Reason::SENDER_ROUTE, accept_local.cause(&format!("and {so}")));
        }
        let history = "without a local route: it depends on what rules and routes there were before";
        Accepted::Unknown(accept_local.cause(&format!("and {so}, {history}")))
    }

    fn judge(&self, link: &Link, question: &Question, back: ReverseLookup) -> Accepted {
        let of = |key| InterfaceSetting::of(self.snapshot, link, key);
        let rp_filter = of(names::RP_FILTER);
        let numbered = self.snapshot.is_numbered(link.ifindex);
        let refused = |so: &str| Accepted::No(Reason::SENDER_ROUTE, rp_filter.cause(so));
        let strict = |what: &str| match rp_filter.value() {
            2.. if !numbered => format!("which is as strict as 1 because {} has no address, and {what}", link.name),
            _ => format!("and {what}"),
        };
        match (rp_filter.value(), back) {
            (_, ReverseLookup::Via) | (0, ReverseLookup::Else(_) | ReverseLookup::Nothing(_)) => Accepted::Yes,
            (2.., ReverseLookup::Else(_)) if numbered => Accepted::Yes,
            (_, ReverseLookup::Else(what) | ReverseLookup::Nothing(what)) => refused(&strict(&what)),
            (r, ReverseLookup::Other { what, local }) => {
                let accept_local = of(names::ACCEPT_LOCAL);
                if !accept_local.is_on()
                    && (r != 0 || !self.snapshot.rules.are_default() || local && self.is_own(question))
                {
                    let so = format!("and the route back to the sender is of a type that no sender has: {what}");
                    return Accepted::No(Reason::SENDER_ROUTE, accept_local.cause(&so));
                }
                // What the kernel does depends on whether there ever was a rule or a local route of somebody's.
                Accepted::Unknown(Cause::new(
                    "route",
                    format!("{what}: it depends on what rules and routes there were before"),
                ))
            }
        }
    }

    fn is_own(&self, question: &Question) -> bool {
        self.snapshot.is_configured(question.sender.into())
    }
}
