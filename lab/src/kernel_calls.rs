//! Changes that no command of `ip` makes. All in the network namespace of the calling thread.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

mod ioctls {
    use nix::ioctl_write_ptr_bad;
    ioctl_write_ptr_bad!(siocsarp, libc::SIOCSARP, libc::arpreq);
    ioctl_write_ptr_bad!(siocdarp, libc::SIOCDARP, libc::arpreq);
}

/// `ATF_PERM`, `ATF_PUBL`, `ATF_NETMASK` (include/uapi/linux/if_arp.h).
const PUBLISHED: i32 = 0x04 | 0x08 | 0x20;

/// A static proxy entry, as `arp -i INTERFACE -s ADDRESS … pub` makes it (SIOCSARP).
pub fn publish(address: [u8; 4], interface: &str) -> Result<()> {
    let request = arp_request(address, [255; 4], interface)?;
    let socket = datagram_socket()?;
    // SAFETY: the descriptor is a socket, and the pointer is to a whole arpreq that outlives the call.
    unsafe { ioctls::siocsarp(socket.as_raw_fd(), &raw const request) }.context("SIOCSARP")?;
    Ok(())
}

/// Removes such an entry; with an empty netmask and address, turns `proxy_arp` of the interface off (SIOCDARP).
pub fn unpublish(address: [u8; 4], netmask: [u8; 4], interface: &str) -> Result<()> {
    let request = arp_request(address, netmask, interface)?;
    let socket = datagram_socket()?;
    // SAFETY: as in `publish`.
    unsafe { ioctls::siocdarp(socket.as_raw_fd(), &raw const request) }.context("SIOCDARP")?;
    Ok(())
}

/// Sets an interface's `IPV4_DEVCONF_*` by RTM_SETLINK with IFLA_INET_CONF.
pub fn set_link_setting(interface: &str, key: u16, value: i32) -> Result<()> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET_CONF: u16 = 1;
    let setting = attribute(key, &value.to_ne_bytes());
    let settings = attribute(IFLA_INET_CONF, &setting);
    let family = attribute(libc::AF_INET as u16, &settings);
    let mut body = link_header(interface, 0, 0)?;
    body.extend(attribute(IFLA_AF_SPEC, &family));
    acknowledged(libc::RTM_SETLINK, 0, &body).with_context(|| format!("setting {key} on {interface}"))
}

/// Makes a veth pair whose other end, `eth0`, is in another network namespace.
pub fn add_veth(interface: &str, other: &File) -> Result<()> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_NET_NS_FD: u16 = 28;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const VETH_INFO_PEER: u16 = 1;
    let mut peer = vec![0; 16];
    peer.extend(attribute(IFLA_IFNAME, b"eth0\0"));
    peer.extend(attribute(IFLA_NET_NS_FD, &other.as_raw_fd().to_ne_bytes()));
    let mut info = attribute(IFLA_INFO_KIND, b"veth\0");
    info.extend(attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer)));
    let mut body = vec![0; 16];
    body.extend(attribute(IFLA_IFNAME, format!("{interface}\0").as_bytes()));
    body.extend(attribute(IFLA_LINKINFO, &info));
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    acknowledged(libc::RTM_NEWLINK, flags, &body).with_context(|| format!("making {interface}"))
}

/// Takes an interface up or down.
pub fn set_up(interface: &str, up: bool) -> Result<()> {
    let body = link_header(interface, u32::from(up), libc::IFF_UP as u32)?;
    acknowledged(libc::RTM_SETLINK, 0, &body).with_context(|| format!("taking {interface} up or down"))
}

/// A static proxy entry without a state, as LXC adds it (RTM_NEWNEIGH with NTF_PROXY). `ip neigh add proxy` makes a permanent
/// one, which outlives a loss of carrier.
pub fn add_passing_proxy(address: [u8; 4], interface: &str) -> Result<()> {
    const NDA_DST: u16 = 1;
    // struct ndmsg: family, padding, ifindex, state, flags, type.
    let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
    body.extend(if_nametoindex(interface)?.to_ne_bytes());
    body.extend([0, 0, libc::NTF_PROXY, 0]);
    body.extend(attribute(NDA_DST, &address));
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    acknowledged(libc::RTM_NEWNEIGH, flags, &body).with_context(|| format!("a proxy entry on {interface}"))
}

/// Adds or removes a unicast route of table main by an interface.
pub fn set_route(destination: [u8; 4], prefix_len: u8, interface: &str, present: bool) -> Result<()> {
    const PROTOCOL_BOOT: u8 = 3;
    let mut body = vec![
        libc::AF_INET as u8,
        prefix_len,
        0,
        0,
        libc::RT_TABLE_MAIN,
        PROTOCOL_BOOT,
        libc::RT_SCOPE_LINK,
        1,
        0,
        0,
        0,
        0,
    ];
    body.extend(attribute(libc::RTA_DST, &destination));
    body.extend(attribute(libc::RTA_OIF, &if_nametoindex(interface)?.to_ne_bytes()));
    let (kind, flags) = if present {
        (libc::RTM_NEWROUTE, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16)
    } else {
        (libc::RTM_DELROUTE, 0)
    };
    acknowledged(kind, flags, &body).with_context(|| format!("a route by {interface}"))
}

/// `struct ifinfomsg`.
fn link_header(interface: &str, flags: u32, change: u32) -> Result<Vec<u8>> {
    let mut header = vec![0; 4];
    for word in [if_nametoindex(interface)?, flags, change] {
        header.extend(word.to_ne_bytes());
    }
    Ok(header)
}

/// Sends one request of rtnetlink and waits until the kernel has done it.
fn acknowledged(kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let mut message = u32::try_from(16 + body.len())?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let status = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    ensure!(status == Some(0), "message {kind}: the kernel says {status:?}");
    Ok(())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn datagram_socket() -> Result<std::os::fd::OwnedFd> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).context("opening a socket")
}

fn arp_request(address: [u8; 4], netmask: [u8; 4], interface: &str) -> Result<libc::arpreq> {
    let mut device = [0; 16];
    ensure!(interface.len() < device.len(), "{interface} is no interface's name");
    for (to, from) in device.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(libc::arpreq {
        arp_pa: internet_address(address),
        arp_ha: libc::sockaddr { sa_family: 1, sa_data: [0; 14] },
        arp_flags: PUBLISHED,
        arp_netmask: internet_address(netmask),
        arp_dev: device,
    })
}

/// A sockaddr_in as a plain sockaddr: port, then address.
fn internet_address(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
