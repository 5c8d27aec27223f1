//! One decision, laid open: the same `decide` as the program's, over tables that write down what was read of them;
//! [`kernel_view`] has the kernel's state behind it.

pub(crate) mod agreement;
pub(crate) mod anonymise;
pub(crate) mod capture;
pub(crate) mod checks;
pub(crate) mod dot;
pub(crate) mod interface;
pub(crate) mod kernel;
pub(crate) mod kernel_answer;
pub(crate) mod kernel_view;
pub(crate) mod oddities;
pub(crate) mod remedies;
pub(crate) mod render;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod words;

use arp_common::deviation::{AnswerMode, Deviation};
use arp_common::fib::{Entry, LeafKind};
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use arp_common::{ArpFrame, Lladdr, Reason, Tables, Verdict, decide, settings};
use checks::Check;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::net::Ipv4Addr;

/// Who asks for whom, on which interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Name of the ingress interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// `tpa`.
    pub target: Ipv4Addr,
    /// `spa`.
    pub sender: Ipv4Addr,
    /// `sha`, and the Ethernet source.
    pub sender_mac: Lladdr,
    /// The Ethernet destination; broadcast if missing.
    #[serde(default)]
    pub destination: Option<Lladdr>,
}

/// What was decided, from what, and why: what `explain --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// The question.
    pub question: Question,
    /// Where the tables came from.
    pub tables: TablesFrom,
    /// What the kernel says of it, and where it keeps it.
    pub kernel_state: Vec<Fact>,
    /// What was read of the tables, in order.
    pub inputs: Vec<Fact>,
    /// What was checked, in order, up to what decided.
    pub checks: Vec<Check>,
    /// `reply` or `pass`.
    pub verdict: String,
    /// The link-layer address that the reply carries.
    pub reply_mac: Option<Lladdr>,
    /// The reason's name, for a pass.
    pub reason: Option<String>,
    /// The verdict in a sentence.
    pub why: String,
    /// What this node's kernel does with the request; the agent leaves it to the client, which reads the kernel's state.
    #[serde(default)]
    pub kernel: Option<KernelAnswer>,
    /// Changes after which the kernel would do something else; each was tried on a copy of the state.
    #[serde(default)]
    pub remedies: Vec<Remedy>,
    /// Processes on this node that listen for ARP on the interface, and may answer, too.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// What else is odd about the interface or the node.
    #[serde(default)]
    pub oddities: Vec<String>,
    /// What was left out because only root may read it.
    #[serde(default)]
    pub not_seen: Vec<String>,
    /// Why the fast path passes for the moment, besides what the other fields say.
    #[serde(default)]
    pub for_now: Option<String>,
    /// Whether an agent runs, and serves the interface: `none`, `elsewhere` or `here`.
    #[serde(default)]
    pub agent: AgentIs,
    /// Single changes after which the fast path would answer.
    pub would_answer_if: Vec<String>,
    /// What the loaded program did with the frame, if it was asked.
    pub program: Option<String>,
    /// The policy that answers, or would, where the kernel does not, or not at once.
    #[serde(default)]
    pub policy: Option<PolicyAnswer>,
}

/// A policy that answers, or would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyAnswer {
    /// Its name, such as `gateway`.
    pub name: String,
    /// Whether it answers; else it only counts.
    pub answers: bool,
    /// Why the kernel does not, in a sentence.
    pub why: String,
}

impl Explanation {
    /// Of an agent that answers nothing.
    pub(crate) fn shadow(&mut self) {
        if self.reason.is_none() {
            self.verdict = "pass".to_owned();
            self.reply_mac = None;
            self.reason = Some(Reason::SHADOW.name().to_owned());
            self.why = Reason::SHADOW.why().to_owned();
        }
    }

    /// Takes over what a policy makes of a pass.
    pub(crate) fn deviate(&mut self, by: Deviation, mode: AnswerMode, mac: Lladdr) {
        let answers = mode == AnswerMode::Answer;
        self.policy = Some(PolicyAnswer { name: by.name().to_owned(), answers, why: by.why().to_owned() });
        if answers {
            self.verdict = "reply".to_owned();
            self.reply_mac = Some(mac);
            self.reason = None;
            self.why = format!("{}; policy {} answers", by.why(), by.name());
        }
    }
}

/// What this node's kernel does with a request. Others on the wire may answer too, and nothing is said of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelAnswer {
    /// Whether it answers.
    pub answer: Answer,
    /// The name of the reason for anything but an answer at once.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub why: String,
    /// The link-layer address in its reply.
    #[serde(default)]
    pub mac: Option<Lladdr>,
    /// The longest delay of its reply, in ms.
    #[serde(default)]
    pub within_ms: Option<u64>,
    /// The one thing that decides.
    #[serde(default)]
    pub decided_by: Cause,
}

/// Whether this node's kernel answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It answers at once.
    Answers,
    /// It answers after a random delay (proxy_delay).
    AnswersAfterDelay,
    /// It gives no answer.
    Silent,
    /// It answers some senders and not others, or the same one at some times, by a hash that nobody can reckon.
    Sometimes,
    /// Nobody can say from here.
    Undecided,
}

/// The one thing that decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cause {
    /// `sysctl`, `route`, `rule`, `address`, `neighbour`, `static_proxy`, `chain`, `program`, `link`, `frame` or `unread`.
    pub kind: String,
    /// What it is, and what it says.
    pub what: String,
    /// The file that holds it, or the command that shows it.
    pub place: Option<String>,
}

impl Cause {
    /// One without a place.
    pub(crate) fn new(kind: &str, what: impl Into<String>) -> Self {
        Cause { kind: kind.to_owned(), what: what.into(), place: None }
    }

    /// With its place.
    #[must_use]
    pub(crate) fn at(self, place: impl Into<String>) -> Self {
        Cause { place: Some(place.into()), ..self }
    }
}

/// A change after which the kernel does something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remedy {
    /// What to type, as root.
    pub command: String,
    /// What the kernel does then.
    pub then: Answer,
    /// What else comes of it.
    pub also: Option<String>,
}

/// Whether there is an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AgentIs {
    /// None runs, as far as can be seen.
    #[default]
    None,
    /// One runs, and does not serve the interface.
    Elsewhere,
    /// It serves the interface.
    Here,
}

/// Where an explanation's tables came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TablesFrom {
    /// The running agent's maps: what the program sees.
    Agent,
    /// The kernel's state, read just now: what an agent would write into its maps.
    Kernel,
}

/// One thing that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fact {
    /// What was asked for.
    pub what: String,
    /// What was found.
    pub found: String,
}

impl Fact {
    fn new(what: impl Into<String>, found: impl Into<String>) -> Self {
        Fact { what: what.into(), found: found.into() }
    }
}

impl Question {
    /// The frame that the asker would send.
    pub(crate) fn frame(&self) -> ArpFrame {
        let frame = ArpFrame::request(self.sender_mac.bytes(), self.sender.octets(), self.target.octets());
        ArpFrame { dst: self.destination.map_or(frame.dst, Lladdr::bytes), ..frame }
    }
}

/// Decides, and says how.
pub(crate) fn explain(question: &Question, tables: &impl Tables, from: TablesFrom) -> Explanation {
    let recorder = Recorder { tables, inputs: RefCell::default() };
    let verdict = decide(&(&question.frame()).into(), question.ifindex, &recorder);
    let (name, reply_mac, reason, why) = match verdict {
        Verdict::Reply(mac) => {
            ("reply", Some(mac), None, "the kernel would give the same reply, and learn nothing from the request")
        }
        Verdict::Pass(reason) => ("pass", None, Some(reason.name().to_owned()), reason.why()),
    };
    Explanation {
        version: crate::DOCUMENT_VERSION,
        question: question.clone(),
        tables: from,
        kernel_state: Vec::new(),
        inputs: recorder.inputs.into_inner(),
        checks: checks::checks(&question.frame(), question.ifindex, tables, verdict),
        verdict: name.to_owned(),
        reply_mac,
        reason,
        why: why.to_owned(),
        kernel: None,
        remedies: Vec::new(),
        listeners: Vec::new(),
        oddities: Vec::new(),
        not_seen: Vec::new(),
        for_now: None,
        agent: AgentIs::None,
        would_answer_if: Vec::new(),
        program: None,
        policy: None,
    }
}

/// Tables that write down what is read of them.
struct Recorder<'a, T> {
    tables: &'a T,
    inputs: RefCell<Vec<Fact>>,
}

impl<T> Recorder<'_, T> {
    fn note(&self, what: impl Into<String>, found: impl Into<String>) {
        self.inputs.borrow_mut().push(Fact::new(what, found));
    }
}

impl<T: Tables> Tables for Recorder<'_, T> {
    fn sequence(&self) -> u64 {
        let sequence = self.tables.sequence();
        self.note("sequence", format!("{sequence} ({})", if sequence & 1 == 0 { "at rest" } else { "being written" }));
        sequence
    }

    fn lease_is_valid(&self) -> bool {
        let valid = self.tables.lease_is_valid();
        self.note("lease", if valid { "valid" } else { "expired" });
        valid
    }

    fn settings_are_read(&self) -> bool {
        let read = self.tables.settings_are_read();
        self.note("settings", if read { "as last written" } else { "being written" });
        read
    }

    fn iface(&self, ifindex: u32) -> Option<Iface> {
        let iface = self.tables.iface(ifindex);
        self.note(format!("interface {ifindex}"), iface.map_or("not known".into(), describe_iface));
        iface
    }

    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        let neighbour = self.tables.neighbour(key);
        let found = neighbour.map(|neighbour| {
            let more = match (neighbour.is_fixed(), neighbour.is_doubted()) {
                (true, _) => ", never changed by a request",
                (false, true) => ", in doubt: a frame may have changed it a moment ago",
                (false, false) => "",
            };
            let accepted = match (neighbour.is_accepted(true), neighbour.is_accepted(false)) {
                (true, _) => "accepted as a sender",
                (false, true) => "accepted as a sender, but not for every target",
                (false, false) => "not surely accepted as a sender",
            };
            format!("{}{more}, {accepted}, view {}", Lladdr::new(neighbour.lladdr), neighbour.view())
        });
        self.note(format!("neighbour {}", describe_key(key)), found.unwrap_or_else(|| "no valid entry".into()));
        neighbour
    }

    fn proxied(&self, key: IfaceAddr) -> bool {
        let proxied = self.tables.proxied(key);
        self.note(format!("static proxy entry {}", describe_key(key)), if proxied { "there" } else { "none" });
        proxied
    }

    fn proxies_are_confirmed(&self) -> bool {
        let confirmed = self.tables.proxies_are_confirmed();
        self.note("static proxy entries", if confirmed { "just read" } else { "not read in this moment" });
        confirmed
    }

    fn owned(&self, key: IfaceAddr) -> bool {
        let owned = self.tables.owned(key);
        self.note(format!("own address {}", describe_key(key)), if owned { "there" } else { "none" });
        owned
    }

    fn oif(&self, slot: u16) -> Option<Oif> {
        let oif = self.tables.oif(slot);
        let found = match oif {
            Some(Oif { ifindex: 0, .. }) | None => "not followed (no carrier, or down)".into(),
            Some(Oif { ifindex: Oif::MIXED, .. }) => "several interfaces, with different medium_id".into(),
            Some(Oif { ifindex: Oif::SEVERAL, medium_id }) => format!("several interfaces, medium_id {medium_id}"),
            Some(Oif { ifindex, medium_id }) => format!("interface {ifindex}, medium_id {medium_id}"),
        };
        self.note(format!("next hops in slot {slot}"), found);
        oif
    }

    fn fib_root(&self, view: u16, index: u8) -> Entry {
        let entry = self.tables.fib_root(view, index);
        self.note(format!("view {view} entry {index}"), describe_entry(entry));
        entry
    }

    fn fib_node(&self, node: u32, index: u8) -> Entry {
        let entry = self.tables.fib_node(node, index);
        self.note(format!("FIB node {node} entry {index}"), describe_entry(entry));
        entry
    }
}

fn describe_iface(iface: Iface) -> String {
    let flags = [
        (Iface::PROXY_ARP, settings::PROXY_ARP),
        (Iface::PVLAN, settings::PROXY_ARP_PVLAN),
        (Iface::FORWARDING, settings::FORWARDING),
        (Iface::DELAYED, settings::PROXY_DELAY),
        (Iface::LOCAL_ALWAYS, "arp_ignore lets local targets be answered"),
        (Iface::LOCAL_OWN, "arp_ignore 1"),
        (Iface::HAS_PROXIES, "static proxy entries"),
        (Iface::TO_PEER, "tc replies right to the pod end"),
        (Iface::ARP_FILTER, "arp_filter"),
        (Iface::NEXT_HOP, "one of several next hops of some route"),
        (Iface::MARKS_MATTER, "a routing rule asks for marks"),
    ];
    let set: Vec<&str> = flags.into_iter().filter(|&(flag, _)| iface.has(flag)).map(|(_, name)| name).collect();
    let blocked = match iface.blocked {
        0 => String::new(),
        reason => format!("; blocked: {}", Reason::from_raw(reason.into()).why()),
    };
    let Iface { mac, medium_id, probe_view, .. } = iface;
    format!("{}, medium_id {medium_id}, view of probes {probe_view}, on: {}{blocked}", Lladdr::new(mac), set.join(", "))
}

fn describe_key(key: IfaceAddr) -> String {
    match key.ifindex {
        0 => format!("{} on any interface", Ipv4Addr::from(key.addr)),
        ifindex => format!("{} on interface {ifindex}", Ipv4Addr::from(key.addr)),
    }
}

fn describe_entry(entry: Entry) -> String {
    if let Some(node) = entry.node_index() {
        return format!("node {node}");
    }
    let kind = match entry.kind() {
        LeafKind::None => "no route".into(),
        LeafKind::Local if entry.is_elsewhere() => "local, not in table local".into(),
        LeafKind::Local => "local".into(),
        LeafKind::Unicast => format!("unicast by slot {}", entry.slot()),
        LeafKind::Unanswerable => "a type that is never answered".into(),
        LeafKind::Opaque => "not followed".into(),
        LeafKind::OpaqueRule => "a rule is not followed".into(),
        LeafKind::Fall => format!("as view {} says", entry.slot()),
    };
    if entry.differs() { format!("{kind} (the way back to the sender may differ)") } else { kind }
}
