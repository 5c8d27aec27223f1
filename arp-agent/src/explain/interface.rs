//! What an interface answers for, and for whom: one sample of each prefix that the routing tables know is asked about.

use super::kernel::Kernel;
use super::kernel::settings::InterfaceSetting;
use super::state::OnInterface;
use super::words::table_name;
use super::{Answer, Question};
use crate::event::{Route, RouteKind};
use crate::mirror::snapshot::Snapshot;
use crate::prefix::Prefix;
use arp_common::Lladdr;
use arp_common::settings as names;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use tabled::builder::Builder;
use tabled::settings::Style;

/// How many rows are shown at most.
const MOST: usize = 40;

/// What `explain IF` prints.
#[derive(Debug, Serialize)]
pub(crate) struct InterfaceTable {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// The interface.
    pub interface: String,
    /// The sender that was assumed.
    pub sender: Ipv4Addr,
    /// Which senders are answered.
    pub senders: String,
    /// What it answers for.
    pub rows: Vec<AddressRow>,
    /// How many prefixes are left out.
    pub left_out: usize,
    /// What is odd about it.
    pub oddities: Vec<String>,
}

/// Addresses that are treated alike.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct AddressRow {
    /// A prefix, or one address: those in it, and in no longer prefix of a route.
    pub addresses: String,
    /// What the kernel does.
    pub answer: Answer,
    /// Why.
    pub why: String,
}

/// Whom the table takes for the sender where nothing of the node's tells of one (RFC 5737, TEST-NET-1).
const SOMEBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What the interface answers for, if this sender asks; without one, a neighbour or another likely one.
pub(crate) fn table(on: &OnInterface<'_>, sender: Option<Ipv4Addr>) -> InterfaceTable {
    let link = on.link();
    let snapshot = on.snapshot();
    let sender = sender.unwrap_or_else(|| on.sender().unwrap_or(SOMEBODY));
    let kernel = Kernel { snapshot, beyond: on.beyond(), lookup: on.lookup() };
    let mut rows: Vec<AddressRow> = Vec::new();
    for (prefix, sample) in samples(snapshot) {
        let question = Question {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            target: sample,
            sender,
            sender_mac: on.sender_mac(sender),
            destination: None::<Lladdr>,
        };
        let verdict = kernel.verdict(&question);
        rows.push(AddressRow { addresses: text(prefix), answer: verdict.answer, why: verdict.cause.what });
    }
    // What is answered first; silence that is nobody's business (broadcast addresses) not at all.
    rows.retain(|row| !row.why.contains("`broadcast "));
    rows.sort_by_key(|row| matches!(row.answer, Answer::Silent));
    let left_out = rows.len().saturating_sub(MOST);
    rows.truncate(MOST);
    InterfaceTable {
        version: crate::DOCUMENT_VERSION,
        interface: link.name.clone(),
        sender,
        senders: senders(on),
        rows,
        left_out,
        oddities: on.oddities(),
    }
}

/// Every prefix of a table that a rule looks up, and of the static proxy entries, each with an address in it and in no
/// longer one.
fn samples(snapshot: &Snapshot) -> Vec<(Prefix, Ipv4Addr)> {
    let tables: Vec<u32> = snapshot
        .rules
        .list()
        .filter_map(|rule| match rule.action {
            crate::event::RuleAction::Lookup { table, .. } => Some(table),
            _ => None,
        })
        .collect();
    let routes = tables.iter().filter_map(|&table| snapshot.routes.table(table)).flat_map(|table| table.all());
    let is_asked = |route: &&Route| route.kind != RouteKind::Multicast && route.prefix.addr >> 24 != 127;
    let mut prefixes: BTreeMap<Prefix, ()> = routes.filter(is_asked).map(|route| (route.prefix, ())).collect();
    prefixes.extend(snapshot.proxies.iter().map(|key| (Prefix::new(key.addr, 32), ())));
    // Something that only a default route, or nothing, covers.
    prefixes.entry(Prefix { addr: 0, len: 0 }).or_default();
    let sample = |prefix: &Prefix| {
        // 9.0.0.0/8 is as good as any in 0/0.
        let mut addr = if prefix.len == 0 { 0x0909_0909 } else { prefix.addr };
        loop {
            let longer = (prefix.len + 1..=32).map(|len| Prefix::new(addr.to_be_bytes(), len));
            let Some(inside) = longer.into_iter().find(|longer| prefixes.contains_key(longer)) else {
                return Some(addr);
            };
            addr = inside.last().checked_add(1).filter(|&next| prefix.contains(next))?;
        }
    };
    prefixes.keys().filter_map(|prefix| Some((*prefix, sample(prefix)?.into()))).collect()
}

fn text(prefix: Prefix) -> String {
    match prefix.len {
        0 => "everything else".to_owned(),
        32 => Ipv4Addr::from(prefix.addr).to_string(),
        len => format!("{}/{len}", Ipv4Addr::from(prefix.addr)),
    }
}

/// Which senders source validation accepts, in a sentence.
fn senders(on: &OnInterface<'_>) -> String {
    let (snapshot, link) = (on.snapshot(), on.link());
    let rp_filter = InterfaceSetting::of(snapshot, link, names::RP_FILTER);
    let name = &link.name;
    let strict = format!("those whose route leads back by {name}: {}", back(snapshot, link.ifindex));
    match rp_filter.value() {
        0 => "any, but for the node's own addresses (rp_filter is 0)".to_owned(),
        2 if snapshot.is_numbered(link.ifindex) => "any that the node has a route to (rp_filter is 2)".to_owned(),
        value => format!("{strict} (rp_filter is {value})"),
    }
}

fn back(snapshot: &Snapshot, ifindex: u32) -> String {
    const SHOWN: usize = 4;
    let tables = [crate::mirror::routes::TABLE_MAIN];
    let routes = tables.iter().filter_map(|&table| snapshot.routes.table(table)).flat_map(|table| table.all());
    let by: Vec<&Route> =
        routes.filter(|route| route.kind == RouteKind::Unicast && route.legs().contains(&ifindex)).collect();
    let shown: Vec<String> = by.iter().take(SHOWN).map(|route| text(route.prefix)).collect();
    match by.len() {
        0 => format!("none in table {} is", table_name(tables[0])),
        len if len > SHOWN => format!("{} and {} more", shown.join(", "), len - SHOWN),
        _ => shown.join(", "),
    }
}

impl InterfaceTable {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut builder = Builder::default();
        for row in &self.rows {
            let answer = match row.answer {
                Answer::Answers => "answers",
                Answer::AnswersAfterDelay => "answers late",
                Answer::Silent => "silent",
                Answer::Sometimes => "sometimes",
                Answer::Undecided => "not known",
            };
            builder.push_record([&row.addresses, answer, &row.why]);
        }
        let rows = builder.build().with(Style::blank()).to_string();
        let rows = rows.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let mut text = format!(
            "what {} answers for, asked by {}:\n{rows}\nsenders    {}\n",
            self.interface, self.sender, self.senders
        );
        if self.left_out > 0 {
            text += &format!("({} more prefixes are left out)\n", self.left_out);
        }
        self.oddities.iter().for_each(|odd| text += &format!("odd        {odd}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Placement, Route};
    use crate::explain::kernel_view::KernelView;
    use crate::mirror::snapshot::Dirty;
    use crate::mirror::tests::{CALI, dump};

    fn sampled(prefixes: &[([u8; 4], u8)]) -> BTreeMap<String, Ipv4Addr> {
        let mut snapshot = KernelView::new(dump(), CALI).unwrap().snapshot().clone();
        let known = snapshot.routes.at(crate::mirror::routes::TABLE_MAIN, Prefix::new([0; 4], 0))[0].clone();
        for &(to, len) in prefixes {
            let route = Route { prefix: Prefix::new(to, len), ..known.clone() };
            snapshot.apply(Event::Route(route, Placement::Last), &mut Dirty::default());
        }
        samples(&snapshot).into_iter().map(|(prefix, addr)| (text(prefix), addr)).collect()
    }

    #[test]
    fn each_prefix_has_a_sample_that_no_longer_one_covers() {
        let samples =
            sampled(&[([172, 16, 0, 0], 12), ([172, 16, 0, 0], 22), ([172, 16, 4, 0], 24), ([9, 9, 0, 0], 16)]);
        let of = |prefix: &str| samples.get(prefix).map(Ipv4Addr::to_string);
        assert_eq!(of("172.16.0.0/12").as_deref(), Some("172.16.5.0"), "behind the two that begin it");
        assert_eq!(of("172.16.0.0/22").as_deref(), Some("172.16.0.0"));
        assert_eq!(of("everything else").as_deref(), Some("9.10.0.0"));
        // Two halves leave nothing of the whole.
        let halves = sampled(&[([20, 0, 0, 0], 8), ([20, 0, 0, 0], 9), ([20, 128, 0, 0], 9)]);
        assert!(!halves.contains_key("20.0.0.0/8") && halves.contains_key("20.128.0.0/9"), "{halves:?}");
    }
}
