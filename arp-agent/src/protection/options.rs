//! The settings of `arp-agent run` about policies, each value checked by itself.

use crate::interval::Interval;
use crate::prefix::Prefix;
use arp_common::Lladdr;
use arp_common::binding::BindingKind;
use arp_common::guard::{DropMode, Rate};
use clap::Args;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Above the policies in `--help`.
const HEADING: &str = "Protection (off by default)";

/// What the policies are to do. GLOB is an interface's name or a pattern; of several that match the last one counts.
#[derive(Clone, Debug, Args)]
pub struct ProtectionOptions {
    /// Sender-guard: `off`, `count` or `drop` ARP frames whose sender is not routed back by the interface. Of several
    /// patterns that match an interface the last one counts.
    #[arg(long, value_name = "GLOB=MODE", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub sender_guard: Vec<For<SenderGuardOption>>,
    /// Senders that the sender-guard lets up all the same, and whose address may move in spite of the binding: from any
    /// link-layer address, or to one.
    #[arg(long, value_name = "GLOB=PREFIX[=MAC]", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub sender_allow: Vec<For<Allowed>>,
    /// How long after the link came up the sender-guard lets up to 8 frames of other senders up: their routes may come
    /// later.
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = HEADING)]
    pub sender_grace: Interval<0, 60_000>,
    /// Entry-limit: `off`, `count` or `drop` requests of unknown senders while the interface has N neighbour entries (64
    /// unless N is given). The last eighth of N is for requests that come while the agent writes its tables, and that may
    /// be of known senders. Of several patterns that match an interface the last one counts.
    #[arg(long, value_name = "GLOB=MODE[:N]", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub entry_limit: Vec<For<EntryLimit>>,
    /// Budget: `off`, `count` or `drop` ARP frames above a rate in frames a second, with a burst: of frames that the kernel
    /// may learn from (50/512 unless given), and of all others (50/128). Of several patterns that match an interface the
    /// last one counts.
    #[arg(
        long,
        value_name = "GLOB=MODE[:RATE/BURST[,RATE/BURST]]",
        num_args = 1..,
        value_delimiter = ' ',
        help_heading = HEADING
    )]
    pub budget: Vec<For<Budgets>>,
    /// Binding: `off`, `count` or `drop` ARP frames whose sender's address another client of the interface has, by its neighbour
    /// entry: until that one is silent when it is asked (`learn`), as long as there is the entry (`fixed`), and only if the
    /// Ethernet source is the sender's (`strict`). Of several patterns that match an interface the last one counts.
    #[arg(
        long,
        value_name = "GLOB=MODE[:learn|fixed|strict]",
        num_args = 1..,
        value_delimiter = ' ',
        help_heading = HEADING
    )]
    pub binding: Vec<For<Binding>>,
    /// Unresolved-budget: while the neighbour table fills, `off`, `count` or `drop` IP packets to next hops that the node must
    /// resolve first, above a rate a second, with a burst (30/320 unless given). Of several patterns that match an interface
    /// the last one counts.
    #[arg(long, value_name = "GLOB=MODE[:RATE/BURST]", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub unresolved_budget: Vec<For<Unresolved>>,
    /// What all interfaces with an unresolved-budget may have together, as a rate a second and a burst.
    #[arg(long, value_name = "RATE/BURST", default_value = "85/256", value_parser = rate, help_heading = HEADING)]
    pub unresolved_node: Rate,
}

/// A value for the interfaces of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct For<T> {
    /// The pattern.
    pub glob: String,
    /// What holds for them.
    pub value: T,
}

impl<T: FromStr<Err = String>> FromStr for For<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (glob, value) = text.split_once('=').ok_or("an interface's name or pattern and `=` are missing")?;
        if glob.is_empty() {
            return Err("the interface's name or pattern is missing".to_owned());
        }
        Ok(For { glob: glob.to_owned(), value: value.parse()? })
    }
}

/// `off`, `count` or `drop`.
fn mode(text: &str) -> Result<DropMode, String> {
    match text {
        "off" => Ok(DropMode::Off),
        "count" => Ok(DropMode::Count),
        "drop" => Ok(DropMode::Drop),
        _ => Err(format!("`{text}` is none of off, count and drop")),
    }
}

/// The mode, and what stands behind a colon.
fn mode_and_more(text: &str) -> Result<(DropMode, Option<&str>), String> {
    match text.split_once(':') {
        Some((first, more)) => Ok((mode(first)?, Some(more))),
        None => Ok((mode(text)?, None)),
    }
}

/// The sender-guard's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderGuardOption(pub DropMode);

impl FromStr for SenderGuardOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mode(text).map(SenderGuardOption)
    }
}

/// Senders that are let up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Their addresses.
    pub prefix: Prefix,
    /// Their link-layer address; `None` for any.
    pub lladdr: Option<Lladdr>,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, lladdr) = match text.split_once('=') {
            Some((prefix, lladdr)) => (prefix, Some(lladdr.parse::<Lladdr>().map_err(|error| error.to_string())?)),
            None => (text, None),
        };
        let (addr, len) = prefix.split_once('/').unwrap_or((prefix, "32"));
        let addr: Ipv4Addr = addr.parse().map_err(|_| format!("`{addr}` is no IPv4 address"))?;
        let len: u8 =
            len.parse().ok().filter(|len| *len <= 32).ok_or_else(|| format!("`{len}` is no prefix length"))?;
        let prefix = Prefix::new(addr.octets(), len);
        if prefix.addr != u32::from(addr) {
            return Err(format!("{addr}/{len} has host bits: write {}/{len}", Ipv4Addr::from(prefix.addr)));
        }
        if lladdr.is_some_and(|lladdr| lladdr.is_group() || lladdr.word() == 0) {
            return Err("no sender has this link-layer address".to_owned());
        }
        Ok(Allowed { prefix, lladdr })
    }
}

/// The entry-limit's mode, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLimit {
    /// The mode.
    pub mode: DropMode,
    /// Most entries.
    pub entries: u64,
}

impl FromStr for EntryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const DEFAULT: u64 = 64;
        let (mode, entries) = mode_and_more(text)?;
        let entries = entries.map_or(Ok(DEFAULT), |entries| positive(entries, "number of entries"))?;
        Ok(EntryLimit { mode, entries })
    }
}

/// The budget's mode, and both budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// The mode.
    pub mode: DropMode,
    /// Of frames that the kernel may learn from.
    pub learn: Rate,
    /// Of all others.
    pub other: Rate,
}

impl FromStr for Budgets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // keepalived announces 50 addresses with 500 frames at once.
        const LEARN: &str = "50/512";
        const OTHER: &str = "50/128";
        let (mode, rates) = mode_and_more(text)?;
        let (learn, other) = match rates.map(|rates| rates.split_once(',').unwrap_or((rates, OTHER))) {
            Some(rates) => rates,
            None => (LEARN, OTHER),
        };
        Ok(Budgets { mode, learn: rate(learn)?, other: rate(other)? })
    }
}

/// The binding's mode, and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The mode.
    pub mode: DropMode,
    /// How a binding comes about, and what ends it.
    pub kind: BindingKind,
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mode, kind) = mode_and_more(text)?;
        let kind = match kind {
            None | Some("learn") => BindingKind::Learn,
            Some("fixed") => BindingKind::Fixed,
            Some("strict") => BindingKind::Strict,
            Some(other) => return Err(format!("`{other}` is none of learn, fixed and strict")),
        };
        Ok(Binding { mode, kind })
    }
}

/// The unresolved-budget's mode, and the budget of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The mode.
    pub mode: DropMode,
    /// Of packets whose next hop is not resolved.
    pub budget: Rate,
}

impl FromStr for Unresolved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Half of the burst is an interface's in any case: 128 hosts contacted at once, and some more.
        const DEFAULT: &str = "30/320";
        let (mode, budget) = mode_and_more(text)?;
        Ok(Unresolved { mode, budget: rate(budget.unwrap_or(DEFAULT))? })
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    const SECOND: u64 = 1_000_000_000;
    let (rate, burst) = text.split_once('/').ok_or_else(|| format!("`{text}` is no rate and burst such as 50/512"))?;
    let interval = SECOND / positive(rate, "rate")?;
    Ok(Rate { interval, depth: interval * positive(burst, "burst")? })
}

/// A number from 1 to a million.
fn positive(text: &str, what: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| format!("the {what} `{text}` is not in 1..=1000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_help_says() {
        let limit = |text: &str| text.parse::<For<EntryLimit>>();
        let expected = For { glob: "cali*".into(), value: EntryLimit { mode: DropMode::Drop, entries: 100 } };
        assert_eq!(limit("cali*=drop:100"), Ok(expected));
        assert_eq!(limit("eth0=count").unwrap().value, EntryLimit { mode: DropMode::Count, entries: 64 });
        let budgets = "v0=drop:100/10".parse::<For<Budgets>>().unwrap().value;
        assert_eq!(budgets.learn, Rate { interval: 10_000_000, depth: 100_000_000 });
        assert_eq!(budgets.other, Rate { interval: 20_000_000, depth: 2_560_000_000 }, "the default");
        let binding = |text: &str| text.parse::<For<Binding>>().map(|of| of.value);
        assert_eq!(binding("v0=count"), Ok(Binding { mode: DropMode::Count, kind: BindingKind::Learn }));
        assert_eq!(binding("v0=drop:strict"), Ok(Binding { mode: DropMode::Drop, kind: BindingKind::Strict }));
        assert!(binding("v0=drop:always").unwrap_err().contains("learn, fixed and strict"));
        let unresolved = |text: &str| text.parse::<For<Unresolved>>().map(|of| of.value);
        let budget = Rate { interval: 100_000_000, depth: 2_000_000_000 };
        assert_eq!(unresolved("v*=drop:10/20"), Ok(Unresolved { mode: DropMode::Drop, budget }));
        let budget = Rate { interval: 33_333_333, depth: 10_666_666_560 };
        assert_eq!(unresolved("v*=count"), Ok(Unresolved { mode: DropMode::Count, budget }), "the default");
        let allowed = "v0=10.8.0.0/24=02:00:00:00:00:01".parse::<For<Allowed>>().unwrap().value;
        assert_eq!(allowed.prefix, Prefix::new([10, 8, 0, 0], 24));
        assert_eq!(allowed.lladdr, Some(Lladdr::new([2, 0, 0, 0, 0, 1])));
        assert_eq!("v0=10.8.0.7".parse::<For<Allowed>>().unwrap().value.prefix.len, 32);
    }

    #[test]
    fn bad_values_are_refused_with_the_cause() {
        let refused = |text: &str| text.parse::<For<Allowed>>().unwrap_err();
        assert!(refused("v0=10.8.0.1/24").contains("host bits: write 10.8.0.0/24"));
        assert!(refused("v0=10.8.0.0/33").contains("`33`"));
        assert!(refused("v0=10.8.0/24").contains("`10.8.0`"));
        assert!(refused("10.8.0.0/24").contains("`=`"));
        assert!(refused("v0=10.8.0.0/24=ff:ff:ff:ff:ff:ff").contains("no sender"));
        assert!("v0=drop:0".parse::<For<EntryLimit>>().unwrap_err().contains("`0`"));
        assert!("v0=on".parse::<For<SenderGuardOption>>().unwrap_err().contains("off, count and drop"));
        assert!("=drop".parse::<For<SenderGuardOption>>().unwrap_err().contains("missing"));
        for bad in ["v0=drop:50", "v0=drop:0/1", "v0=drop:1/0", "v0=drop:1/1,1", "v0=drop:2000000/1"] {
            assert!(bad.parse::<For<Budgets>>().is_err(), "{bad}");
        }
    }
}
