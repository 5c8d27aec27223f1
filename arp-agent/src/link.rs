//! An interface, as the kernel tells of it.

use arp_common::for_conf;
use arp_common::settings::CONF;
use serde::{Deserialize, Serialize};

/// A link, as RTM_NEWLINK says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Index of the interface.
    pub ifindex: u32,
    /// Name of the interface.
    pub name: String,
    /// Its alternative names.
    pub altnames: Vec<String>,
    /// Link-layer address, if it is 6 bytes long (IFLA_ADDRESS).
    pub mac: Option<[u8; 6]>,
    /// ARPHRD_* of the device; 1 is Ethernet.
    pub hardware_type: u16,
    /// IFF_* flags.
    pub flags: u32,
    /// IFLA_CARRIER.
    pub carrier: bool,
    /// IFLA_MASTER.
    pub master: Option<u32>,
    /// Of a port of a bridge or a bond: whether it is one that takes frames (IFLA_BRPORT_STATE, IFLA_BOND_SLAVE_STATE).
    #[serde(default)]
    pub forwards: Option<bool>,
    /// Of a bridge: it filters VLANs (IFLA_BR_VLAN_FILTERING). Of a bond: its backup ports take frames, too
    /// (IFLA_BOND_ALL_SLAVES_ACTIVE).
    #[serde(default)]
    pub ports_differ: bool,
    /// Of a port of a bridge: it takes frames from senders alone that the bridge knows there (IFLA_BRPORT_LOCKED).
    #[serde(default)]
    pub locked: bool,
    /// Of a port of a bridge: the bridge itself may answer ARP requests because of it (IFLA_BRPORT_PROXYARP,
    /// IFLA_BRPORT_PROXYARP_WIFI, IFLA_BRPORT_NEIGH_SUPPRESS, IFLA_BRPORT_NEIGH_VLAN_SUPPRESS).
    #[serde(default)]
    pub bridge_answers: bool,
    /// IFLA_VRF_TABLE of a VRF.
    pub vrf_table: Option<u32>,
    /// IFLA_GROUP.
    pub group: u32,
    /// IFLA_LINK: a veth's other end, or the device below a stacked one; in this namespace if `link_netnsid` is `None`.
    pub link: Option<u32>,
    /// IFLA_LINK_NETNSID.
    pub link_netnsid: Option<i32>,
    /// IFLA_INFO_KIND: `veth`, `bridge`, `vlan` …
    pub kind: Option<String>,
    /// Identifier of the XDP program on the link (IFLA_XDP_PROG_ID, whatever its mode); of several, the one that
    /// sees a frame first.
    pub xdp_program: Option<u32>,
    /// IFLA_CARRIER_CHANGES: how often it has gained or lost its carrier.
    pub carrier_changes: u32,
    /// The link has programs in more than one mode (XDP_ATTACHED_MULTI).
    pub xdp_multiple: bool,
    /// IFLA_QDISC is not `noqueue`: what the link sends may wait, or be dropped.
    pub queues: bool,
    /// `net.ipv4.conf.<name>.*` (IFLA_INET_CONF); `None` if the device has no IPv4 settings.
    pub settings: Option<Settings>,
}

macro_rules! settings {
    ($($constant:ident $name:ident,)*) => {
        /// The values under `net.ipv4.conf.<interface or all>` that answering depends on, raw: not combined with those of
        /// `all`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Settings {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub $name: i32,
            )*
        }

        impl From<[i32; CONF.len()]> for Settings {
            /// The values in the order of [`CONF`].
            fn from([$($name),*]: [i32; CONF.len()]) -> Self {
                Settings { $($name),* }
            }
        }
    };
}
for_conf!(settings);
