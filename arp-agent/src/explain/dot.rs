//! A decision as a picture, for Graphviz: the checks of the fast path in order, the one that decided, and the kernel's verdict
//! with its cause.

use super::Explanation;

/// How wide a label may be, in characters.
const WIDTH: usize = 48;

/// The graph, for `dot -Tsvg`.
pub(crate) fn dot(explanation: &Explanation) -> String {
    let question = &explanation.question;
    let title = format!("who-has {} tell {} on {}", question.target, question.sender, question.interface);
    let mut lines = vec![
        "digraph explain {".to_owned(),
        "  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"sans-serif\"];".to_owned(),
        node("asked", &title, "lightgrey"),
    ];
    let mut before = "asked".to_owned();
    for (at, check) in explanation.checks.iter().enumerate() {
        let name = format!("check{at}");
        let (colour, edge) = if check.holds { ("palegreen", "") } else { ("salmon", "no") };
        lines.push(node(&name, &check.check, colour));
        lines.push(format!("  {before} -> {name};"));
        if !check.holds {
            lines.push(node("fast", &format!("the fast path passes: {}", check.otherwise), "khaki"));
            lines.push(format!("  {name} -> fast [label=\"{edge}\"];"));
        }
        before = name;
    }
    if explanation.reply_mac.is_some() {
        lines.push(node("fast", "the fast path answers", "palegreen"));
        lines.push(format!("  {before} -> fast;"));
    }
    if let Some(kernel) = &explanation.kernel {
        let headline = kernel.why.strip_suffix(&format!(": {}", kernel.decided_by.what)).unwrap_or(&kernel.why);
        lines.push(node("cause", &kernel.decided_by.what, "lightblue"));
        lines.push(node("kernel", &format!("the kernel {headline}"), "lightblue"));
        lines.push("  asked -> cause [style=dashed];".to_owned());
        lines.push("  cause -> kernel [style=dashed];".to_owned());
    }
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

fn node(name: &str, label: &str, colour: &str) -> String {
    let mut wrapped = String::new();
    let mut width = 0;
    for word in label.split_whitespace() {
        if width > 0 {
            let breaks = width + word.len() > WIDTH;
            wrapped += if breaks { "\\n" } else { " " };
            width = if breaks { 0 } else { width + 1 };
        }
        wrapped += &word.replace('\\', "\\\\").replace('"', "\\\"");
        width += word.len();
    }
    format!("  {name} [label=\"{wrapped}\", fillcolor={colour}];")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_wrapped_and_quoted() {
        let label = "a \"quoted\" word and many more of them so that the line has to be broken somewhere";
        let text = node("n", label, "white");
        assert!(text.contains("a \\\"quoted\\\" word") && text.contains("\\n"), "{text}");
    }
}
