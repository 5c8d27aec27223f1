//! Dumps, and what has changed since the last ones.

use std::{collections::BTreeMap, mem, net::Ipv4Addr};

use anyhow::{Context, Result};
use linux_raw_sys::netlink as raw;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::libc;

use super::{
    arptables::{ArpTables, FORBIDDEN},
    features::Features,
    ingress::{self, Bound},
    link,
    namespaces::is_owned_by_own_users,
    neighbour,
    netfilter::{self, Dumped},
    procfs::{self, AllSettings, PacketSockets},
    route,
};
use crate::arp_rules::ArpRules;
use crate::event::{Event, IfSet, Link, LocalAndMain, NeighbourEntry, Placement, Route, Settings};
use crate::netlink::{
    socket::{NetlinkSocket, errno},
    wire::{self, Message, NetlinkRequest},
};

pub(super) const RTM_GETNEXTHOP: u16 = raw::RTM_GETNEXTHOP as u16;
const AF_INET: u8 = libc::AF_INET as u8;

/// About how many links of a dump take as long as the settings of one link, file by file.
const ONE_BY_ONE: usize = 8;

/// How often rules of nftables are read again because they have changed meanwhile.
const GENERATIONS: usize = 8;

/// Asks the kernel, one request at a time.
pub struct Reader {
    route: NetlinkSocket,
    /// `None` if the kernel has no nfnetlink.
    netfilter: Option<NetlinkSocket>,
    /// The last dump was refused because the kernel has no nf_tables. It is not asked again at each poll: each request
    /// makes the kernel look for the module.
    no_nftables: bool,
    all_settings: AllSettings,
    arptables: ArpTables,
    /// `None` if listeners for ARP do not matter.
    packet_sockets: Option<PacketSockets>,
    /// `None` before Linux 6.3.
    features: Option<Features>,
    /// What only root may read counts as nothing, and is noted.
    is_lenient: bool,
    not_seen: Vec<String>,
    last: LastSeen,
}

/// What was read last of everything that changes without notification.
#[derive(Default)]
struct LastSeen {
    links: BTreeMap<u32, Link>,
    all_settings: Option<Settings>,
    proxies: Option<Vec<(u32, Ipv4Addr)>>,
    proxy_delays: Option<Vec<(u32, u64)>>,
    arp_netfilter: Option<ArpRules>,
    /// Those of legacy arptables alone.
    arptables: Option<ArpRules>,
    held_back: Option<Vec<(String, Ipv4Addr)>>,
    ingress_hooks: Option<Vec<u32>>,
    arp_listeners: Option<Vec<u32>>,
    uppers_elsewhere: Option<Vec<u32>>,
    /// Interfaces whose queueing discipline for what comes in shares its filters with others.
    shared_blocks: Vec<u32>,
    /// The devices that chains of the netdev family are bound to.
    bound: Vec<Bound>,
}

impl Reader {
    /// Opens sockets and files in the calling thread's network namespace.
    pub fn new() -> Result<Self> {
        let netfilter = match NetlinkSocket::new(NETLINK_NETFILTER) {
            Err(error) if errno(&error) == Some(libc::EPROTONOSUPPORT) => None,
            socket => Some(socket?),
        };
        Ok(Self {
            route: NetlinkSocket::new(NETLINK_ROUTE)?,
            netfilter,
            no_nftables: false,
            all_settings: AllSettings::open()?,
            arptables: ArpTables::default(),
            packet_sockets: Some(PacketSockets::open()?),
            features: Features::new()?,
            is_lenient: false,
            not_seen: Vec::new(),
            last: LastSeen::default(),
        })
    }

    /// The same for any user: what only root may read counts as nothing, see [`Reader::not_seen`].
    pub fn for_any_user() -> Result<Self> {
        Ok(Self { is_lenient: true, ..Self::new()? })
    }

    /// What was left out because only root may read it.
    pub fn not_seen(&self) -> &[String] {
        &self.not_seen
    }

    /// Everything, in an order in which it can be folded into an empty snapshot.
    pub fn everything(&mut self) -> Result<Vec<Event>> {
        self.last = LastSeen::default();
        let mut events = self.links(&IfSet::All)?;
        let header = with_family::<{ neighbour::ADDRESS_HEADER_LEN }>();
        let request = NetlinkRequest::new(libc::RTM_GETADDR, &header);
        events.extend(self.dumped("IPv4 addresses", &request, neighbour::address)?.into_iter().map(Event::Address));
        events.push(self.rules()?);
        events.extend(self.nexthop_objects()?);
        let before = procfs::local_and_main()?;
        let routes = self.routes()?;
        // Only if nothing has come or gone meanwhile do the figures belong together.
        let counted = procfs::local_and_main()?.filter(|after| before == Some(*after));
        events.push(Event::LocalAndMain(local_and_main(counted, &routes)));
        events.extend(routes.into_iter().map(|route| Event::Route(route, Placement::Last)));
        let request = NetlinkRequest::new(libc::RTM_GETNEIGH, &with_family::<{ neighbour::HEADER_LEN }>());
        events.extend(self.dumped("neighbours", &request, neighbour::neighbour)?.into_iter().map(Event::Neighbour));
        if let Some(features) = &mut self.features {
            let all = features.all()?;
            events.extend(all.into_iter().map(|(ifindex, all)| Event::XdpFeatures { ifindex, features: Some(all) }));
        }
        // `last` is empty: all of it differs.
        self.no_nftables = false;
        events.extend(self.changes_without_links()?);
        Ok(events)
    }

    /// Reads an interface that was not followed for a while: the link, its proxy delay, its XDP features, and all its
    /// neighbours.
    pub fn interface(&mut self, ifindex: u32) -> Result<(Vec<Event>, Vec<NeighbourEntry>)> {
        let mut events = self.links(&IfSet::These([ifindex].into()))?;
        if let Some(features) = &mut self.features {
            let features = features.all()?.remove(&ifindex);
            events.push(Event::XdpFeatures { ifindex, features });
        }
        Ok((events, self.neighbours(ifindex)?))
    }

    /// The neighbours of an interface.
    pub fn neighbours(&mut self, ifindex: u32) -> Result<Vec<NeighbourEntry>> {
        let header = with_family::<{ neighbour::HEADER_LEN }>();
        let request = NetlinkRequest::new(libc::RTM_GETNEIGH, &header).with(libc::NDA_IFINDEX, ifindex);
        let neighbours = match self.dumped("an interface's neighbours", &request, neighbour::neighbour) {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Vec::new(),
            neighbours => neighbours?,
        };
        Ok(neighbours.into_iter().filter(|entry| entry.ifindex == ifindex).collect())
    }

    /// Whether the kernel tells what devices offer to XDP ([`Event::XdpFeatures`]).
    pub fn knows_features(&self) -> bool {
        self.features.is_some()
    }

    /// Polls everything that changes without notification: links and their settings, `conf/all`, proxy entries and
    /// delays, ARP netfilter, ingress hooks. Gives what has changed since it was last read here. After an error, the
    /// next call gives everything again.
    pub fn unnotified_changes(&mut self) -> Result<Vec<Event>> {
        let events = self.changed_links().and_then(|mut events| {
            events.extend(self.changes_without_links()?);
            Ok(events)
        });
        if events.is_err() {
            self.last = LastSeen::default();
        }
        events
    }

    /// Stops looking for packet sockets for ARP.
    pub fn ignore_arp_listeners(&mut self) {
        self.packet_sockets = None;
    }

    /// Reads whether devices of other network namespaces are stacked on these interfaces. `None` if nothing has
    /// changed.
    pub fn uppers_elsewhere(&mut self, interfaces: &[u32]) -> Result<Option<Event>> {
        let mut uppers = self.last.uppers_elsewhere.clone().unwrap_or_default();
        // Of several, all at once.
        if interfaces.len() > ONE_BY_ONE {
            uppers = self.all_uppers_elsewhere()?;
        } else {
            for &ifindex in interfaces {
                uppers.retain(|&upper| upper != ifindex);
                if self.takes_others_frames(Some(ifindex))?.contains(&ifindex) {
                    uppers.push(ifindex);
                }
            }
            uppers.sort_unstable();
        }
        Ok(changed(&mut self.last.uppers_elsewhere, uppers).map(Event::UppersElsewhere))
    }

    /// The part of [`Reader::unnotified_changes`] that is not about settings, costs the same however many interfaces there
    /// are, and may stop an answer: arptables, packet sockets.
    pub fn unnotified_changes_of_the_node(&mut self) -> Result<Vec<Event>> {
        let events = self.changes_at_large();
        if events.is_err() {
            self.last = LastSeen::default();
        }
        events
    }

    /// The static proxy entries, if they have changed since they were last read.
    pub fn changed_proxies(&mut self) -> Result<Vec<Event>> {
        let proxies = self.proxies()?;
        Ok(changed(&mut self.last.proxies, proxies).map(Event::Proxies).into_iter().collect())
    }

    /// A link as it was last read or noted.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.last.links.get(&ifindex)
    }

    /// Forgets an interface that is gone: another may get its index. The next [`Reader::unnotified_changes`] gives
    /// proxy entries and delays even if they are as before.
    pub fn forget(&mut self, ifindex: u32) {
        self.last.links.remove(&ifindex);
        if let Some(uppers) = &mut self.last.uppers_elsewhere {
            uppers.retain(|&upper| upper != ifindex);
        }
        self.last.proxies = None;
        self.last.proxy_delays = None;
    }

    /// Remembers a link as a notification describes it.
    pub fn note(&mut self, link: &Link) {
        if self.last.links.get(&link.ifindex) != Some(link) {
            self.last.links.insert(link.ifindex, link.clone());
        }
    }

    /// Remembers what was notified of a root queueing discipline, so that a dump that says otherwise is news.
    pub fn note_queue(&mut self, ifindex: u32, queues: bool) {
        if let Some(link) = self.last.links.get_mut(&ifindex) {
            link.queues = queues;
        }
    }

    /// Links, their settings and proxy delays. Of single links only settings and delays are read, which change silently; the rest
    /// is as it was read or noted last. Of all of them, also those that have gone since they were last read here, and the settings
    /// of `all`. Those asked for that are gone are left out: that is notified.
    ///
    /// A single link is not asked for by RTM_GETLINK: the kernel would act on a change of its carrier that it has not acted on yet
    /// (`rtnl_getlink`, net/core/rtnetlink.c 6.18), and drop what goes with a carrier that is missing, earlier than it would by
    /// itself. A dump of all links does not.
    pub fn links(&mut self, which: &IfSet) -> Result<Vec<Event>> {
        match which {
            IfSet::None => Ok(Vec::new()),
            // One by one costs several times as much for each.
            IfSet::These(these) if these.len() * ONE_BY_ONE < self.last.links.len() => {
                let mut events = Vec::new();
                // A link is notified before its settings are there, or have its new name.
                self.wait_for_writers()?;
                for ifindex in these {
                    if let Some(link) = self.last.links.get_mut(ifindex) {
                        // By name: should it be another's meanwhile, that is notified, and both are read again.
                        // What cannot be read of one interface is unknown, and holds back that one.
                        let delay = known(procfs::proxy_delay(&link.name));
                        events.push(Event::ProxyDelay(*ifindex, delay));
                        link.settings = known(procfs::settings(&link.name));
                        events.push(Event::Link(link.clone()));
                    }
                }
                // What was read last of all is not what was said last.
                self.last.proxy_delays = None;
                events.extend(self.hooks_by_name());
                Ok(events)
            }
            IfSet::These(_) | IfSet::All => {
                let mut events = self.changed_links()?;
                events.retain(|event| matches!(event, Event::LinkGone(_)));
                events.extend(self.last.links.values().cloned().map(Event::Link));
                events.extend(self.hooks_by_name());
                let delays = self.proxy_delays()?;
                self.last.proxy_delays = Some(delays.clone());
                events.push(Event::ProxyDelays(delays));
                let settings = self.all_settings.read()?;
                self.last.all_settings = Some(settings);
                events.push(Event::AllSettings(settings));
                Ok(events)
            }
        }
    }

    /// The IPv4 routes of all tables, in the kernel's order, as they are when nobody who was changing the network
    /// configuration when this was called is still at it.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        self.wait_for_writers()?;
        let request = NetlinkRequest::new(libc::RTM_GETROUTE, &with_family::<{ route::HEADER_LEN }>());
        self.dumped("IPv4 routes", &request, route::route)
    }

    /// Which nexthop objects are resilient groups; of kernels without such objects (before 5.3) none.
    fn nexthop_objects(&mut self) -> Result<Vec<Event>> {
        let request = NetlinkRequest::new(RTM_GETNEXTHOP, &[0; route::NEXTHOP_HEADER_LEN]);
        match self.dumped("nexthop objects", &request, route::nexthop) {
            Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            objects => objects,
        }
    }

    /// The IPv4 routing rules.
    pub fn rules(&mut self) -> Result<Event> {
        let request = NetlinkRequest::new(libc::RTM_GETRULE, &with_family::<{ route::RULE_HEADER_LEN }>());
        let mut rules = self.dumped("IPv4 rules", &request, route::rule)?;
        if rules.iter().any(|rule| rule.users.is_some()) && !is_owned_by_own_users() {
            rules.iter_mut().for_each(|rule| rule.unknown |= rule.users.take().is_some());
        }
        Ok(Event::Rules(rules))
    }

    /// What netfilter does to ARP.
    pub fn netfilter(&mut self) -> Result<Vec<Event>> {
        self.no_nftables = false;
        (self.last.arp_netfilter, self.last.held_back) = (None, None);
        self.changed_arp_netfilter()
    }

    /// The interfaces with a foreign hook before ARP.
    pub fn ingress_hooks(&mut self) -> Result<Vec<Event>> {
        self.no_nftables = false;
        self.read_hooks()?;
        // Names as they are now, not as they were when the links were last read.
        let links = if self.last.bound.is_empty() { BTreeMap::new() } else { self.links_now()? };
        let hooks = self.hooked(&links);
        self.last.ingress_hooks = Some(hooks.clone());
        Ok(vec![Event::IngressHooks(hooks)])
    }

    /// The kernel tells of an address or a nexthop that goes before it takes away the routes that go with it, which it tells
    /// nobody (`__inet_del_ifa`, net/ipv4/devinet.c); and routes are dumped without the lock that it holds meanwhile (since
    /// 6.9). A single interface is asked for under that lock (`rtnl_getlink`, net/core/rtnetlink.c); only of `lo`, whose
    /// carrier never changes, that is certain to change nothing.
    fn wait_for_writers(&mut self) -> Result<()> {
        const LOOPBACK: u32 = 1;
        let mut header = [0; link::HEADER_LEN];
        header[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let request = NetlinkRequest::new(libc::RTM_GETLINK, &header).with(libc::IFLA_EXT_MASK, link::SKIP_STATS);
        self.route.get("the interface lo", &request).map(drop)
    }

    fn links_now(&mut self) -> Result<BTreeMap<u32, Link>> {
        let request =
            NetlinkRequest::new(libc::RTM_GETLINK, &[0; link::HEADER_LEN]).with(libc::IFLA_EXT_MASK, link::SKIP_STATS);
        let links = self.dumped("links", &request, link::link)?;
        Ok(links.into_iter().map(|link| (link.ifindex, link)).collect())
    }

    fn changed_links(&mut self) -> Result<Vec<Event>> {
        let links = self.links_now()?;
        let known = mem::take(&mut self.last.links);
        let changed = links.values().filter(|link| known.get(&link.ifindex) != Some(link));
        let gone = known.keys().filter(|ifindex| !links.contains_key(ifindex));
        let events = changed.cloned().map(Event::Link).chain(gone.copied().map(Event::LinkGone)).collect();
        self.last.links = links;
        Ok(events)
    }

    fn changes_without_links(&mut self) -> Result<Vec<Event>> {
        let mut events = self.changed_proxies()?;
        events.extend(self.changes_at_large()?);
        let settings = self.all_settings.read()?;
        events.extend(changed(&mut self.last.all_settings, settings).map(Event::AllSettings));
        let delays = self.proxy_delays()?;
        let arp = self.changed_arp_netfilter()?;
        self.read_hooks()?;
        let hooks = self.hooked(&self.last.links);
        let uppers = self.all_uppers_elsewhere()?;
        let last = &mut self.last;
        events.extend(changed(&mut last.proxy_delays, delays).map(Event::ProxyDelays));
        events.extend(arp);
        events.extend(changed(&mut last.ingress_hooks, hooks).map(Event::IngressHooks));
        events.extend(changed(&mut last.uppers_elsewhere, uppers).map(Event::UppersElsewhere));
        Ok(events)
    }

    fn changes_at_large(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        // An ARP chain of nftables is notified.
        if !self.is_lenient && self.last.arp_netfilter.is_some() && self.last.arptables != Some(self.arptables.rules()?)
        {
            events.extend(self.changed_arp_netfilter()?);
        }
        if let Some(sockets) = &self.packet_sockets {
            let listeners = sockets.for_arp()?;
            events.extend(changed(&mut self.last.arp_listeners, listeners).map(Event::ArpListeners));
        }
        Ok(events)
    }

    fn all_uppers_elsewhere(&mut self) -> Result<Vec<u32>> {
        let mut uppers = self.takes_others_frames(None)?;
        uppers.sort_unstable();
        uppers.dedup();
        Ok(uppers)
    }

    /// Of all interfaces or the one, those that take frames for another unicast address than their own.
    fn takes_others_frames(&mut self, ifindex: Option<u32>) -> Result<Vec<u32>> {
        let mut header = [0; neighbour::HEADER_LEN];
        header[0] = libc::AF_BRIDGE as u8;
        header[4..8].copy_from_slice(&ifindex.unwrap_or_default().to_ne_bytes());
        let request = NetlinkRequest::new(libc::RTM_GETNEIGH, &header);
        let addresses =
            self.dumped("addresses that interfaces take frames for", &request, neighbour::unicast_filter)?;
        let mac = |ifindex| self.last.links.get(ifindex).and_then(|link| link.mac);
        Ok(addresses
            .iter()
            .filter(|(ifindex, address)| mac(ifindex) != Some(*address))
            .map(|&(ifindex, _)| ifindex)
            .collect())
    }

    fn proxies(&mut self) -> Result<Vec<(u32, Ipv4Addr)>> {
        let mut header = with_family::<{ neighbour::HEADER_LEN }>();
        header[neighbour::FLAGS_AT] = libc::NTF_PROXY;
        self.dumped("proxy entries", &NetlinkRequest::new(libc::RTM_GETNEIGH, &header), neighbour::proxy)
    }

    fn proxy_delays(&mut self) -> Result<Vec<(u32, u64)>> {
        let header = with_family::<{ neighbour::TABLE_HEADER_LEN }>();
        let request = NetlinkRequest::new(libc::RTM_GETNEIGHTBL, &header);
        self.dumped("neighbour tables", &request, neighbour::proxy_delay)
    }

    fn changed_arp_netfilter(&mut self) -> Result<Vec<Event>> {
        let rules = self.arp_rules()?;
        let held_back = rules.held_back();
        let mut events = Vec::from_iter(changed(&mut self.last.arp_netfilter, rules).map(Event::ArpNetfilter));
        events.extend(changed(&mut self.last.held_back, held_back).map(Event::DroppedReplies));
        Ok(events)
    }

    fn arp_rules(&mut self) -> Result<ArpRules> {
        let mut arptables = self.arptables.rules()?;
        if self.is_lenient && arptables.unread.as_deref() == Some(FORBIDDEN) {
            self.note_unseen("rules of arptables");
            arptables = ArpRules::default();
        }
        let nftables = self.nft_arp_rules();
        let mut rules = self.if_allowed("ARP rules of nftables", nftables)?.unwrap_or_default();
        rules.append(arptables.clone());
        self.last.arptables = Some(arptables);
        Ok(rules)
    }

    /// What was read; `None` if only root may, and that is put up with.
    fn if_allowed<T>(&mut self, what: &str, read: Result<T>) -> Result<Option<T>> {
        match read {
            Err(error)
                if self.is_lenient && errno(&error).is_some_and(|code| [libc::EPERM, libc::EACCES].contains(&code)) =>
            {
                self.note_unseen(what);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn note_unseen(&mut self, what: &str) {
        if !self.not_seen.iter().any(|other| other == what) {
            self.not_seen.push(what.to_owned());
        }
    }

    /// The rules of nftables. What is dumped one after another is of one generation, or it could be what never was.
    fn nft_arp_rules(&mut self) -> Result<ArpRules> {
        for _ in 0..GENERATIONS {
            let chains = self.nftables("ARP chains", &netfilter::ask_chains(), netfilter::chain)?;
            let mut dumped = Dumped { chains, ..Dumped::default() };
            if !dumped.is_any_bound() {
                return Ok(ArpRules::default());
            }
            let before = self.generation()?;
            dumped.chains = self.nftables("ARP chains", &netfilter::ask_chains(), netfilter::chain)?;
            dumped.rules = self.nftables("ARP rules", &netfilter::ask_rules(), netfilter::rule)?;
            let asked = dumped.sets_asked();
            let sets = if asked.is_empty() {
                Vec::new()
            } else {
                self.nftables("ARP sets", &netfilter::ask_sets(), netfilter::set)?
            };
            for set in sets.into_iter().filter(|set| asked.contains(&set.name)) {
                let request = netfilter::ask_elements(&set.name);
                match self.nftables("an ARP set", &request, netfilter::elements) {
                    Ok(elements) => drop(dumped.sets.insert(set.name.clone(), set.with(elements))),
                    // It has gone meanwhile.
                    Err(error) if errno(&error) == Some(libc::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.generation()? == before {
                return Ok(dumped.rules());
            }
        }
        Ok(ArpRules::unread("the rules of nftables change faster than they can be read"))
    }

    fn generation(&mut self) -> Result<Option<u32>> {
        let Some(netfilter) = &mut self.netfilter else { return Ok(None) };
        let what = "the generation of nftables";
        let answer = netfilter.get(what, &netfilter::ask_generation())?;
        Ok(decoded(what, answer, netfilter::generation)?.first().copied())
    }

    /// Reads the hooks of the netdev family, and those of tc that are told nobody. Other filters of tc are looked for
    /// where the program runs (`Filters::beside`).
    fn read_hooks(&mut self) -> Result<()> {
        let request = NetlinkRequest::new(libc::RTM_GETQDISC, &[0; ingress::TC_LEN]);
        self.last.shared_blocks = self.dumped("queueing disciplines", &request, ingress::shared_block)?;
        let chains = self.base_chains(ingress::FAMILY_NETDEV);
        self.last.bound = self.if_allowed("chains of nftables' netdev family", chains)?.unwrap_or_default().concat();
        Ok(())
    }

    /// The interfaces of `links` with such a hook, in order.
    fn hooked(&self, links: &BTreeMap<u32, Link>) -> Vec<u32> {
        let LastSeen { shared_blocks, bound, .. } = &self.last;
        let mut hooked = shared_blocks.clone();
        // A device that is not among the links is gone or not there yet: the chain sees nothing.
        let covered = |link: &&Link| bound.iter().any(|device| device.covers(&link.name));
        hooked.extend(links.values().filter(covered).map(|link| link.ifindex));
        hooked.sort_unstable();
        hooked.dedup();
        hooked
    }

    /// The hooked interfaces, if chains name devices and links have changed so that they are others.
    fn hooks_by_name(&mut self) -> Option<Event> {
        if self.last.bound.is_empty() {
            return None;
        }
        let hooks = self.hooked(&self.last.links);
        changed(&mut self.last.ingress_hooks, hooks).map(Event::IngressHooks)
    }

    /// The base chains of nft's bridge family, in words. Only `explain` asks: what they drop never reaches a program on the
    /// bridge, and what such a program sends goes through them, as the kernel's own reply does.
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub fn bridge_chains(&mut self) -> Result<Vec<String>> {
        let request = NetlinkRequest::new(ingress::GET_CHAIN, &[ingress::FAMILY_BRIDGE, 0, 0, 0]);
        self.nftables("nftables chains", &request, ingress::bridge_chain)
    }

    /// The base chains of a family, each as the devices that it names.
    fn base_chains(&mut self, family: u8) -> Result<Vec<Vec<Bound>>> {
        let request = NetlinkRequest::new(ingress::GET_CHAIN, &[family, 0, 0, 0]);
        self.nftables("nftables chains", &request, |message| ingress::base_chain(message, family))
    }

    /// What a dump of nftables says; nothing where there is no nftables.
    fn nftables<T>(
        &mut self,
        what: &str,
        request: &NetlinkRequest,
        decode: impl FnMut(&Message<'_>) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        let Some(netfilter) = self.netfilter.as_mut().filter(|_| !self.no_nftables) else {
            return Ok(Vec::new());
        };
        match netfilter.dump(what, request) {
            // What nfnetlink says for a subsystem that it does not have.
            Err(error) if errno(&error) == Some(libc::EINVAL) => {
                self.no_nftables = true;
                Ok(Vec::new())
            }
            dump => decoded(what, dump?, decode),
        }
    }

    fn dumped<T>(
        &mut self,
        what: &str,
        request: &NetlinkRequest,
        decode: impl FnMut(&Message<'_>) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        decoded(what, self.route.dump(what, request)?, decode)
    }
}

/// How the kernel keeps the two tables, from the routes that it counts in each of them and those that it has just told. A
/// table without routes of its own makes no difference.
pub(super) fn local_and_main(counted: Option<[u64; 2]>, routes: &[Route]) -> Option<LocalAndMain> {
    let told = |table: i32| routes.iter().filter(|route| i64::from(route.table) == i64::from(table)).count() as u64;
    let (local, main) = (told(libc::RT_TABLE_LOCAL.into()), told(libc::RT_TABLE_MAIN.into()));
    match counted? {
        counted if counted == [local + main; 2] => Some(LocalAndMain::Merged),
        counted if counted == [local, main] => Some(LocalAndMain::Split),
        _ => None,
    }
}

/// Decodes the messages of a dump.
fn decoded<T>(what: &str, dump: &[u8], mut decode: impl FnMut(&Message<'_>) -> Result<Option<T>>) -> Result<Vec<T>> {
    wire::messages(dump)
        .filter_map(|message| {
            let decoded = message.and_then(|message| {
                decode(&message).with_context(|| format!("netlink message of type {}", message.kind))
            });
            decoded.with_context(|| format!("decoding the dump of {what}")).transpose()
        })
        .collect()
}

/// What was read; `None` also if the reading failed.
fn known<T>(read: Result<Option<T>>) -> Option<T> {
    read.unwrap_or_else(|error| {
        log::debug!("{error:#}");
        None
    })
}

/// Remembers `now`; returns it if it is not what was remembered.
fn changed<T: Clone + PartialEq>(last: &mut Option<T>, now: T) -> Option<T> {
    let different = last.as_ref() != Some(&now);
    *last = Some(now.clone());
    different.then_some(now)
}

/// A request's fixed structure: the address family first, the rest 0, which strict checking demands.
fn with_family<const N: usize>() -> [u8; N] {
    let mut header = [0; N];
    header[0] = AF_INET;
    header
}
