//! What goes by ioctls: static proxy entries, as `arp -s … pub` and `arp -d … pub` make and remove them, and receive
//! offload, as `ethtool -K` switches it. In the calling thread's namespace.

use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

mod requests {
    use nix::ioctl_write_ptr_bad;
    ioctl_write_ptr_bad!(siocsarp, libc::SIOCSARP, libc::arpreq);
    ioctl_write_ptr_bad!(siocdarp, libc::SIOCDARP, libc::arpreq);
    ioctl_write_ptr_bad!(siocethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// ETHTOOL_SGRO of linux/ethtool.h.
const SET_GRO: u32 = 0x2c;

/// A static proxy entry, as `arp -i INTERFACE -s ADDRESS … pub` makes it (SIOCSARP).
pub fn publish(address: [u8; 4], interface: &str) -> Result<()> {
    request(address, [255; 4], interface, true)
}

/// Removes such an entry; with an empty netmask and address, turns `proxy_arp` of the interface off (SIOCDARP).
pub fn unpublish(address: [u8; 4], netmask: [u8; 4], interface: &str) -> Result<()> {
    request(address, netmask, interface, false)
}

/// Switches an interface's generic receive offload, so many times, on and off in turns: each a change, and no process.
pub fn toggle_gro(interface: &str, times: u32) -> Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    ensure!(interface.len() < name.len(), "{interface} is no interface's name");
    copy(interface.as_bytes(), &mut name);
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    for number in 0..times {
        // struct ethtool_value: what to do, and the value.
        let mut value = [SET_GRO, 1 - number % 2];
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: value.as_mut_ptr().cast() };
        let request = libc::ifreq { ifr_name: name, ifr_ifru };
        // SAFETY: the descriptor is a socket, and the pointer is to a whole ifreq, which points to a whole ethtool_value;
        // both outlive the call.
        let done = unsafe { requests::siocethtool(socket.as_raw_fd(), &raw const request) };
        done.with_context(|| format!("switching the receive offload of {interface}"))?;
    }
    Ok(())
}

fn request(address: [u8; 4], netmask: [u8; 4], interface: &str, add: bool) -> Result<()> {
    let mut device = [0; 16];
    ensure!(interface.len() < device.len(), "{interface} is no interface's name");
    copy(interface.as_bytes(), &mut device);
    let request = libc::arpreq {
        arp_pa: internet_address(address),
        arp_ha: libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] },
        arp_flags: libc::ATF_PERM | libc::ATF_PUBL | libc::ATF_NETMASK,
        arp_netmask: internet_address(netmask),
        arp_dev: device,
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (socket, request) = (socket.as_raw_fd(), &raw const request);
    // SAFETY: the descriptor is a socket, and the pointer is to a whole arpreq that outlives the call.
    let done = unsafe { if add { requests::siocsarp(socket, request) } else { requests::siocdarp(socket, request) } };
    done.with_context(|| format!("a published ARP entry on {interface}"))?;
    Ok(())
}

/// A sockaddr_in as a plain sockaddr: port, then address.
fn internet_address(address: [u8; 4]) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    copy(&address, &mut sa_data[2..]);
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

fn copy(from: &[u8], to: &mut [libc::c_char]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as libc::c_char);
}
