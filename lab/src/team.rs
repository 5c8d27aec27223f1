//! Options of team devices over generic netlink, which otherwise their own daemon sets (include/uapi/linux/if_team.h).

use std::io;

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::netlink::{self, KernelChange, Netlink, attribute};

const CONTROLLER: u16 = libc::GENL_ID_CTRL as u16;
const LIST_FAMILIES: [u8; 4] = [libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0];
const FAMILY_ID: u16 = libc::CTRL_ATTR_FAMILY_ID as u16;
const FAMILY_NAME: u16 = libc::CTRL_ATTR_FAMILY_NAME as u16;
/// `TEAM_CMD_OPTIONS_SET`, in version 1 of `struct genlmsghdr`.
const SET_OPTIONS: [u8; 4] = [1, 1, 0, 0];
const TEAM_IFINDEX: u16 = 1;
const LIST_OPTION: u16 = 2;
const ITEM_OPTION: u16 = 1;
const OPTION_NAME: u16 = 1;
const OPTION_TYPE: u16 = 3;
const OPTION_DATA: u16 = 4;
/// `NLA_U32` and `NLA_STRING` of the kernel's own (include/net/netlink.h).
const U32: u8 = 3;
const STRING: u8 = 5;

/// Gives a team without ports a mode, such as `activebackup`. Its module must be loaded, or loadable.
///
/// # Errors
/// The kernel has no teams, or refuses the mode.
pub fn set_mode(namespace: &Namespace, team: &str, mode: &str) -> Result<()> {
    set(namespace, team, "mode", STRING, |_| Ok([mode.as_bytes(), &[0]].concat()))
}

/// Makes a port the one that a team of mode `activebackup` uses.
///
/// # Errors
/// There is no such port, or the kernel refuses.
pub fn set_active_port(namespace: &Namespace, team: &str, port: &str) -> Result<()> {
    set(namespace, team, "activeport", U32, |index| Ok(index(port)?.to_ne_bytes().to_vec()))
}

fn set(
    namespace: &Namespace,
    team: &str,
    option: &str,
    kind: u8,
    value: impl FnOnce(fn(&str) -> Result<u32>) -> Result<Vec<u8>> + Send,
) -> Result<()> {
    namespace.run(|| {
        let mut netlink = Netlink::generic_here()?;
        let mut family = None;
        netlink.dump(CONTROLLER, LIST_FAMILIES, |_, attributes| {
            if netlink::find(attributes, FAMILY_NAME) == Some(*b"team\0") {
                family = netlink::find(attributes, FAMILY_ID).map(u16::from_ne_bytes);
            }
        })?;
        let family = family.context("this kernel has no team devices")?;
        let mut item = attribute(OPTION_NAME, format!("{option}\0").as_bytes());
        item.extend(attribute(OPTION_TYPE, &[kind]));
        item.extend(attribute(OPTION_DATA, &value(netlink::index)?));
        let mut body = SET_OPTIONS.to_vec();
        body.extend(attribute(TEAM_IFINDEX, &netlink::index(team)?.to_ne_bytes()));
        body.extend(attribute(LIST_OPTION, &attribute(ITEM_OPTION, &item)));
        match netlink.change(KernelChange::of_family(family, body)) {
            // It is set, and nobody listens to what is told of it (`team_nl_options_set`, drivers/net/team/team_core.c).
            Err(error) if error.downcast_ref().and_then(io::Error::raw_os_error) == Some(libc::ESRCH) => Ok(()),
            result => result.with_context(|| format!("setting {option} of {team}")),
        }
    })?
}
