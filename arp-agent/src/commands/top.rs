//! `arp-agent top`: what each interface does in a second, the busiest first.

use super::Exit;
use super::output::is_over;
use super::turns::{Turn, Turns, rate};
use crate::cli::{self, Sort};
use crate::control::{InterfaceStatus, Status};
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;
use tabled::builder::Builder;
use tabled::settings::Style;

/// How many reasons are named of an interface.
const REASONS: usize = 2;
/// Lines of the screen that are not interfaces.
const OTHER_LINES: usize = 5;
/// To the first place of the screen, and all behind it away.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints what interfaces do, again after each interval, until the agent ends.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn top(arguments: &cli::TopArgs) -> anyhow::Result<Exit> {
    // The first turn is what the next one is compared with.
    let count = if arguments.once { Some(1) } else { arguments.count }.map(|count| count + 1);
    let pause = Duration::from_secs(arguments.interval);
    let mut turns = Turns::new(&arguments.run_dir.path, arguments.json, Some(pause), count);
    let is_screen = io::stdout().is_terminal() && !arguments.once && !arguments.json;
    let mut is_first = true;
    loop {
        let turn = match turns.next()? {
            Ok(turn) => turn,
            Err(exit) => return Ok(exit),
        };
        let Some(document) = document(&turn, arguments.sort) else { continue };
        let shown = arguments.lines.or_else(|| is_screen.then(height).flatten()).unwrap_or(usize::MAX);
        let text = if arguments.json {
            serde_json::to_string(&document)?
        } else {
            let begin = if is_screen {
                CLEAR
            } else if is_first {
                ""
            } else {
                "\n"
            };
            format!("{begin}{}", render(&document, &turn.now, shown))
        };
        is_first = false;
        let mut out = io::stdout().lock();
        if is_over(writeln!(out, "{text}").and_then(|()| out.flush()))? {
            return Ok(Exit::Ok);
        }
    }
}

/// How many interfaces have room on the screen.
fn height() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    usize::from(size.ws_row).checked_sub(OTHER_LINES).filter(|&rows| rows > 0)
}

/// What `top --json` prints, each turn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Top {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// How long the turn took, in seconds.
    pub seconds: f64,
    /// All interfaces together.
    pub total: Rates,
    /// Each interface, the first of the order first.
    pub interfaces: Vec<InterfaceRow>,
}

/// How often something happens in a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Requests answered.
    pub answered_per_second: f64,
    /// Frames passed.
    pub passes_per_second: f64,
    /// The same by reason; only those that occurred.
    pub passed_per_second: BTreeMap<String, f64>,
    /// Frames that policies dropped.
    pub dropped_per_second: f64,
    /// Frames that policies which only count would have dropped.
    pub would_drop_per_second: f64,
}

/// What an interface does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InterfaceRow {
    /// Its name.
    pub interface: String,
    /// As in a status.
    pub state: String,
    /// As in a status.
    pub hook: String,
    /// As in a status.
    pub mode: String,
    /// What it does in a second.
    #[serde(flatten)]
    pub rates: Rates,
}

/// The counters of an interface, or of all.
type CounterDeltas<'a> = (u64, &'a BTreeMap<String, u64>, &'a BTreeMap<String, u64>, &'a BTreeMap<String, u64>);

fn counts(of: &InterfaceStatus) -> CounterDeltas<'_> {
    (of.answered, &of.passed, &of.dropped, &of.would_drop)
}

fn totals(of: &Status) -> CounterDeltas<'_> {
    (of.answered, &of.passed, &of.dropped, &of.would_drop)
}

/// `None` if a counter began anew.
fn rates(now: CounterDeltas<'_>, before: CounterDeltas<'_>, passed: Duration) -> Option<Rates> {
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    let reason = |(reason, &count): (&String, &u64)| {
        let before = before.1.get(reason).copied().unwrap_or_default();
        Some((reason.clone(), rate(count, before, passed)?))
    };
    let by_reason: Option<BTreeMap<String, f64>> = now.1.iter().map(reason).collect();
    Some(Rates {
        answered_per_second: rate(now.0, before.0, passed)?,
        passes_per_second: rate(sum(now.1), sum(before.1), passed)?,
        passed_per_second: by_reason?.into_iter().filter(|(_, rate)| *rate > 0.0).collect(),
        dropped_per_second: rate(sum(now.2), sum(before.2), passed)?,
        would_drop_per_second: rate(sum(now.3), sum(before.3), passed)?,
    })
}

/// What a turn comes to; `None` for the first one, and after the agent was started again.
fn document(turn: &Turn, sort: Sort) -> Option<Top> {
    let (passed, before) = turn.before.as_ref()?;
    let was: BTreeMap<u32, &InterfaceStatus> = before.interfaces.iter().map(|of| (of.ifindex, of)).collect();
    let none = InterfaceStatus::default();
    let row = |of: &InterfaceStatus| {
        // One that has come since began at 0; and so did one that came again under its index.
        let before = was.get(&of.ifindex).filter(|before| before.name == of.name).copied().unwrap_or(&none);
        let rates = rates(counts(of), counts(before), *passed).or_else(|| rates(counts(of), counts(&none), *passed));
        InterfaceRow {
            interface: of.name.clone(),
            state: of.state.clone(),
            hook: of.hook.clone(),
            mode: of.mode.clone(),
            rates: rates.unwrap_or_default(),
        }
    };
    let mut interfaces: Vec<InterfaceRow> = turn.now.interfaces.iter().map(row).collect();
    interfaces.sort_by(|a, b| order(a, b, sort));
    Some(Top {
        version: turn.now.version,
        seconds: (passed.as_secs_f64() * 1000.0).round() / 1000.0,
        total: rates(totals(&turn.now), totals(before), *passed)?,
        interfaces,
    })
}

/// The most first, then by name.
fn order(a: &InterfaceRow, b: &InterfaceRow, sort: Sort) -> Ordering {
    let key = |row: &InterfaceRow| match sort {
        Sort::Replies => row.rates.answered_per_second,
        Sort::Passes => row.rates.passes_per_second,
        Sort::Drops => row.rates.dropped_per_second + row.rates.would_drop_per_second,
        Sort::Name => 0.0,
    };
    key(b).total_cmp(&key(a)).then_with(|| a.interface.cmp(&b.interface))
}

fn render(top: &Top, status: &Status, shown: usize) -> String {
    let mut table = Builder::default();
    table.push_record(["interface", "replies/s", "passes/s", "most passes for", "dropped/s", "would drop/s", "state"]);
    let number = |rate: f64| format!("{rate:.1}");
    let mut push = |name: &str, rates: &Rates, state: &str| {
        let mut reasons: Vec<(&String, f64)> =
            rates.passed_per_second.iter().map(|(name, &rate)| (name, rate)).collect();
        reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
        let reasons = reasons.iter().take(REASONS).map(|(name, rate)| format!("{name} {rate:.1}"));
        table.push_record([
            name.to_owned(),
            number(rates.answered_per_second),
            number(rates.passes_per_second),
            reasons.collect::<Vec<_>>().join(", "),
            number(rates.dropped_per_second),
            number(rates.would_drop_per_second),
            state.to_owned(),
        ]);
    };
    push("all", &top.total, "");
    for row in top.interfaces.iter().take(shown) {
        push(&row.interface, &row.rates, &format!("{} {} {}", row.state, row.hook, row.mode));
    }
    let table = table.build().with(Style::blank()).to_string();
    let lines = table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let more = top.interfaces.len().saturating_sub(shown);
    let more = if more > 0 { format!("\n… and {more} more interfaces") } else { String::new() };
    format!("{}\n\n{lines}{more}", super::status::headline(status))
}

/// A document with every field.
#[cfg(test)]
pub(crate) fn sample() -> Top {
    Top { version: 1, seconds: 1.0, total: Rates::default(), interfaces: vec![InterfaceRow::default()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(interfaces: &[(&str, u32, u64, u64)]) -> Box<Status> {
        let interface = |&(name, ifindex, answered, passed): &(&str, u32, u64, u64)| InterfaceStatus {
            name: name.into(),
            ifindex,
            answered,
            passed: [("no_route".to_owned(), passed)].into(),
            ..InterfaceStatus::default()
        };
        let interfaces: Vec<_> = interfaces.iter().map(interface).collect();
        let (answered, passed) = (1_000 + interfaces.iter().map(|of| of.answered).sum::<u64>(), BTreeMap::new());
        Box::new(Status { answered, passed, interfaces, ..Status::default() })
    }

    fn turn(before: &[(&str, u32, u64, u64)], now: &[(&str, u32, u64, u64)]) -> Turn {
        Turn { now: status(now), before: Some((Duration::from_secs(2), status(before))) }
    }

    fn names(top: &Top) -> Vec<&str> {
        top.interfaces.iter().map(|row| row.interface.as_str()).collect()
    }

    #[test]
    fn the_busiest_is_first_by_whatever_is_asked_for() {
        let turn = turn(&[("b", 1, 100, 0), ("a", 2, 0, 10)], &[("b", 1, 300, 2), ("a", 2, 20, 90)]);
        let by = |sort| document(&turn, sort).unwrap();
        let top = by(Sort::Replies);
        assert_eq!(names(&top), ["b", "a"]);
        assert_eq!(top.interfaces[0].rates.answered_per_second, 100.0);
        assert_eq!(top.interfaces[1].rates.passed_per_second, [("no_route".to_owned(), 40.0)].into());
        assert_eq!(top.total.answered_per_second, 110.0);
        assert_eq!(names(&by(Sort::Passes)), ["a", "b"]);
        assert_eq!(names(&by(Sort::Drops)), ["a", "b"], "by name where nothing is dropped");
        let text = render(&top, &turn.now, 1);
        assert!(
            text.contains("b") && text.contains("no_route 1.0") && text.ends_with("… and 1 more interfaces"),
            "{text}"
        );
    }

    #[test]
    fn one_that_came_began_at_0() {
        let mut turn = turn(&[("a", 1, 500, 0)], &[("b", 1, 10, 0), ("c", 3, 4, 0)]);
        // What is gone stays in the totals.
        turn.now.answered += 500;
        let top = document(&turn, Sort::Replies).unwrap();
        assert_eq!(top.interfaces.iter().map(|row| row.rates.answered_per_second).collect::<Vec<_>>(), [5.0, 2.0]);
        let first = Turn { now: status(&[]), before: None };
        assert_eq!(document(&first, Sort::Name), None);
    }
}
