//! The sysctls that answers depend on: what the agent reads, and what the sysctl hook looks out for.

/// Hands the names under `net.ipv4.conf.<interface, all or default>` to a macro: this list is the only one of them.
#[macro_export]
macro_rules! for_conf {
    ($macro:ident) => {
        $macro! {
            FORWARDING forwarding,
            PROXY_ARP proxy_arp,
            PROXY_ARP_PVLAN proxy_arp_pvlan,
            MEDIUM_ID medium_id,
            ARP_IGNORE arp_ignore,
            ARP_FILTER arp_filter,
            RP_FILTER rp_filter,
            ACCEPT_LOCAL accept_local,
            ROUTE_LOCALNET route_localnet,
            DROP_GRATUITOUS_ARP drop_gratuitous_arp,
            IGNORE_ROUTES_WITH_LINKDOWN ignore_routes_with_linkdown,
        }
    };
}

macro_rules! names {
    ($($constant:ident $name:ident,)*) => {
        $(
            #[doc = concat!("`net.ipv4.conf.<interface>.", stringify!($name), "`.")]
            pub const $constant: &str = stringify!($name);
        )*
        /// Under `net.ipv4.conf.<interface, all or default>`.
        pub const CONF: [&str; [$($constant),*].len()] = [$($constant),*];
    };
}
for_conf!(names);

/// Under `net.ipv4.neigh.<interface or default>`.
pub const PROXY_DELAY: &str = "proxy_delay";

/// `net.ipv4.ip_forward`: another name of `net.ipv4.conf.all.forwarding`.
pub const IP_FORWARD: &str = "ip_forward";

/// What the paths of all of them begin with, below /proc/sys, before a slash.
pub const PREFIX: &[u8; 8] = b"net/ipv4";

/// What follows that prefix and its slash in the paths of [`PROXY_DELAY`].
pub const NEIGH: &[u8; 6] = b"neigh/";

/// The way from a write of a setting to the number of the network namespace whose setting it is: types of the kernel,
/// each with the member that leads on (Linux 5.15 to 6.18: kernel/bpf/cgroup.c, include/linux/sysctl.h,
/// include/net/neighbour.h, include/net/net_namespace.h, include/linux/ns_common.h). A setting of `conf`, and `ip_forward`,
/// has its network namespace in `extra2` (net/ipv4/devinet.c); one of `neigh` has the `neigh_parms` there, which
/// have it (net/core/neighbour.c).
pub const NETNS_WAY: [(&str, &str); 5] = [
    ("bpf_sysctl_kern", "table"),
    ("ctl_table", "extra2"),
    ("neigh_parms", "net"),
    ("net", "ns"),
    ("ns_common", "inum"),
];

/// Everybody's writes count.
pub const EVERYBODY: u64 = 0;
/// Nobody's writes count.
pub const NOBODY: u64 = u64::MAX;

/// Whose a setting is, for the agent, which tries whether the program finds the right way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The number (the inode) of the network namespace; 0 if it could not be found.
    pub netns: u32,
    /// It is a setting under `neigh`, to which another way leads.
    pub is_neigh: bool,
}

impl Whose {
    /// The agent asks.
    pub const ASKED: u64 = u64::MAX;

    /// As one word, which is never [`Whose::ASKED`].
    #[inline(always)]
    pub const fn word(self) -> u64 {
        (self.is_neigh as u64) << 32 | self.netns as u64
    }
}

/// A name (the path's last component) as machine words, for comparing it at once. The rest is 0.
pub type PackedName = [u64; 4];

/// All names as words.
pub const NAMES: [PackedName; CONF.len() + 2] = {
    let mut names = [[0; 4]; CONF.len() + 2];
    let mut at = 0;
    while at < CONF.len() {
        names[at] = words(CONF[at]);
        at += 1;
    }
    names[CONF.len()] = words(PROXY_DELAY);
    names[CONF.len() + 1] = words(IP_FORWARD);
    names
};

const fn words(name: &str) -> PackedName {
    let bytes = name.as_bytes();
    assert!(bytes.len() < size_of::<PackedName>(), "there must be room for the kernel's final 0");
    let mut words = [[0; 8]; 4];
    let mut at = 0;
    while at < bytes.len() {
        words[at / 8][at % 8] = bytes[at];
        at += 1;
    }
    let [a, b, c, d] = words;
    [u64::from_ne_bytes(a), u64::from_ne_bytes(b), u64::from_ne_bytes(c), u64::from_ne_bytes(d)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_names_bytes() {
        let text = |word: PackedName| -> std::string::String {
            let bytes = word.into_iter().flat_map(u64::to_ne_bytes);
            bytes.take_while(|&byte| byte != 0).map(char::from).collect()
        };
        let names: std::vec::Vec<_> = NAMES.into_iter().map(text).collect();
        assert_eq!(names[..CONF.len()], CONF);
        assert_eq!(names[CONF.len()..], ["proxy_delay", "ip_forward"]);
    }
}
