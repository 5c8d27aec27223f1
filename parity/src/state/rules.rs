//! Routing rules, as `ip` prints them, and what their selectors say of an ARP request.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::routes::number_of_table;
use super::{group, text};

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRule {
    pub(crate) priority: u32,
    /// It matches what its selectors do not match.
    pub(crate) inverted: bool,
    pub(crate) from: Option<(Ipv4Addr, u8)>,
    pub(crate) to: Option<(Ipv4Addr, u8)>,
    /// The interface that it names, and whether the kernel says that none has the name.
    pub(crate) iif: Option<(String, bool)>,
    pub(crate) l3mdev: bool,
    /// What all other selectors say of an ARP request, which has no mark, no port and no protocol; `None` if there is one
    /// that is not known here.
    pub(crate) others: Option<bool>,
    pub(crate) action: RuleEffect,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleEffect {
    Lookup {
        /// `None`: the table of the VRF.
        table: Option<u32>,
        /// Routes of a prefix that is no longer are passed over.
        suppressed_len: Option<u8>,
        /// Routes by an interface of the group are passed over.
        suppressed_group: Option<u32>,
    },
    Goto(u32),
    Nothing,
    /// Unreachable, blackhole, prohibit, or what the kernel does not know.
    End,
}

impl KernelRule {
    /// The rule from a row of `ip -4 -j rule`.
    pub(super) fn of(row: &Value) -> Self {
        let has = |key: &str| row.get(key).is_some();
        let number = |key: &str| row[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let iif = row["iif"].as_str().map(|name| (name.to_owned(), has("iif_detached")));
        KernelRule {
            priority: number("priority").unwrap_or_default(),
            inverted: has("not"),
            from: prefix(row, "src", "srclen"),
            to: prefix(row, "dst", "dstlen"),
            iif,
            l3mdev: has("l3mdev"),
            others: others(row),
            action: match () {
                () if has("goto") => RuleEffect::Goto(number("goto").unwrap_or_default()),
                () if has("nop") => RuleEffect::Nothing,
                () if has("table") || has("l3mdev") => RuleEffect::Lookup {
                    table: (!has("l3mdev")).then(|| number_of_table(row["table"].as_str())),
                    suppressed_len: number("suppress_prefixlen").and_then(|len| len.try_into().ok()),
                    suppressed_group: row["suppress_ifgroup"].as_str().map(group),
                },
                () => RuleEffect::End,
            },
        }
    }
}

/// The selectors that are the same for every ARP request.
fn others(row: &Value) -> Option<bool> {
    // What is treated elsewhere, or selects nothing.
    const ELSEWHERE: [&str; 22] = [
        "priority",
        "not",
        "src",
        "srclen",
        "dst",
        "dstlen",
        "iif",
        "iif_detached",
        "l3mdev",
        "goto",
        "unresolved",
        "nop",
        "action",
        "table",
        "suppress_prefixlen",
        "suppress_ifgroup",
        "flow_from",
        "flow_to",
        "protocol",
        "fwmask",
        "uid_end",
        "oif_detached",
    ];
    let mut known = true;
    for (key, value) in row.as_object().into_iter().flatten() {
        match key.as_str() {
            key if ELSEWHERE.contains(&key) => {}
            "oif" | "tos" | "ipproto" | "tun_id" => return Some(false),
            "sport" | "sport_start" | "sport_end" | "dport" | "dport_start" | "dport_end" => return Some(false),
            "fwmark" => {
                let mask = row["fwmask"].as_str().map_or(u32::MAX, hexadecimal);
                if hexadecimal(value.as_str().unwrap_or_default()) & mask != 0 {
                    return Some(false);
                }
            }
            "uid_start" => {
                if value != 0 {
                    return Some(false);
                }
            }
            _ => known = false,
        }
    }
    known.then_some(true)
}

fn prefix(row: &Value, address: &str, len: &str) -> Option<(Ipv4Addr, u8)> {
    let address = text(row, address).parse().ok()?;
    Some((address, row[len].as_u64().and_then(|len| len.try_into().ok()).unwrap_or(32)))
}

fn hexadecimal(text: &str) -> u32 {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default()
}

/// Whether the rules are the three that every namespace begins with.
pub(super) fn are_default(rules: &[KernelRule]) -> bool {
    let plain = |priority: u32, table: u32| KernelRule {
        priority,
        inverted: false,
        from: None,
        to: None,
        iif: None,
        l3mdev: false,
        others: Some(true),
        action: RuleEffect::Lookup { table: Some(table), suppressed_len: None, suppressed_group: None },
    };
    rules == [plain(0, super::LOCAL), plain(32766, super::MAIN), plain(32767, super::DEFAULT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> KernelRule {
        KernelRule::of(&serde_json::from_str(text).unwrap())
    }

    /// As iproute2 6.1 prints them.
    #[test]
    fn selectors_are_read_as_ip_prints_them() {
        let others = |selectors: &str| rule(&format!(r#"{{"priority":1,"src":"all",{selectors},"table":"7"}}"#)).others;
        assert_eq!(others(r#""fwmark":"0x200","fwmask":"0xf00""#), Some(false));
        assert_eq!(others(r#""fwmark":"0","fwmask":"0x1""#), Some(true));
        assert_eq!(others(r#""uid_start":0,"uid_end":1000"#), Some(true));
        assert_eq!(others(r#""uid_start":1000,"uid_end":2000"#), Some(false));
        assert_eq!(others(r#""ipproto":"tcp","sport":7,"dport_start":8,"dport_end":9"#), Some(false));
        assert_eq!(others(r#""dscp":"0x8""#), None);
        let goto = rule(
            r#"{"priority":101,"not":null,"src":"10.0.0.0","srclen":24,"dst":"10.2.0.0","dstlen":16,"goto":200,"unresolved":null}"#,
        );
        assert!(goto.inverted && goto.action == RuleEffect::Goto(200));
        assert_eq!(goto.from, Some((Ipv4Addr::new(10, 0, 0, 0), 24)));
        let suppressing =
            rule(r#"{"priority":9,"src":"all","iif":"x","iif_detached":null,"table":"main","suppress_prefixlen":0}"#);
        assert_eq!(suppressing.iif, Some(("x".to_owned(), true)));
        assert_eq!(
            suppressing.action,
            RuleEffect::Lookup { table: Some(254), suppressed_len: Some(0), suppressed_group: None }
        );
        assert_eq!(rule(r#"{"priority":9,"src":"all","action":"prohibit"}"#).action, RuleEffect::End);
    }
}
