//! What `run` would make of each interface that matches: by the agent's own policy and mirror, over the kernel's state as
//! it is now.

use super::PreflightOptions;
use super::machine::HooksHere;
use crate::config::{Hook, HookConfig, TcAttach};
use crate::dataplane::HookKind;
use crate::event::{Event, Link};
use crate::hooks::clsact::{Filters, OtherFilters, filters_of_others};
use crate::hooks::foreign_tc::{Places, tcx_around};
use crate::hooks::owners::Programs;
use crate::hooks::policy::{Candidate, Surroundings, candidates};
use crate::mirror::Mirror;
use arp_common::Reason;
use arp_common::maps::Iface;
use globset::GlobSet;
use nix::libc;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// NETDEV_XDP_ACT_BASIC: the device's driver runs XDP programs.
const XDP_BASIC: u64 = 1;

/// What `run` would make of an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Foreseen {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// As in `status`: `answering`, `passing` or `detached`.
    pub state: String,
    /// `xdp`, `tc`, or `none`.
    pub hook: String,
    /// `skb`, `driver`, `tcx`, `clsact` or `none`.
    pub mode: String,
    /// The name of the reason for which its frames would pass; else `null`.
    pub reason_id: Option<String>,
    /// Why it would not answer, for people; `null` if it would.
    pub reason: Option<String>,
    /// The tc programs of others on it, as far as the kernel tells their names.
    pub others: Vec<String>,
    /// Requests that would not be answered although the interface answers.
    pub limits: Vec<Unanswered>,
}

/// A kind of requests that would not be answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Unanswered {
    /// The name of the reason.
    pub reason_id: String,
    /// Which requests, and why.
    pub reason: String,
    /// Whether the kernel answers these requests, which the fast path passes; otherwise nobody does.
    pub passes: bool,
}

impl Foreseen {
    /// Whether the fast path would answer on it.
    pub(crate) fn is_answering(&self) -> bool {
        self.state == "answering"
    }
}

/// The interfaces that match, and how many match each pattern.
pub(super) fn foresee(
    dump: Vec<Event>,
    wanted: &PreflightOptions,
    globs: &GlobSet,
    hooks: &HooksHere,
    programs: &Programs,
) -> (Vec<Foreseen>, BTreeMap<String, usize>) {
    let links: Vec<Link> = dump
        .iter()
        .filter_map(|event| match event {
            Event::Link(link) if globs.is_match(&link.name) => Some(link.clone()),
            _ => None,
        })
        .collect();
    let mut patterns: BTreeMap<String, usize> = wanted.patterns.iter().map(|pattern| (pattern.clone(), 0)).collect();
    for which in links.iter().flat_map(|link| globs.matches(&link.name)) {
        *patterns.entry(wanted.patterns[which].clone()).or_default() += 1;
    }

    let mut mirror = Mirror::default();
    mirror.resync(&BTreeSet::new(), dump);
    let mut filters = Filters::new().ok();
    let mut plans = Vec::new();
    for link in links {
        let others = Others::on(&link, filters.as_mut(), programs);
        let snapshot = mirror.snapshot();
        let driver = snapshot.xdp_features.get(&link.ifindex).map(|features| features & XDP_BASIC != 0);
        let facts = Facts { hooks, programs, driver, takes_xdp: snapshot.takes_xdp(link.ifindex) };
        let plan = facts.plan(wanted.hooks, &link, &others);
        plans.push((link, others, plan));
    }
    let attached: BTreeSet<u32> =
        plans.iter().filter(|(.., plan)| plan.is_ok()).map(|(link, ..)| link.ifindex).collect();
    let foreign = plans.iter().filter_map(|(link, others, plan)| {
        let how = plan.as_ref().ok()?.how;
        Some(Event::ForeignTc { ifindex: link.ifindex, found: others.seen_from(how).judge(how) })
    });
    mirror.apply(&attached, foreign.collect::<Vec<_>>());
    let foreseen = plans.into_iter().map(|(link, others, plan)| describe(&mirror, &link, &others, plan)).collect();
    (foreseen, patterns)
}

fn describe(mirror: &Mirror, link: &Link, others: &Others, plan: Result<Candidate, String>) -> Foreseen {
    let snapshot = mirror.snapshot();
    let iface = mirror.iface(link.ifindex);
    let blocked = iface.map(|iface| u32::from(iface.blocked)).filter(|&reason| reason != 0).map(Reason::from_raw);
    let (state, how, mut reason) = match &plan {
        Err(why) => ("detached", None, Some(why.clone())),
        Ok(candidate) => match blocked {
            Some(reason) => ("passing", Some(candidate.how), Some(reason.why().to_owned())),
            None => ("answering", Some(candidate.how), None),
        },
    };
    let detail = match blocked {
        Some(Reason::ARP_NETFILTER) => snapshot.arp_netfilter.concern(link).map(|concern| concern.to_string()),
        Some(Reason::INGRESS_HOOK) if !others.names.is_empty() => Some(others.names.join(", ")),
        _ => None,
    };
    if let (Some(reason), Some(detail)) = (&mut reason, detail) {
        *reason += &format!(": {detail}");
    }
    Foreseen {
        name: link.name.clone(),
        ifindex: link.ifindex,
        state: state.to_owned(),
        hook: how.map_or("none", HookKind::hook).to_owned(),
        mode: how.map_or("none", HookKind::mode).to_owned(),
        reason_id: blocked.filter(|_| how.is_some()).map(|reason| reason.name().to_owned()),
        reason,
        others: others.names.clone(),
        limits: if state == "answering" { iface.map(limits).unwrap_or_default() } else { Vec::new() },
    }
}

/// What an interface that answers would not answer.
fn limits(iface: &Iface) -> Vec<Unanswered> {
    let proxies = iface.has(Iface::PROXY_ARP) || iface.has(Iface::PVLAN) || iface.has(Iface::HAS_PROXIES);
    let limits = [
        (
            proxies && iface.has(Iface::FORWARDING) && iface.has(Iface::DELAYED),
            Reason::PROXY_DELAY,
            "requests that the kernel answers for others: it delays its answer (net.ipv4.neigh.<interface>.proxy_delay)",
            true,
        ),
        (
            iface.has(Iface::MARKS_MATTER),
            Reason::FRAME_MARKED,
            "frames that carry a mark, because a routing rule asks for marks",
            true,
        ),
        (
            !iface.has(Iface::FORWARDING),
            Reason::FORWARDING_OFF,
            "requests for addresses of others: forwarding is off, so the kernel gives no answer either",
            false,
        ),
        (
            iface.has(Iface::FORWARDING) && !proxies,
            Reason::PROXY_ARP_OFF,
            "requests for addresses of others: proxy_arp is off, so the kernel gives no answer either",
            false,
        ),
    ];
    let holds = limits.into_iter().filter(|(holds, ..)| *holds);
    let limit = |(_, id, reason, passes): (bool, Reason, &str, bool)| Unanswered {
        reason_id: id.name().to_owned(),
        reason: reason.to_owned(),
        passes,
    };
    holds.map(limit).collect()
}

/// The tc programs and filters of others on an interface.
struct Others {
    /// By tcx.
    tcx: Places,
    /// Filters; `after` stands for those on ingress.
    filters: Places,
    names: Vec<String>,
}

impl Others {
    fn on(link: &Link, filters: Option<&mut Filters>, programs: &Programs) -> Self {
        // What an agent has here, or has left, is no other's.
        let tcx = match programs.foreign(link.ifindex, None) {
            Some(_) => tcx_around(link.ifindex, None, None),
            None => Places::default(),
        };
        let mut names = match tcx {
            Places { after: false, egress: false, .. } => Vec::new(),
            _ => programs.tcx_besides(link.ifindex, &[]),
        };
        let name = filters.as_ref().map(|filters| filters.name().to_owned()).unwrap_or_default();
        names.extend(filters_of_others(link.ifindex, &name).unwrap_or_default());
        let filters = match filters.map(|filters| filters.beside(link.ifindex, None)) {
            Some(Ok(OtherFilters::Found(places))) => places,
            _ => Places::UNKNOWN,
        };
        Others { tcx, filters, names }
    }

    /// Where they would stand, seen from our program by a hook: after all of tcx that are there, and after all filters.
    fn seen_from(&self, how: HookKind) -> Places {
        let egress = self.tcx.egress || self.filters.egress;
        match how {
            HookKind::Tcx => Places { before: self.tcx.after, after: self.filters.after, egress },
            HookKind::Clsact => Places { before: self.tcx.after || self.filters.after, after: false, egress },
            HookKind::XdpSkb | HookKind::XdpDriver | HookKind::XdpVeth => {
                Places { before: false, after: self.tcx.after || self.filters.after, egress }
            }
        }
    }
}

/// What decides which hook an interface gets, besides the options.
struct Facts<'a> {
    hooks: &'a HooksHere,
    programs: &'a Programs,
    /// Whether the driver runs XDP, if the kernel tells.
    driver: Option<bool>,
    takes_xdp: bool,
}

impl Facts<'_> {
    /// The hook that `run` would attach by, or why it would not attach.
    fn plan(&self, config: HookConfig, link: &Link, others: &Others) -> Result<Candidate, String> {
        if link.hardware_type != libc::ARPHRD_ETHER {
            return Err("not an Ethernet device".to_owned());
        }
        let is_left_open = config.hook != Hook::Xdp && config.tc_attach == TcAttach::Auto;
        let around = Surroundings {
            knows_tcx: self.hooks.knows_tcx,
            filters: is_left_open && others.filters.after,
            programs: is_left_open && [others.filters, others.tcx].iter().any(|places| places.after || places.egress),
        };
        let mut refused = Vec::new();
        for candidate in candidates(config, link, around) {
            match self.obstacle(link, candidate.how) {
                None => return Ok(candidate),
                Some(why) if refused.contains(&why) => {}
                Some(why) => refused.push(why),
            }
        }
        Err(refused.join("; "))
    }

    /// Why a hook cannot be had on an interface, as far as can be told without attaching.
    fn obstacle(&self, link: &Link, how: HookKind) -> Option<String> {
        if let Some(holder) =
            link.xdp_program.filter(|&holder| how.is_xdp() && !self.programs.is_of_an_arp_agent(holder))
        {
            return Some(format!("its XDP slot is taken by {}", self.programs.describe(holder)));
        }
        let obstacle = match how {
            HookKind::XdpVeth if !self.hooks.watches_peers => "XDP in the driver of a veth needs Linux 6.3",
            HookKind::XdpVeth if !self.takes_xdp => {
                "XDP in the driver: replies reach the pod only while its end has GRO or an XDP program"
            }
            HookKind::XdpDriver if self.driver == Some(false) => "its driver does not run XDP",
            HookKind::Tcx if !self.hooks.knows_tcx => "this kernel has no tcx (Linux 6.6)",
            _ => return self.hooks.refusal(how).map(str::to_owned),
        };
        Some(obstacle.to_owned())
    }
}
