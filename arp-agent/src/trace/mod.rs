//! What a trace shows: each frame that reached the program, and what became of it (docs/adr/0020-trace.md).

pub(crate) mod filter;
pub(crate) mod pcapng;

use arp_common::deviation::Deviation;
use arp_common::trace::Told;
use arp_common::{ArpFrame, Lladdr, PackedArp, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A frame, as `trace --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// When its verdict was known, in seconds since 1970, to the microsecond.
    pub time: f64,
    /// The interface that it came in on; its number, if it has gone.
    pub interface: String,
    /// The interface's index.
    pub ifindex: u32,
    /// What became of it.
    pub verdict: FrameVerdict,
    /// The name of the reason for a pass; `null` of an answer.
    pub reason: Option<String>,
    /// The policy that answered what the kernel would not, or not at once; else `null`.
    pub policy: Option<String>,
    /// `request`, `reply`, or `null` for a frame that is neither.
    pub operation: Option<String>,
    /// `spa`.
    pub sender: Ipv4Addr,
    /// `sha`.
    pub sender_lladdr: Lladdr,
    /// `tpa`.
    pub target: Ipv4Addr,
    /// The link-layer address that the answer carries, or with the reason `shadow` would; else `null`.
    pub answer: Option<Lladdr>,
    /// The frame's first 42 bytes, in hexadecimal digits.
    pub frame: String,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FrameVerdict {
    /// It was answered.
    Answered,
    /// It was left to the kernel.
    Passed,
}

impl Shown {
    /// A frame that a program has told of. `wall`: what the wall clock is ahead of CLOCK_MONOTONIC, in ns.
    pub(crate) fn new(told: &Told, interface: &str, wall: i128) -> Self {
        let frame = told.frame();
        let micros = (i128::from(told.time) + wall + 500).div_euclid(1000);
        let reason = (told.reason != 0).then(|| Reason::from_raw(told.reason.into()));
        let would_answer = reason.is_none_or(|reason| reason == Reason::SHADOW);
        Shown {
            time: micros as f64 / 1e6,
            interface: interface.to_owned(),
            ifindex: told.ifindex,
            verdict: if reason.is_none() { FrameVerdict::Answered } else { FrameVerdict::Passed },
            reason: reason.map(|reason| reason.name().to_owned()),
            policy: policy(told.policy.into()),
            operation: operation(&frame).map(str::to_owned),
            sender: frame.spa().into(),
            sender_lladdr: frame.sha(),
            target: frame.tpa().into(),
            answer: told.mac().filter(|_| would_answer),
            frame: hex::encode(frame.to_bytes()),
        }
    }

    /// The frame, if its digits are whole.
    pub(crate) fn packed(&self) -> Option<PackedArp> {
        Some(PackedArp::from(&ArpFrame::from_bytes(&hex::decode(&self.frame).ok()?)?))
    }

    /// As people read it.
    pub(crate) fn line(&self) -> String {
        let time = Timestamp::from_microsecond((self.time * 1e6).round() as i64).unwrap_or_default();
        let time = time.strftime("%H:%M:%S%.6f");
        let Shown { interface, sender, sender_lladdr, target, .. } = self;
        let what = match self.operation.as_deref() {
            Some("request") => format!("who-has {target} tell {sender} ({sender_lladdr})"),
            Some("reply") => format!("{sender} is-at {sender_lladdr}"),
            _ => format!("neither request nor reply, from {sender_lladdr}"),
        };
        let to = self.packed().map(|frame| frame.dst()).filter(|to| *to != BROADCAST);
        let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
        let became = self.became();
        format!("{time} {interface} {what}{to} → {became}")
    }

    /// What became of it, in words.
    pub(crate) fn became(&self) -> String {
        let mac = self.answer.map(|mac| mac.to_string()).unwrap_or_default();
        match (&self.reason, &self.policy) {
            (None, None) => format!("answered, {mac}"),
            (None, Some(policy)) => format!("answered by {policy}, {mac}"),
            (Some(reason), _) if self.answer.is_some() => format!("passed, {reason} (would answer {mac})"),
            (Some(reason), _) => format!("passed, {reason}"),
        }
    }
}

const BROADCAST: Lladdr = Lladdr::new([0xff; 6]);

/// A policy's name, by 1 more than its number.
fn policy(number: u32) -> Option<String> {
    let all = Deviation::ALL.iter();
    all.copied().find(|&policy| policy as u32 + 1 == number).map(|policy| policy.name().to_owned())
}

fn operation(frame: &PackedArp) -> Option<&'static str> {
    match (frame.is_ipv4_over_ethernet() && frame.is_request_or_reply(), frame.is_request()) {
        (true, true) => Some("request"),
        (true, false) => Some("reply"),
        (false, _) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MAC: Lladdr = Lladdr::new([0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
    /// 2026-11-18T11:06:40.250 in ns.
    pub(crate) const AT: i128 = 1_795_000_000_250_000_000;

    /// A pod's request for its gateway.
    pub(crate) fn told(reason: Option<Reason>, policy: Option<Deviation>) -> Told {
        let frame = PackedArp::from(&ArpFrame::request([2, 0, 0, 0, 0, 2], [10, 244, 235, 132], [169, 254, 1, 1]));
        let answers = reason.is_none_or(|reason| reason == Reason::SHADOW);
        Told {
            time: 5_123,
            ifindex: 7,
            reason: reason.map_or(0, |reason| reason.raw() as u16),
            policy: policy.map_or(0, |policy| policy as u16 + 1),
            frame: Told::pack(&frame, if answers { MAC } else { Lladdr::of_word(0) }),
        }
    }

    /// The same, as it is shown.
    pub(crate) fn shown() -> Shown {
        Shown::new(&told(None, Some(Deviation::Gateway)), "cali0", AT)
    }

    #[test]
    fn lines_say_who_asks_for_what_and_what_became_of_it() {
        let line = |reason, policy| Shown::new(&told(reason, policy), "cali0", AT).line();
        let asked = "11:06:40.250005 cali0 who-has 169.254.1.1 tell 10.244.235.132 (02:00:00:00:00:02) →";
        assert_eq!(line(None, None), format!("{asked} answered, ee:ee:ee:ee:ee:ee"));
        assert_eq!(line(None, Some(Deviation::Gateway)), format!("{asked} answered by gateway, ee:ee:ee:ee:ee:ee"));
        assert_eq!(line(Some(Reason::NO_ROUTE), None), format!("{asked} passed, no_route"));
        assert_eq!(
            line(Some(Reason::SHADOW), None),
            format!("{asked} passed, shadow (would answer ee:ee:ee:ee:ee:ee)")
        );
    }

    #[test]
    fn replies_and_other_frames_have_lines_of_their_own() {
        let of = |frame: PackedArp| {
            let frame = Told::pack(&frame, Lladdr::of_word(0));
            let told = Told { reason: Reason::NOT_REQUEST.raw() as u16, frame, ..told(None, None) };
            Shown::new(&told, "cali0", AT).line()
        };
        let reply = told(None, None).frame().reply(MAC);
        assert_eq!(
            of(reply),
            "11:06:40.250005 cali0 169.254.1.1 is-at ee:ee:ee:ee:ee:ee to 02:00:00:00:00:02 → passed, not_request"
        );
        let mut other = told(None, None).frame();
        other.words[2] ^= 8 << 40;
        assert!(of(other).contains("neither request nor reply, from 02:00:00:00:00:02 →"), "{}", of(other));
    }

    #[test]
    fn json_holds_the_frame_and_comes_back_whole() {
        let shown = Shown::new(&told(None, None), "cali0", AT);
        let json = serde_json::to_string(&shown).unwrap();
        assert!(json.contains("\"time\":1795000000.250005,") && json.contains("\"verdict\":\"answered\""), "{json}");
        assert_eq!(serde_json::from_str::<Shown>(&json).unwrap(), shown);
        assert_eq!(shown.packed(), Some(told(None, None).frame()));
        assert_eq!(Shown { frame: "0g".into(), ..shown }.packed(), None);
    }
}
