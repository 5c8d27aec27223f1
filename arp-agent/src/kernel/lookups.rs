//! What the kernel itself says that a packet would do: its own routing lookup (RTM_GETROUTE), rules, source validation and
//! all. As any user.

use super::neighbour;
use super::reader::RTM_GETNEXTHOP;
use super::route::{self, Leads};
use crate::event::Route;
use crate::netlink::socket::{NetlinkSocket, errno};
use crate::netlink::wire::{self, NetlinkRequest};
use anyhow::{Context as _, Result};
use linux_raw_sys::netlink as raw;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Ipv4Addr;

/// Where a table's counters and thresholds are in RTM_NEWNEIGHTBL (include/uapi/linux/neighbour.h).
const NDTA_THRESH3: u16 = raw::NDTA_THRESH3 as u16;
const NDTA_CONFIG: u16 = raw::NDTA_CONFIG as u16;
const NDTA_PARMS: u16 = raw::NDTA_PARMS as u16;
/// `ndtc_entries` of `struct ndt_config`, in bytes.
const ENTRIES_AT: usize = 4;
/// `ifa_scope` and `ifa_index` of `struct ifaddrmsg`, in bytes.
const SCOPE_AT: usize = 3;
const IFA_INDEX_AT: usize = 4;

/// What a lookup comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// A route, of whatever type.
    Route(Route),
    /// None, or the sender is refused: why, in the kernel's words.
    Refused(String),
}

/// How full the neighbour table is. There is one for all network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Entries of all namespaces.
    pub entries: u32,
    /// `gc_thresh3`: the most, but for permanent ones.
    pub most: u32,
}

/// Asks for lookups, in the network namespace of the thread that made it.
pub struct Lookups {
    socket: NetlinkSocket,
}

impl Lookups {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new() -> Result<Self> {
        Ok(Lookups { socket: NetlinkSocket::new(NETLINK_ROUTE)? })
    }

    /// A packet that comes in by an interface: which route it takes, and whether source validation accepts it
    /// (`ip_route_input`; what differs for ARP is the caller's to know).
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub fn input(&mut self, iif: u32, from: Ipv4Addr, to: Ipv4Addr) -> Result<LookedUp> {
        self.look_up(from, to, Some((libc::RTA_IIF, iif)))
    }

    /// A packet that the node sends itself, in the VRF if there is one (its device's number).
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub fn output(&mut self, vrf: Option<u32>, from: Ipv4Addr, to: Ipv4Addr) -> Result<LookedUp> {
        self.look_up(from, to, vrf.map(|vrf| (libc::RTA_OIF, vrf)))
    }

    /// The interfaces that a nexthop object leads out of, those of a group's members in their order; `None` if it leads
    /// nowhere (a blackhole).
    ///
    /// # Errors
    /// The kernel gives no answer, or there is no such object.
    pub fn next_hops(&mut self, object: u32) -> Result<Option<Vec<u32>>> {
        // Groups have no groups among their members.
        let members = match self.leads(object)? {
            Leads::By(oif) => return Ok(Some(vec![oif])),
            Leads::Nowhere => return Ok(None),
            Leads::To(members) => members,
        };
        let mut interfaces = Vec::new();
        for member in members {
            match self.leads(member)? {
                Leads::By(oif) => interfaces.push(oif),
                Leads::Nowhere | Leads::To(_) => return Ok(None),
            }
        }
        Ok(Some(interfaces))
    }

    fn leads(&mut self, object: u32) -> Result<Leads> {
        let request = NetlinkRequest::new(RTM_GETNEXTHOP, &[0; route::NEXTHOP_HEADER_LEN]).with(route::NHA_ID, object);
        let answer = self.socket.get("a nexthop object", &request)?;
        let message = wire::messages(answer).next().context("no answer to the question for a nexthop object")??;
        route::leads(&message)
    }

    fn look_up(&mut self, from: Ipv4Addr, to: Ipv4Addr, by: Option<(u16, u32)>) -> Result<LookedUp> {
        let mut header = [0; route::HEADER_LEN];
        // Family, and the lengths of both addresses.
        (header[0], header[1], header[2]) = (libc::AF_INET as u8, 32, 32);
        // The route itself, with all its next hops.
        header[8..].copy_from_slice(&raw::RTM_F_FIB_MATCH.to_ne_bytes());
        let mut request = NetlinkRequest::new(libc::RTM_GETROUTE, &header)
            .with_bytes(libc::RTA_DST, &to.octets())
            .with_bytes(libc::RTA_SRC, &from.octets());
        if let Some((attribute, ifindex)) = by {
            request = request.with(attribute, ifindex);
        }
        let answer = match self.socket.get("a route", &request) {
            Err(error) => {
                let Some(code) = errno(&error) else { return Err(error) };
                return Ok(LookedUp::Refused(io::Error::from_raw_os_error(code).to_string()));
            }
            Ok(answer) => answer,
        };
        let message = wire::messages(answer).next().context("no answer to a route lookup")??;
        Ok(LookedUp::Route(route::route(&message)?.context("the answer to a route lookup is no route")?))
    }

    /// How full the neighbour table of IPv4 is; `None` if the kernel does not tell.
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub fn table_size(&mut self) -> Result<Option<TableSize>> {
        let mut header = [0; neighbour::TABLE_HEADER_LEN];
        header[0] = libc::AF_INET as u8;
        let request = NetlinkRequest::new(libc::RTM_GETNEIGHTBL, &header);
        for message in wire::messages(self.socket.dump("neighbour tables", &request)?) {
            let message = message?;
            let (header, rest) = message.split::<{ neighbour::TABLE_HEADER_LEN }>()?;
            // Those with the parameters of an interface have no counters.
            let config = wire::attribute(rest, NDTA_CONFIG)?;
            let most = wire::attribute(rest, NDTA_THRESH3)?.map(wire::u32_of).transpose()?;
            if i32::from(header[0]) != libc::AF_INET || wire::attribute(rest, NDTA_PARMS)?.is_none() {
                continue;
            }
            if let (Some(config), Some(most)) = (config, most) {
                let entries = config.get(ENTRIES_AT..ENTRIES_AT + 4).map(wire::u32_of).transpose()?;
                return Ok(entries.map(|entries| TableSize { entries, most }));
            }
        }
        Ok(None)
    }

    /// The addresses whose scope is wider than a link's only in name: those of scope host, by interface.
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub fn host_addresses(&mut self) -> Result<Vec<(u32, Ipv4Addr)>> {
        let mut header = [0; neighbour::ADDRESS_HEADER_LEN];
        header[0] = libc::AF_INET as u8;
        let request = NetlinkRequest::new(libc::RTM_GETADDR, &header);
        let mut host = Vec::new();
        for message in wire::messages(self.socket.dump("IPv4 addresses", &request)?) {
            let message = message?;
            let (header, rest) = message.split::<{ neighbour::ADDRESS_HEADER_LEN }>()?;
            if header[SCOPE_AT] <= libc::RT_SCOPE_LINK {
                continue;
            }
            if let Some(value) = wire::attribute(rest, libc::IFA_LOCAL)? {
                host.push((wire::u32_at(header, IFA_INDEX_AT), Ipv4Addr::from(wire::bytes::<4>(value)?)));
            }
        }
        Ok(host)
    }
}
