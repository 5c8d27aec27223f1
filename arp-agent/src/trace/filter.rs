//! Which frames a trace shows.

use super::FrameVerdict;
use crate::prefix::Prefix;
use anyhow::{Context as _, bail};
use arp_common::Reason;
use arp_common::reason::ANSWERED;
use arp_common::trace::Told;
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What a client wants to see: each part that is not empty must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Filter {
    /// Patterns of interfaces' names, one of which fits.
    pub interfaces: Vec<String>,
    /// Where `spa` lies.
    pub sender: Option<Prefix>,
    /// Where `tpa` lies.
    pub target: Option<Prefix>,
    /// What became of the frame.
    pub verdict: Option<FrameVerdict>,
    /// Names of reasons, one of which fits.
    pub reasons: Vec<String>,
}

/// A filter whose patterns and names have been found right.
#[derive(Debug)]
pub(crate) struct CheckedFilter {
    interfaces: Option<GlobSet>,
    sender: Option<Prefix>,
    target: Option<Prefix>,
    mask: u64,
}

impl Filter {
    /// Checks it.
    ///
    /// # Errors
    /// A pattern is no glob, there is no reason of a name, or nothing could ever fit.
    pub(crate) fn check(&self) -> anyhow::Result<CheckedFilter> {
        let mut globs = GlobSetBuilder::new();
        for pattern in &self.interfaces {
            globs.add(Glob::new(pattern).with_context(|| {
                format!("--interface {pattern}: not a glob (try a name, or a pattern such as `cali*`)")
            })?);
        }
        Ok(CheckedFilter {
            interfaces: (!self.interfaces.is_empty()).then(|| globs.build()).transpose()?,
            sender: self.sender,
            target: self.target,
            mask: self.mask()?,
        })
    }

    fn mask(&self) -> anyhow::Result<u64> {
        const ANSWERS: u64 = 1 << ANSWERED;
        let verdict = match self.verdict {
            None => u64::MAX,
            Some(FrameVerdict::Answered) => ANSWERS,
            Some(FrameVerdict::Passed) => !ANSWERS,
        };
        if self.reasons.is_empty() {
            return Ok(verdict);
        }
        let mut mask = 0;
        for name in &self.reasons {
            mask |= 1 << reason(name).map_err(anyhow::Error::msg)?.counter();
        }
        if mask & verdict == 0 {
            bail!("--verdict answered --reason {}: a frame that is answered has no reason", self.reasons[0]);
        }
        Ok(mask & verdict)
    }
}

impl CheckedFilter {
    /// A bit for each counter that frames are wanted of ([`arp_common::trace::TraceControl::mask`]).
    pub(crate) fn mask(&self) -> u64 {
        self.mask
    }

    /// Whether frames of an interface are wanted.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        self.interfaces.as_ref().is_none_or(|globs| globs.is_match(name))
    }

    /// Whether a frame is wanted that came in on an interface of this name.
    pub(crate) fn has(&self, told: &Told, interface: &str) -> bool {
        let frame = told.frame();
        let lies = |prefix: Option<Prefix>, addr| prefix.is_none_or(|prefix| prefix.contains(u32::from_be_bytes(addr)));
        arp_common::trace::TraceControl::is_told(self.mask, told.reason.into())
            && lies(self.sender, frame.spa())
            && lies(self.target, frame.tpa())
            && self.has_interface(interface)
    }
}

/// The reason of a name.
///
/// # Errors
/// There is none; the nearest is named.
pub(crate) fn reason(name: &str) -> Result<Reason, String> {
    Reason::from_name(name).ok_or_else(|| {
        let distance = |reason: &&Reason| strsim::damerau_levenshtein(reason.name(), name);
        let nearest = Reason::ALL.iter().min_by_key(distance).map_or("no_route", |reason| reason.name());
        format!("no reason has this name; the nearest is {nearest}, and `arp-agent stats` shows those that occur")
    })
}

/// A prefix such as `10.0.0.0/8`, or an address.
///
/// # Errors
/// It is neither.
pub(crate) fn prefix(text: &str) -> Result<Prefix, String> {
    let (addr, len) = text.split_once('/').unwrap_or((text, "32"));
    let addr: Ipv4Addr = addr.parse().map_err(|_| format!("`{addr}` is no IPv4 address"))?;
    let len: u8 = len.parse().ok().filter(|len| *len <= 32).ok_or_else(|| format!("`{len}` is no prefix length"))?;
    let prefix = Prefix::new(addr.octets(), len);
    if prefix.addr != u32::from(addr) {
        return Err(format!("{addr}/{len} has host bits: write {}/{len}", Ipv4Addr::from(prefix.addr)));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    fn fits(filter: Filter, reason: Option<Reason>) -> bool {
        filter.check().unwrap().has(&told(reason, None), "cali0")
    }

    #[test]
    fn each_part_of_a_filter_must_fit() {
        let all = Filter::default();
        assert!(fits(all.clone(), None) && fits(all.clone(), Some(Reason::SHADOW)));
        let on = |pattern: &str| Filter { interfaces: vec!["eth0".into(), pattern.into()], ..all.clone() };
        assert!(fits(on("cali*"), None) && !fits(on("veth*"), None));
        let from = |text| Filter { sender: Some(prefix(text).unwrap()), ..all.clone() };
        assert!(
            fits(from("10.244.0.0/16"), None) && fits(from("10.244.235.132"), None) && !fits(from("10.8.0.0/16"), None)
        );
        let to = |text| Filter { target: Some(prefix(text).unwrap()), ..all.clone() };
        assert!(fits(to("169.254.1.1"), None) && !fits(to("169.254.1.2"), None) && fits(to("0.0.0.0/0"), None));
        let both = Filter { target: to("169.254.1.1").target, ..on("veth*") };
        assert!(!fits(both, None));
    }

    #[test]
    fn verdicts_and_reasons_are_bits_of_counters() {
        let of = |verdict, reasons: &[&str]| Filter {
            verdict,
            reasons: reasons.iter().map(|&name| name.to_owned()).collect(),
            ..Filter::default()
        };
        let no_route = Some(Reason::NO_ROUTE);
        assert!(
            fits(of(Some(FrameVerdict::Answered), &[]), None) && !fits(of(Some(FrameVerdict::Answered), &[]), no_route)
        );
        assert!(
            !fits(of(Some(FrameVerdict::Passed), &[]), None) && fits(of(Some(FrameVerdict::Passed), &[]), no_route)
        );
        let two = of(None, &["no_route", "shadow"]);
        assert!(fits(two.clone(), no_route) && !fits(two.clone(), Some(Reason::BAD_HEADER)) && !fits(two, None));
        let never = of(Some(FrameVerdict::Answered), &["no_route"]).check().unwrap_err().to_string();
        assert_eq!(never, "--verdict answered --reason no_route: a frame that is answered has no reason");
        let unknown = of(None, &["no_rout"]).check().unwrap_err().to_string();
        assert!(unknown.contains("the nearest is no_route"), "{unknown}");
    }

    #[test]
    fn prefixes_are_whole_and_globs_are_globs() {
        assert_eq!(prefix("10.0.0.0/8"), Ok(Prefix::new([10, 0, 0, 0], 8)));
        assert!(prefix("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8"));
        assert!(prefix("pod").unwrap_err().contains("no IPv4 address"));
        assert!(prefix("10.0.0.0/33").unwrap_err().contains("no prefix length"));
        let filter = Filter { interfaces: vec!["cali[".into()], ..Filter::default() };
        assert!(format!("{:#}", filter.check().unwrap_err()).contains("--interface cali[: not a glob"));
    }
}
