//! An explanation as text: the verdict first, then the one thing that decided, then what would change it. Styles are
//! escape sequences, which whoever prints takes out where they are not wanted.

use super::{AgentIs, Answer, Explanation, Fact, Remedy};
use crate::explain::checks::Check;
use anstyle::{AnsiColor, Style};
use tabled::builder::Builder;

/// How many remedies fit into ten lines.
const REMEDIES: usize = 3;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const OPEN: Style = AnsiColor::Yellow.on_default().bold();
const QUIET: Style = Style::new().dimmed();

/// The ten lines; with `verbose`, facts and checks as well.
pub(crate) fn text(explanation: &Explanation, verbose: bool) -> String {
    let mut lines = vec![verdict(explanation)];
    if let Some(kernel) = &explanation.kernel {
        let place = kernel.decided_by.place.as_ref().map(|place| format!(" {QUIET}[{place}]{QUIET:#}"));
        lines.push(format!("because    {}{}", kernel.decided_by.what, place.unwrap_or_default()));
    }
    lines.push(format!("fast path  {}", fast_path(explanation)));
    if !explanation.listeners.is_empty() {
        lines.push(format!("listeners  {}: may answer, too", explanation.listeners.join(", ")));
    }
    if !explanation.not_seen.is_empty() {
        lines.push(format!("not seen   {} (needs root)", explanation.not_seen.join(", ")));
    }
    lines.extend(remedies(explanation, verbose));
    let odd = &explanation.oddities;
    let shown = if verbose { odd.len() } else { odd.len().min(1) };
    for (at, what) in odd.iter().take(shown).enumerate() {
        let more = if at + 1 == shown && odd.len() > shown {
            format!(" (and {} more, -v)", odd.len() - shown)
        } else {
            String::new()
        };
        lines.push(format!("odd        {what}{more}"));
    }
    if let Some(program) = &explanation.program {
        lines.push(format!("program    {program}"));
    }
    let mut text = lines.join("\n") + "\n";
    if verbose {
        text += &details(explanation);
    }
    text
}

/// Who asks for whom, and what the kernel does.
fn verdict(explanation: &Explanation) -> String {
    let question = &explanation.question;
    let asked = format!("who-has {} tell {} on {}", question.target, question.sender, question.interface);
    let Some(kernel) = &explanation.kernel else { return asked };
    let style = match kernel.answer {
        Answer::Answers | Answer::AnswersAfterDelay => GOOD,
        Answer::Silent => BAD,
        Answer::Sometimes | Answer::Undecided => OPEN,
    };
    // The cause follows on a line of its own.
    let headline = kernel.why.strip_suffix(&format!(": {}", kernel.decided_by.what)).unwrap_or(&kernel.why);
    let answers = matches!(kernel.answer, Answer::Answers | Answer::AnswersAfterDelay);
    let unless = match answers && !explanation.not_seen.is_empty() {
        true => ", unless something prevents it that only root sees",
        false => "",
    };
    format!("{asked}: {style}the kernel {headline}{unless}{style:#}")
}

fn fast_path(explanation: &Explanation) -> String {
    let does = match (&explanation.reason, &explanation.policy) {
        (None, Some(policy)) => format!("answers by policy {}: {}", policy.name, policy.why),
        (None, None) => "answers".to_owned(),
        (Some(reason), Some(policy)) => {
            format!("passes ({reason}): {}; policy {} only counts it", explanation.why, policy.name)
        }
        (Some(reason), None) => format!("passes ({reason}): {}", explanation.why),
    };
    let answers_later = explanation.reason.as_deref() == Some("neighbour_unknown")
        && explanation.kernel.as_ref().is_some_and(|kernel| kernel.answer == Answer::Answers);
    let later = if answers_later { "; it answers from the sender's second request on" } else { "" };
    match (explanation.agent, &explanation.for_now) {
        (AgentIs::Here, None) => format!("{does}{later}"),
        (AgentIs::Here, Some(for_now)) => format!("{does} ({for_now})"),
        (AgentIs::Elsewhere, _) => {
            let name = &explanation.question.interface;
            format!("is not attached to {name} (see arp-agent status); there it {}{later}", would(&does))
        }
        (AgentIs::None, _) => format!("no agent runs; one here {}{later}", would(&does)),
    }
}

fn would(does: &str) -> String {
    match (does.strip_prefix("answers"), does.strip_prefix("passes")) {
        (Some(rest), _) => format!("would answer{rest}"),
        (_, Some(rest)) => format!("would pass{rest}"),
        _ => does.to_owned(),
    }
}

fn remedies(explanation: &Explanation, verbose: bool) -> Vec<String> {
    let Some(now) = explanation.kernel.as_ref().map(|kernel| kernel.answer) else { return Vec::new() };
    let all = &explanation.remedies;
    let mut lines = Vec::new();
    let answering: Vec<&Remedy> = all.iter().filter(|remedy| remedy.then != Answer::Silent).collect();
    let silencing: Vec<&Remedy> = all.iter().filter(|remedy| remedy.then == Answer::Silent).collect();
    let for_answer = match now {
        Answer::AnswersAfterDelay => "for an answer at once",
        Answer::Sometimes => "for an answer always",
        _ => "for an answer",
    };
    for (heading, remedies) in [(for_answer, answering), ("for silence", silencing)] {
        if remedies.is_empty() {
            continue;
        }
        let shown = if verbose { remedies.len() } else { remedies.len().min(REMEDIES) };
        let more =
            if remedies.len() > shown { format!(" ({} more with -v)", remedies.len() - shown) } else { String::new() };
        lines.push(format!("{heading}, as root:{more}"));
        for remedy in &remedies[..shown] {
            let also = remedy.also.as_ref().map(|also| format!("  {QUIET}# {also}{QUIET:#}")).unwrap_or_default();
            lines.push(format!("  {}{also}", remedy.command));
        }
    }
    lines
}

fn details(explanation: &Explanation) -> String {
    let from = match explanation.tables {
        super::TablesFrom::Agent => "the running agent's maps",
        super::TablesFrom::Kernel => "the kernel's state as an agent would mirror it",
    };
    let mut text = format!(
        "\nthe kernel says:\n{}\n\n{from}, in the order of the decision:\n{}\n\nchecked by the fast path:\n{}\n",
        rows(&explanation.kernel_state),
        rows(&explanation.inputs),
        checks(&explanation.checks),
    );
    for change in &explanation.would_answer_if {
        text += &format!("the fast path would answer if {change}\n");
    }
    text
}

fn checks(checks: &[Check]) -> String {
    let lines = checks.iter().map(|check| match check.holds {
        true => format!(" yes  {}", check.check),
        false => format!(" NO   {} ({})", check.check, check.otherwise),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn rows(facts: &[Fact]) -> String {
    let mut table = Builder::default();
    for fact in facts {
        table.push_record([&fact.what, &fact.found]);
    }
    let table = table.build().with(tabled::settings::Style::blank()).to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
