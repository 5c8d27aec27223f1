//! Multicast notifications.

use std::{
    future, io,
    task::{Context as Waker, Poll, ready},
};

use anyhow::{Context, Result, bail};
use linux_raw_sys::netlink as raw;
use netlink_packet_core::NLMSG_OVERRUN;
use netlink_sys::{
    AsyncSocket, SocketAddr, TokioSocket,
    protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE},
};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{SockFilter, SockRef};

use super::{
    Batch, Lost, Muted,
    features::{self, Features},
    ingress, link, neighbour, route,
};
use crate::event::{Event, IfSet, LocalAndMain};
use crate::netlink::{
    socket::RECEIVE_LEN,
    wire::{self, Message},
};

const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_NEXTHOP,
];
const NFNLGRP_NFTABLES: u32 = libc::NFNLGRP_NFTABLES as u32;

const RTM_DELNETCONF: u16 = raw::RTM_DELNETCONF as u16;
const RTM_NEWNEXTHOP: u16 = raw::RTM_NEWNEXTHOP as u16;
const RTM_DELNEXTHOP: u16 = raw::RTM_DELNEXTHOP as u16;

/// How much the kernel may queue before it drops: about 50,000 route notifications. No memory until it is used.
const RECEIVE_BUFFER: usize = 32 << 20;
/// How many buffers one batch takes from a socket at most, so that folding keeps up with a flood.
const BATCH: usize = 4096;
/// How many buffers are thrown away at most before looking again. More than a queue holds.
const DISCARD: usize = 1 << 20;

/// Joined multicast groups. Create it before the first dump, so that what changes during the dump is queued.
pub struct Notifications {
    route: Subscription,
    /// `None` if the kernel has no nfnetlink.
    netfilter: Option<Subscription>,
    /// `None` if the kernel does not tell what devices offer to XDP.
    features: Option<Subscription>,
    /// Throwing away what is queued was given up before the queue was empty.
    dirty: bool,
    /// The port of the socket that sets our own filters: what it brings about is no news.
    own_port: Option<u32>,
}

impl Notifications {
    /// Joins the groups. Must be called inside a tokio runtime, which [`Self::next`] waits with.
    pub fn subscribe() -> Result<Self> {
        Self::subscribe_with_buffer(RECEIVE_BUFFER)
    }

    /// [`Self::subscribe`] with a receive buffer of so many bytes.
    pub fn subscribe_with_buffer(bytes: usize) -> Result<Self> {
        let route = Subscription::new(NETLINK_ROUTE, &GROUPS, bytes)
            .context("subscribing to the kernel's notifications (rtnetlink)")?;
        let netfilter = Subscription::new(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], bytes)
            .inspect_err(|error| log::warn!("no notifications about nftables: {error:#}"))
            .ok();
        let features = match Features::new()? {
            Some(features) => Some(
                Subscription::new(NETLINK_GENERIC, &[features.family().group], bytes)
                    .context("subscribing to the kernel's notifications (netdev)")?,
            ),
            None => None,
        };
        Ok(Self { route, netfilter, features, dirty: false, own_port: None })
    }

    /// What the socket with this port does to queueing disciplines and filters is not told.
    pub fn ignore(&mut self, port: u32) {
        self.own_port = Some(port);
    }

    /// What is not to be told from now on, instead of what was not before. What was notified meanwhile is lost, so whoever
    /// wants to be told again asks for it after this.
    ///
    /// # Errors
    /// The kernel takes no filter: all is told as before.
    pub fn mute(&mut self, muted: &Muted) -> Result<()> {
        self.route.filter(muted, Muted::of_routes)?;
        if let Some(features) = &self.features {
            features.filter(muted, Muted::of_features)?;
        }
        Ok(())
    }

    /// Waits until something is notified, then takes what is there, in order, up to a bound. May be dropped while
    /// it waits: nothing is lost by that.
    pub async fn next(&mut self) -> Result<Batch, Lost> {
        loop {
            if !self.dirty {
                tokio::select! {
                    () = self.route.wait() => {}
                    () = wait(self.netfilter.as_mut()) => {}
                    () = wait(self.features.as_mut()) => {}
                }
            }
            let batch = self.drain()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Takes what is there, up to a bound, without waiting.
    pub fn drain(&mut self) -> Result<Batch, Lost> {
        if self.dirty {
            return Err(self.give_up(lost("they come faster than they can be thrown away")));
        }
        let mut batch = Batch::default();
        let own_port = self.own_port;
        let drained = self.route.drain(|message| {
            if is_tc(message.kind) && Some(message.port) == own_port { Ok(()) } else { decode(message, &mut batch) }
        });
        let mut more = drained.map_err(|lost| self.give_up(lost))?;
        if let Some(netfilter) = &mut self.netfilter {
            match netfilter.drain(|message| decode_netfilter(message, &mut batch)) {
                Ok(more_of_it) => more |= more_of_it,
                Err(_) => {
                    // Nothing was said here that reading again would not say better.
                    netfilter.discard();
                    batch.reread.netfilter = true;
                    batch.reread.ingress_hooks = true;
                    batch.reread.chains = true;
                }
            }
        }
        if let Some(features) = &mut self.features {
            let drained = features.drain(|message| {
                let device = features::device(message)?;
                batch.events.extend(device.map(|(ifindex, features)| Event::XdpFeatures { ifindex, features }));
                Ok(())
            });
            match drained {
                Ok(more_of_it) => more |= more_of_it,
                Err(lost) => {
                    features.discard();
                    return Err(self.give_up(lost));
                }
            }
        }
        // What was taken may all have been of no interest; the queue counts.
        batch.more = more;
        Ok(batch)
    }

    fn give_up(&mut self, lost: Lost) -> Lost {
        self.dirty = !self.route.discard();
        lost
    }
}

fn is_tc(kind: u16) -> bool {
    matches!(kind, libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER)
}

const IFF_UP: u32 = libc::IFF_UP as u32;

/// Adds what a message of rtnetlink says to a batch. Kinds of messages that are not known here say nothing.
pub(super) fn decode(message: &Message<'_>, batch: &mut Batch) -> Result<()> {
    let event = match message.kind {
        NLMSG_OVERRUN => bail!("the kernel lost notifications"),
        libc::RTM_NEWLINK => {
            let link = link::link(message)?;
            match &link {
                Some(link) => drop(batch.reread.told_links.insert(link.ifindex)),
                None => batch.reread.links.add(link::ifindex(message)?),
            }
            // Down, or without carrier: it may have taken routes and nexthop objects along. That the notification says
            // so counts, not that it is news: a dump may have overtaken it.
            if let Some(link) = &link {
                let (ifindex, is_up) = (link.ifindex, link.flags & IFF_UP != 0);
                if !is_up || !link.carrier {
                    batch.events.push(Event::RoutesDoubted { ifindex, carrier: is_up });
                }
            }
            link.map(Event::Link)
        }
        libc::RTM_DELLINK => link::gone(message)?.map(Event::LinkGone),
        libc::RTM_NEWADDR => neighbour::address(message)?.map(Event::Address),
        libc::RTM_DELADDR => {
            let gone = neighbour::address(message)?;
            // With its last address an interface loses its routes, and routes that prefer the address as source go.
            if gone.is_some() {
                batch.reread.routes = true;
            }
            gone.map(Event::AddressGone)
        }
        libc::RTM_NEWROUTE => route::route(message)?.map(|r| Event::Route(r, route::placement(message.flags))),
        libc::RTM_DELROUTE => route::route(message)?.map(Event::RouteGone),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => {
            let (header, _) = message.split::<{ route::RULE_HEADER_LEN }>()?;
            // Rules of multicast routing come by the same group.
            let is_ipv4 = i32::from(header[0]) == libc::AF_INET;
            batch.reread.rules |= is_ipv4;
            // With any rule, added or deleted, the kernel takes the two tables apart, for good.
            is_ipv4.then_some(Event::LocalAndMain(Some(LocalAndMain::Split)))
        }
        libc::RTM_NEWNEIGH => neighbour::neighbour(message)?.map(Event::Neighbour),
        libc::RTM_DELNEIGH => {
            neighbour::neighbour(message)?.map(|n| Event::NeighbourGone { ifindex: n.ifindex, addr: n.addr })
        }
        libc::RTM_NEWNETCONF | RTM_DELNETCONF => {
            match link::configured(message)? {
                Some(ifindex) => batch.reread.links.add(ifindex),
                None => batch.reread.links = IfSet::All,
            }
            None
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            batch.reread.routes = true;
            if message.kind == RTM_NEWNEXTHOP { route::nexthop(message)? } else { None }
        }
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC => {
            // With it go the filters below it, which is not told.
            let dirty = ingress::ingress_qdisc(message)?;
            batch.reread.ingress_hooks |= dirty.is_some();
            let root = ingress::root_qdisc(message)?;
            batch.events.extend(root.map(|(ifindex, queues)| Event::RootQdisc { ifindex, queues }));
            dirty.map(Event::FiltersTouched)
        }
        // Below a foreign qdisc they do not matter, which counts whether it has any or not; beside our filter they do.
        libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            let (header, _) = message.split::<{ ingress::TC_LEN }>()?;
            Some(Event::FiltersTouched(wire::u32_at(header, 4)))
        }
        _ => None,
    };
    batch.events.extend(event);
    Ok(())
}

/// What is in tables of the ARP family, and the chains of the netdev family, whatever is in them.
pub(super) fn decode_netfilter(message: &Message<'_>, batch: &mut Batch) -> Result<()> {
    let (header, _) = message.split::<{ ingress::NFGEN_LEN }>()?;
    batch.reread.netfilter |= header[0] == ingress::FAMILY_ARP && ingress::is_ruleset(message.kind);
    let chains = header[0] == ingress::FAMILY_NETDEV && ingress::is_table_or_chain(message.kind);
    batch.reread.ingress_hooks |= chains;
    batch.reread.chains |= chains;
    Ok(())
}

/// A socket that has joined groups.
struct Subscription {
    socket: TokioSocket,
    buffer: Vec<u8>,
    /// `buffer` holds messages that are not handed over yet.
    filled: bool,
    /// What went wrong while waiting. The kernel says it once.
    failed: Option<Lost>,
}

impl Subscription {
    fn new(protocol: isize, groups: &[u32], receive_buffer: usize) -> Result<Self> {
        // Without a runtime the socket would panic.
        tokio::runtime::Handle::try_current()?;
        let mut socket = TokioSocket::new(protocol).context("opening a netlink socket")?;
        let inner = socket.socket_mut();
        inner.bind_auto().context("binding a netlink socket")?;
        if let Err(error) = setsockopt(inner, sockopt::RcvBufForce, &receive_buffer) {
            log::info!("SO_RCVBUFFORCE: {error}; net.core.rmem_max limits the receive buffer");
            setsockopt(inner, sockopt::RcvBuf, &receive_buffer).context("setting SO_RCVBUF")?;
        }
        for group in groups {
            inner.add_membership(*group).with_context(|| format!("joining group {group}"))?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE_LEN), filled: false, failed: None })
    }

    fn filter(&self, muted: &Muted, program: impl FnOnce(&Muted) -> Vec<SockFilter>) -> Result<()> {
        let socket = SockRef::from(self.socket.socket_ref());
        if !muted.is_empty() {
            return socket.attach_filter(&program(muted)).context("setting a filter on a netlink socket");
        }
        match socket.detach_filter() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("removing a netlink socket's filter")
            }
            _ => Ok(()),
        }
    }

    /// Waits until there is something to hand over, or nothing more to hope for.
    async fn wait(&mut self) {
        if let Err(error) = future::poll_fn(|waker| self.poll(waker)).await {
            self.failed = Some(broken(&error));
        }
    }

    fn poll(&mut self, waker: &mut Waker<'_>) -> Poll<io::Result<()>> {
        while !self.filled {
            self.buffer.clear();
            let received = ready!(self.socket.poll_recv_from(waker, &mut self.buffer));
            self.filled = self.is_from_kernel(received)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Hands over what is queued, up to a bound. Says whether the bound was reached.
    fn drain(&mut self, mut take: impl FnMut(&Message<'_>) -> Result<()>) -> Result<bool, Lost> {
        if let Some(lost) = self.failed.take() {
            return Err(lost);
        }
        for _ in 0..BATCH {
            match self.receive() {
                Ok(()) => self.filled = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(broken(&error)),
            }
            // A message that was too long for the buffer shows in its own length.
            for message in wire::messages(&self.buffer) {
                message
                    .and_then(|message| {
                        take(&message).with_context(|| format!("netlink message of type {}", message.kind))
                    })
                    .map_err(|error| lost(&format!("{error:#}")))?;
            }
        }
        Ok(true)
    }

    /// Throws away what is queued; false if it gave up. After an overrun the kernel drops everything, without saying
    /// so again, until the queue has been empty once: a dump before that could miss changes for ever.
    fn discard(&mut self) -> bool {
        self.failed = None;
        (0..DISCARD).any(|_| {
            self.filled = false;
            matches!(self.receive(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        })
    }

    fn receive(&mut self) -> io::Result<()> {
        while !self.filled {
            self.buffer.clear();
            let received = self.socket.socket_ref().recv_from(&mut self.buffer, 0);
            self.filled = self.is_from_kernel(received.map(|(_, sender)| sender))?;
        }
        Ok(())
    }

    /// Whether a datagram came from the kernel, which alone has port 0. `false`, too, if a signal interrupted the wait.
    fn is_from_kernel(&self, sender: io::Result<SocketAddr>) -> io::Result<bool> {
        match sender {
            Ok(sender) => Ok(sender.port_number() == 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The same for the socket that may not exist.
async fn wait(subscription: Option<&mut Subscription>) {
    match subscription {
        Some(subscription) => subscription.wait().await,
        None => future::pending().await,
    }
}

fn broken(error: &io::Error) -> Lost {
    Lost { why: error.to_string(), overrun: error.raw_os_error() == Some(libc::ENOBUFS) }
}

fn lost(why: &str) -> Lost {
    Lost { why: why.to_owned(), overrun: false }
}
