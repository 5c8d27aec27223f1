//! The worked examples of `explain`: those of docs/troubleshooting.md.

use clap_mangen::roff::{Roff, roman};

const DOCUMENT: &str = include_str!("../../docs/troubleshooting.md");
/// What a section with an example has: a command, and what it prints.
const COMMAND: &str = "```\n$ arp-agent explain";

/// The sections with an example: title and text.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = DOCUMENT.split("\n## ").skip(1);
    sections.filter_map(|section| section.split_once('\n')).filter(|(_, text)| text.contains(COMMAND))
}

/// Adds them to a page.
pub(super) fn examples(roff: &mut Roff) {
    roff.control("SH", ["WORKED EXAMPLES"]);
    for (title, text) in sections() {
        roff.control("SS", [title]);
        for (number, part) in text.split("```").enumerate() {
            if number % 2 == 1 {
                literal(roff, part);
                continue;
            }
            for paragraph in part.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
                roff.control("PP", []);
                roff.text([roman(paragraph.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" "))]);
            }
        }
    }
}

/// Lines as they are.
fn literal(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in text.trim_matches('\n').lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_six_examples_with_what_they_print() {
        assert_eq!(sections().count(), 6);
        let mut roff = Roff::new();
        examples(&mut roff);
        let page = roff.render();
        assert_eq!(page.matches(".SS ").count(), 6, "{page}");
        assert_eq!(page.matches("$ arp\\-agent explain").count(), 6, "{page}");
        assert!(page.contains("the kernel stays silent"), "{page}");
    }
}
