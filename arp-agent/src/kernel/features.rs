//! The XDP features of network devices: the generic netlink family `netdev` (Linux 6.3).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::libc;

use crate::netlink::{
    socket::{NetlinkSocket, errno},
    wire::{self, Message, NetlinkRequest},
};

/// `struct genlmsghdr`.
pub(super) const GENL_LEN: usize = size_of::<libc::genlmsghdr>();

const CTRL_ATTR_FAMILY_ID: u16 = libc::CTRL_ATTR_FAMILY_ID as u16;
const CTRL_ATTR_FAMILY_NAME: u16 = libc::CTRL_ATTR_FAMILY_NAME as u16;
const CTRL_ATTR_MCAST_GROUPS: u16 = libc::CTRL_ATTR_MCAST_GROUPS as u16;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = libc::CTRL_ATTR_MCAST_GRP_NAME as u16;
const CTRL_ATTR_MCAST_GRP_ID: u16 = libc::CTRL_ATTR_MCAST_GRP_ID as u16;
// include/uapi/linux/netdev.h: no crate has them.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_DEL_NTF: u8 = 3;
const NETDEV_CMD_DEV_CHANGE_NTF: u8 = 4;
pub(super) const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// The family `netdev`, on kernels that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetdevFamily {
    id: u16,
    /// The multicast group that changes are sent to.
    pub(super) group: u32,
}

/// Reads the features of devices.
pub struct Features {
    socket: NetlinkSocket,
    family: NetdevFamily,
}

impl Features {
    /// `None` if the kernel has no such family.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn new() -> Result<Option<Self>> {
        let mut socket = match NetlinkSocket::new(NETLINK_GENERIC) {
            Err(error) if errno(&error) == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            socket => socket?,
        };
        let request = NetlinkRequest::new(libc::GENL_ID_CTRL as u16, &[libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0])
            .with_bytes(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let family = match socket.get("the generic netlink family netdev", &request) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => return Ok(None),
            answer => {
                let message = wire::messages(answer?).next().context("no answer about the family netdev")??;
                family(&message)?
            }
        };
        Ok(Some(Features { socket, family }))
    }

    /// The family.
    pub fn family(&self) -> NetdevFamily {
        self.family
    }

    /// The features of all devices in this network namespace, by ifindex.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn all(&mut self) -> Result<BTreeMap<u32, u64>> {
        let request = NetlinkRequest::new(self.family.id, &[NETDEV_CMD_DEV_GET, 1, 0, 0]);
        let answer = self.socket.dump("XDP features", &request)?;
        let mut all = BTreeMap::new();
        for message in wire::messages(answer) {
            if let Some((ifindex, Some(features))) = device(&message?)? {
                all.insert(ifindex, features);
            }
        }
        Ok(all)
    }
}

fn family(message: &Message<'_>) -> Result<NetdevFamily> {
    let (_, rest) = message.split::<GENL_LEN>()?;
    let id = wire::attribute(rest, CTRL_ATTR_FAMILY_ID)?.context("a family without an identifier")?;
    let groups = wire::attribute(rest, CTRL_ATTR_MCAST_GROUPS)?.context("the family netdev has no groups")?;
    for group in wire::attributes(groups) {
        let (_, group) = group?;
        if wire::attribute(group, CTRL_ATTR_MCAST_GRP_NAME)?.map(wire::text).as_deref() == Some("mgmt") {
            let group = wire::attribute(group, CTRL_ATTR_MCAST_GRP_ID)?.context("a group without an identifier")?;
            return Ok(NetdevFamily { id: wire::bytes(id).map(u16::from_ne_bytes)?, group: wire::u32_of(group)? });
        }
    }
    anyhow::bail!("the family netdev has no group mgmt")
}

/// A device and its features, from an answer or a notification; without features, it is gone.
pub(super) fn device(message: &Message<'_>) -> Result<Option<(u32, Option<u64>)>> {
    let (header, rest) = message.split::<GENL_LEN>()?;
    if !(NETDEV_CMD_DEV_GET..=NETDEV_CMD_DEV_CHANGE_NTF).contains(&header[0]) {
        return Ok(None);
    }
    let Some(ifindex) = wire::attribute(rest, NETDEV_A_DEV_IFINDEX)? else { return Ok(None) };
    let features = match wire::attribute(rest, NETDEV_A_DEV_XDP_FEATURES)? {
        Some(features) if header[0] != NETDEV_CMD_DEV_DEL_NTF => Some(wire::bytes(features).map(u64::from_ne_bytes)?),
        _ => None,
    };
    Ok(Some((wire::u32_of(ifindex)?, features)))
}
