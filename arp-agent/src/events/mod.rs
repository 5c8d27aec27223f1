//! What happens on the node that an operator should know of: addresses that move, senders that claim what is not theirs,
//! a neighbour table that fills (docs/adr/0016-events-and-trace.md). Pure: the agent says what it sees, and when.

pub(crate) mod book;
pub(crate) mod places;
pub(crate) mod pressure;

use arp_common::Lladdr;
use arp_common::guard::DropReason;
use arp_common::notice::EventCode;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What kind of event it is. Names are a promise, as reasons are: never used for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventKind {
    /// A neighbour has another link-layer address, or is on another interface, than before.
    Moved,
    /// An address moves again and again, or an interface changes too often to be followed.
    Flapping,
    /// A sender claims an address of the node's.
    ClaimsNode,
    /// A sender claims the address of another neighbour.
    ClaimsNeighbour,
    /// A sender that the node does not route back by the interface.
    Spoofed,
    /// An interface has caused all the neighbour entries that it may.
    OverLimit,
    /// An interface sends more than its budget.
    OverBudget,
    /// The neighbour table of the machine has filled to a further mark.
    TablePressure,
}

impl EventKind {
    /// Every kind.
    pub(crate) const ALL: [EventKind; 8] = [
        EventKind::Moved,
        EventKind::Flapping,
        EventKind::ClaimsNode,
        EventKind::ClaimsNeighbour,
        EventKind::Spoofed,
        EventKind::OverLimit,
        EventKind::OverBudget,
        EventKind::TablePressure,
    ];

    /// The name that metrics and `--json` use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            EventKind::Moved => "moved",
            EventKind::Flapping => "flapping",
            EventKind::ClaimsNode => "claims_node",
            EventKind::ClaimsNeighbour => "claims_neighbour",
            EventKind::Spoofed => "spoofed",
            EventKind::OverLimit => "over_limit",
            EventKind::OverBudget => "over_budget",
            EventKind::TablePressure => "table_pressure",
        }
    }

    /// What it means, as docs/operations.md says it.
    #[cfg(test)]
    pub(crate) const fn why(self) -> &'static str {
        match self {
            EventKind::Moved => "a neighbour has another link-layer address, or is on another interface, than before",
            EventKind::Flapping => {
                "an address has moved five times in three minutes, or something changes too often to be followed"
            }
            EventKind::ClaimsNode => "a sender claims an address of the node's (needs the sender-guard)",
            EventKind::ClaimsNeighbour => {
                "a sender claims the address of another neighbour (needs the sender-guard, or the binding on the same interface)"
            }
            EventKind::Spoofed => "the node does not route the sender back by this interface (needs the sender-guard)",
            EventKind::OverLimit => {
                "an interface has caused all the neighbour entries that it may (needs the entry-limit)"
            }
            EventKind::OverBudget => "an interface sends more than its budget (needs the budget)",
            EventKind::TablePressure => "the neighbour table of the machine is half full, three quarters full, or full",
        }
    }

    /// The kind of what the guard tells.
    pub(crate) const fn of(code: EventCode) -> Self {
        match code {
            EventCode::ClaimsNode => EventKind::ClaimsNode,
            EventCode::ClaimsNeighbour => EventKind::ClaimsNeighbour,
            EventCode::Refused(DropReason::SenderElsewhere) => EventKind::Spoofed,
            EventCode::Refused(DropReason::EntryLimit) => EventKind::OverLimit,
            EventCode::Refused(DropReason::LearnBudget | DropReason::OtherBudget | DropReason::UnresolvedBudget) => {
                EventKind::OverBudget
            }
            EventCode::Refused(DropReason::OtherOwner) => EventKind::ClaimsNeighbour,
        }
    }
}

/// An event, as `events --json` prints it. What an agent of another version leaves out is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RaisedEvent {
    /// Its number since the agent's start, from 1 on.
    pub number: u64,
    /// When it was, in seconds since 1970.
    pub time: f64,
    /// The name of its [`EventKind`].
    pub kind: String,
    /// The interface; `null` if it is about none.
    pub interface: Option<String>,
    /// Its index.
    pub ifindex: Option<u32>,
    /// The address that it is about: the sender's.
    pub address: Option<Ipv4Addr>,
    /// The link-layer address of the sender.
    pub lladdr: Option<Lladdr>,
    /// Of a policy: the reason to drop (docs/protection.md).
    pub reason: Option<String>,
    /// Of a policy: whether the frame was dropped; false: it would have been.
    pub dropped: Option<bool>,
    /// How many there were since the last event of this kind on this interface, this one included. What address and
    /// link-layer address are an example of.
    pub count: u64,
    /// What happened, in a sentence.
    pub text: String,
}

impl RaisedEvent {
    /// A line for people: with what it is about, and how many there were.
    pub(crate) fn line(&self) -> String {
        let more = if self.count > 1 { format!(" ({} since the last such event)", self.count) } else { String::new() };
        let on = self.interface.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
        format!("{}: {on}{}{more}", self.kind, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_unique() {
        for (at, kind) in EventKind::ALL.iter().enumerate() {
            assert!(!EventKind::ALL[..at].iter().any(|before| before.name() == kind.name()));
        }
    }

    #[test]
    fn a_line_says_what_where_and_how_often() {
        let event = RaisedEvent {
            kind: "spoofed".into(),
            interface: Some("cali0".into()),
            count: 3,
            text: "x".into(),
            ..RaisedEvent::default()
        };
        assert_eq!(event.line(), "spoofed: cali0: x (3 since the last such event)");
        assert_eq!(RaisedEvent { count: 1, interface: None, ..event }.line(), "spoofed: x");
    }
}
