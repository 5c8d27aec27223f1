//! The patterns of interfaces' names in policies: whether they can match an interface of the agent's, and whether they
//! contradict each other.

use globset::{Glob, GlobMatcher};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most patterns of one policy: a node has fewer kinds of interfaces.
pub(crate) const MAX_PATTERNS: usize = 1_024;

/// What makes a name a pattern.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];

/// What is wrong with a setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The setting's name.
    pub setting: &'static str,
    /// The pattern, and what is wrong.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}", self.setting, self.why)
    }
}

/// All faults in one error.
pub(crate) fn error(faults: Vec<Fault>) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::anyhow!(lines.join("\n"))
}

/// The patterns that were given, ready to match.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    matchers: BTreeMap<String, GlobMatcher>,
}

impl Patterns {
    /// Adds the patterns of a setting. `interfaces`: those of the interfaces that the agent attaches to.
    pub(crate) fn add<'a>(
        &mut self,
        setting: &'static str,
        globs: impl IntoIterator<Item = &'a String>,
        interfaces: &[String],
        faults: &mut Vec<Fault>,
    ) {
        let mut told = BTreeSet::new();
        for glob in globs {
            let matcher = match Glob::new(glob) {
                Ok(matcher) => matcher.compile_matcher(),
                Err(error) if told.insert(glob) => {
                    let why =
                        format!("{glob}: not a glob (try a name, or a pattern such as `cali*`): {}", error.kind());
                    faults.push(Fault { setting, why });
                    continue;
                }
                Err(_) => continue,
            };
            // Without any interface there is another thing to complain of.
            let is_served = interfaces.is_empty() || interfaces.iter().any(|served| may_meet(glob, &matcher, served));
            if !is_served && told.insert(glob) {
                let served = interfaces.join(" ");
                let why =
                    format!("{glob}: `interface` names no such interface ({served}), so the policy would do nothing");
                faults.push(Fault { setting, why });
            }
            self.matchers.entry(glob.clone()).or_insert(matcher);
        }
    }

    /// Whether a pattern that was added matches a name.
    pub(crate) fn match_name(&self, glob: &str, name: &str) -> bool {
        self.matchers.get(glob).is_some_and(|matcher| matcher.is_match(name))
    }
}

/// What contradicts itself where the last pattern that matches counts: one that is given twice, or one that never counts.
pub(crate) fn contradictions<'a>(
    setting: &'static str,
    globs: impl IntoIterator<Item = &'a String>,
    faults: &mut Vec<Fault>,
) {
    let globs: Vec<&String> = globs.into_iter().collect();
    if globs.len() > MAX_PATTERNS {
        let why = format!("has {} patterns, and there is room for {MAX_PATTERNS}: use wider ones", globs.len());
        faults.push(Fault { setting, why });
        return;
    }
    let mut later: Vec<(&String, GlobMatcher)> = Vec::new();
    for glob in globs.into_iter().rev() {
        if later.iter().any(|(other, _)| *other == glob) {
            faults.push(Fault { setting, why: format!("{glob}: is given twice; leave out one of them") });
        } else if let Some((wider, _)) = later.iter().find(|(wider, matcher)| covers(wider, matcher, glob)) {
            let why =
                format!("{glob}: never counts, because {wider} stands behind it and matches, too; put {wider} first");
            faults.push(Fault { setting, why });
        }
        later.extend(Glob::new(glob).ok().map(|matcher| (glob, matcher.compile_matcher())));
    }
}

fn is_name(glob: &str) -> bool {
    !glob.contains(SPECIAL)
}

/// Whether some name may match both; false only if surely none does.
fn may_meet(glob: &str, matcher: &GlobMatcher, other: &str) -> bool {
    let Ok(other_matcher) = Glob::new(other).map(|other| other.compile_matcher()) else { return true };
    if is_name(glob) {
        return other_matcher.is_match(glob);
    }
    if is_name(other) {
        return matcher.is_match(other);
    }
    let beginning = |glob: &str| glob.chars().take_while(|c| !SPECIAL.contains(c)).collect::<String>();
    let (one, other) = (beginning(glob), beginning(other));
    one.starts_with(&other) || other.starts_with(&one)
}

/// Whether every name that `glob` matches is surely matched by `wider`, too.
fn covers(wider: &str, matcher: &GlobMatcher, glob: &str) -> bool {
    let has_stars_alone = |glob: &str| !glob.contains(['?', '[', '{', '\\', ']', '}']);
    // Then what the stars of `glob` stand for meets stars of `wider`, as the stars themselves do.
    (is_name(glob) || has_stars_alone(wider) && has_stars_alone(glob)) && matcher.is_match(glob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(globs: &[&str]) -> Vec<String> {
        globs.iter().map(|&glob| glob.to_owned()).collect()
    }

    fn added(globs: &[&str], interfaces: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        Patterns::default().add("budget", &owned(globs), &owned(interfaces), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    fn contradict(globs: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        contradictions("budget", &owned(globs), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_can_match_no_interface_of_the_agent_is_a_fault() {
        for (glob, interface) in
            [("eth9", "cali*"), ("eth*", "cali*"), ("eth*", "cali0"), ("cali1", "cali0"), ("e[ab]*", "cali*")]
        {
            let faults = added(&[glob], &[interface]);
            assert_eq!(faults.len(), 1, "{glob} and {interface}: {faults:?}");
            assert!(faults[0].starts_with(&format!("budget {glob}: `interface` names no such")), "{faults:?}");
        }
        for (glob, interface) in
            [("cali7", "cali*"), ("cali*", "cali7"), ("*", "cali*"), ("ca*", "cali*"), ("cali1*", "ca*"), ("x", "*")]
        {
            assert_eq!(added(&[glob], &[interface]), [""; 0], "{glob} and {interface}");
        }
        assert_eq!(added(&["eth9"], &[]), [""; 0]);
        assert_eq!(added(&["eth9", "eth9", "eth8"], &["cali*"]).len(), 2, "once for each");
        assert!(added(&["["], &["cali*"])[0].contains("not a glob"));
    }

    #[test]
    fn patterns_that_never_count_are_a_fault() {
        let faults = contradict(&["cali7", "cali*"]);
        assert_eq!(
            faults,
            ["budget cali7: never counts, because cali* stands behind it and matches, too; put cali* first"]
        );
        assert_eq!(contradict(&["cali7*", "cali*"]).len(), 1);
        assert_eq!(contradict(&["cali7", "cali?"]).len(), 1);
        assert!(contradict(&["cali*", "cali*"])[0].contains("twice"));
        for fine in
            [["cali*", "cali7"], ["cali*", "cali?"], ["cali[0-9]*", "cali*"], ["eth*", "cali*"], ["c*i", "c*al*"]]
        {
            assert_eq!(contradict(&fine), [""; 0], "{fine:?}");
        }
    }

    #[test]
    fn so_many_patterns_are_one_fault() {
        let globs: Vec<String> = (0..10_000).map(|number| format!("cali{number}")).collect();
        let mut faults = Vec::new();
        contradictions("budget", &globs, &mut faults);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("10000 patterns"), "{faults:?}");
    }
}
