//! The settings of `arp-agent run` about policies that answer, each value checked by itself.

use crate::protection::options::For;
use arp_common::deviation::AnswerMode;
use clap::Args;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Above these policies in `--help`.
const HEADING: &str = "Answers that the kernel would not give (off by default)";

/// What the policies are to do. GLOB is an interface's name or a pattern; of several that match the last one counts.
#[derive(Clone, Debug, Default, Args)]
pub struct DeviationOptions {
    /// Gateway: addresses that are answered on the interface while the node has no route to them; the kernel stays silent
    /// then. MODE is `answer` unless given, `count` (count what would be answered), or `off`. Of several patterns that match
    /// an interface the last one counts.
    #[arg(long, value_name = "GLOB=[MODE:]ADDRESS[,ADDRESS]", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub gateway: Vec<For<Gateways>>,
    /// No-delay: `answer` at once what the kernel answers after a `proxy_delay`, `count` it, or `off`. Setting the sysctl to
    /// 0 does the same without a policy. Of several patterns that match an interface the last one counts.
    #[arg(long, value_name = "GLOB=MODE", num_args = 1.., value_delimiter = ' ', help_heading = HEADING)]
    pub no_delay: Vec<For<NoDelayOption>>,
}

/// `off`, `count` or `answer`.
fn mode(text: &str) -> Result<AnswerMode, String> {
    match text {
        "off" => Ok(AnswerMode::Off),
        "count" => Ok(AnswerMode::Count),
        "answer" => Ok(AnswerMode::Answer),
        _ => Err(format!("`{text}` is none of off, count and answer")),
    }
}

/// The mode of no-delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDelayOption(pub AnswerMode);

impl FromStr for NoDelayOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mode(text).map(NoDelayOption)
    }
}

/// The mode of gateway, and the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateways {
    /// The mode.
    pub mode: AnswerMode,
    /// The addresses; none with [`AnswerMode::Off`].
    pub addresses: Vec<Ipv4Addr>,
}

impl FromStr for Gateways {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Gateways { mode: AnswerMode::Off, addresses: Vec::new() });
        }
        let (mode, addresses) = match text.split_once(':') {
            Some((first, addresses)) => (mode(first)?, addresses),
            None if mode(text).is_ok() => return Err(format!("the addresses are missing: {text}:169.254.1.1")),
            None => (AnswerMode::Answer, text),
        };
        let addresses = addresses.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        Ok(Gateways { mode, addresses })
    }
}

fn address(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| format!("`{text}` is no IPv4 address"))?;
    let is_nobodys =
        address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback();
    if is_nobodys { Err(format!("{address} is no host's address: nobody answers for it")) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_help_says() {
        let gateways = |text: &str| text.parse::<For<Gateways>>().map(|of| of.value);
        let [first, second] = [Ipv4Addr::new(169, 254, 1, 1), Ipv4Addr::new(10, 0, 0, 1)];
        for (text, mode, addresses) in [
            ("cali*=169.254.1.1", AnswerMode::Answer, vec![first]),
            ("cali*=169.254.1.1,10.0.0.1", AnswerMode::Answer, vec![first, second]),
            ("cali*=count:169.254.1.1", AnswerMode::Count, vec![first]),
            ("cali*=answer:10.0.0.1", AnswerMode::Answer, vec![second]),
            ("cali*=off", AnswerMode::Off, vec![]),
        ] {
            assert_eq!(gateways(text), Ok(Gateways { mode, addresses }), "{text}");
        }
        assert_eq!("v0=answer".parse::<For<NoDelayOption>>().unwrap().value, NoDelayOption(AnswerMode::Answer));
    }

    #[test]
    fn bad_values_are_refused_with_the_cause() {
        let refused = |text: &str| text.parse::<For<Gateways>>().unwrap_err();
        assert!(refused("v0=drop:169.254.1.1").contains("off, count and answer"));
        assert!(refused("v0=count").contains("addresses are missing"));
        assert!(refused("v0=169.254.1.1/32").contains("`169.254.1.1/32` is no IPv4 address"));
        assert!(refused("v0=169.254.1.1,").contains("`` is no IPv4 address"));
        for nobodys in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"] {
            assert!(refused(&format!("v0={nobodys}")).contains("no host's address"), "{nobodys}");
        }
        assert!(refused("169.254.1.1").contains("`=`"));
        assert!("v0=drop".parse::<For<NoDelayOption>>().unwrap_err().contains("off, count and answer"));
    }
}
